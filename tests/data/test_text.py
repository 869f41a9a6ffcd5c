import collections

import numpy as np
import pytest

from mmjax.core.errors import BadExample, UserError
from mmjax.data import text

CAT = {
    "key": "1f431",
    "texts": ["cat face", "a cat's face"],
    "labels": {"en": "cat face", "de": "Katzengesicht"},
    "tags": {"en": ["cat", "pet", "face", "whiskers"], "de": ["Katze"]},
}


def draws(config: dict, example: dict | None = None, n: int = 300) -> collections.Counter:
    rng = np.random.Generator(np.random.Philox(7))
    choose = text.from_config(config)
    return collections.Counter(choose(example or CAT, rng) for _ in range(n))


def test_first_and_text():
    assert set(draws({"forms": {"first": 1}})) == {"cat face"}
    assert set(draws({})) == set(CAT["texts"])


def test_forms_follow_their_weights():
    counts = draws({"forms": {"label": 3, "tags": 1}, "max_tags": 1}, n=4000)
    assert counts["cat face"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert set(counts) == {"cat face", *CAT["tags"]["en"]}


def test_tags_are_shuffled_without_repeats():
    counts = draws({"forms": {"label_tags": 1}, "max_tags": 3}, n=2000)
    lengths = set()
    for phrase in counts:
        label, *tags = phrase.split(", ")
        assert label == "cat face" and len(set(tags)) == len(tags) and set(tags) <= set(CAT["tags"]["en"])
        lengths.add(len(tags))
    assert lengths == {1, 2, 3}
    assert len(counts) == 4 + 12 + 24  # every ordered choice of 1, 2 and 3 of 4 tags


def test_languages_and_templates():
    config = {"forms": {"prompt": 1}, "languages": ["en", "de", "fr"], "templates": ["a {}.", "photo"]}
    counts = draws(config, n=2000)
    assert "a Katzengesicht." in counts and "a photo of a cat face." in counts
    assert len(counts) == 2 * (1 + len(text.TEMPLATES["photo"]))


def test_half_of_the_texts_lose_words_but_never_all():
    long = {"key": "x", "texts": ["one two three four"]}
    counts = draws({"drop_words": 0.5}, long, n=4000)
    whole = 0.5 + 0.5 * 0.5**4
    assert counts["one two three four"] / 4000 == pytest.approx(whole, abs=0.03)
    assert {"one", "two", "three", "four", "one three"} <= set(counts) and "" not in counts
    kept = sum(len(phrase.split()) * n for phrase, n in counts.items()) / 4000
    assert kept == pytest.approx(4 * 0.75 + 0.5 * 0.5**4, abs=0.05)  # nothing left: one word stays


def test_a_form_without_material_is_left_out():
    bare = {"key": "x", "labels": {"en": "star"}, "tags": {"en": []}}
    assert set(draws({"forms": {"label_tags": 5, "tags": 5, "text": 5, "label": 1}}, bare)) == {"star"}
    with pytest.raises(UserError, match="'x' has no text for the forms"):
        draws({"forms": {"tags": 1}}, bare)
    with pytest.raises(UserError, match=r"labels in \['en'\]"):
        draws({"forms": {"label": 1}, "languages": ["de"]}, bare)


@pytest.mark.parametrize(
    ("config", "example"),
    [
        ({}, {"texts": ["  ", "&nbsp;\n"]}),
        ({}, {"texts": []}),
        ({"clean": False}, {"texts": [" "]}),
        ({"forms": {"label": 1, "tags": 1}}, {"labels": {"en": " "}, "tags": {"en": [" "]}}),
    ],
)
def test_blank_texts_make_a_bad_example(config, example):
    choose = text.from_config(config)
    for call in (choose.check, lambda item: choose(item, np.random.default_rng(0))):
        with pytest.raises(BadExample, match="empty caption") as caught:
            call({"key": "x", **example})
        assert caught.value.key == "x"


def test_blank_texts_are_not_drawn():
    assert set(draws({}, {"key": "x", "texts": [" ", "a", "&nbsp;", "b"]})) == {"a", "b"}
    assert set(draws({"forms": {"first": 1}}, {"key": "x", "texts": ["\n", "a", "b"]})) == {"a"}
    assert set(draws({"clean": False}, {"key": "x", "texts": ["&nbsp;"]})) == {"&nbsp;"}
    tags = {"key": "x", "labels": {"en": ""}, "tags": {"en": ["", "a"]}}
    assert set(draws({"forms": {"tags": 1, "label": 5}}, tags)) == {"a"}


def test_clean():
    assert text.clean(" salt&amp;amp; \n pepper\t") == "salt& pepper"
    assert text.clean("cafe\u0301") == "caf\u00e9"
    raw = {"key": "x", "texts": ["a  b"]}
    assert set(draws({"clean": False}, raw)) == {"a  b"} and set(draws({}, raw)) == {"a b"}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"form": {"label": 1}}, "'form'; valid: forms.*did you mean 'forms'"),
        ({"forms": {"lable": 1}}, "label_tags"),
        ({"forms": {"label": 0}}, "positive"),
        ({"forms": {"label": -1}}, "positive"),
        ({"templates": ["an emoji"]}, "one {}"),
        ({"templates": "emoji"}, "a list"),
        ({"languages": "en"}, "a list"),
        ({"languages": []}, "a list"),
        ({"max_tags": 0}, "at least 1"),
        ({"drop_words": 1.0}, "drop_words"),
    ],
)
def test_mistakes_are_named(config, says):
    with pytest.raises(UserError, match=says):
        text.from_config(config)
