"""The English of emoji_scenes: articles, plurals, names, and the texts themselves."""

import re
from collections import Counter

import pytest

from mmjax.data import emoji, scenes
from mmjax.data.scenes.language import Name, article, listing, plural
from mmjax.data.scenes.names import name_of_label
from mmjax.data.scenes.things import EVERYDAY, open_world


@pytest.mark.parametrize(
    ("expected", "phrases"),
    [
        ("a", "dog|unicorn|one-piece swimsuit|euro banknote|ewe|uniform|hot dog|yo-yo|T-Rex|DVD|NEW button|ukulele"),
        ("an", "apple|hour|hourglass|umbrella|honest man|x-ray|SOS button|ATM sign|up arrow|unamused face|ear|ID card"),
        ("a", "small apple|used car|blue egg|universal remote|flag of Austria|ballot box|European castle"),
        (
            "an",
            "old key|UP! button|eight-pointed star|upside-down face|office worker|orange book|ox|uneven table|ink pot",
        ),
    ],
)
def test_article_follows_the_sound(expected, phrases):
    assert {phrase: article(phrase) for phrase in phrases.split("|")} == dict.fromkeys(phrases.split("|"), expected)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("fox", "foxes"),
        ("strawberry", "strawberries"),
        ("turkey", "turkeys"),
        ("mouse", "mice"),
        ("computer mouse", "computer mice"),
        ("goose", "geese"),
        ("fallen leaf", "fallen leaves"),
        ("kitchen knife", "kitchen knives"),
        ("fish", "fish"),
        ("sheep", "sheep"),
        ("jellyfish", "jellyfish"),
        ("wolf", "wolves"),
        ("giraffe", "giraffes"),
        ("potato", "potatoes"),
        ("man", "men"),
        ("snowman", "snowmen"),
        ("woman teacher", "women teachers"),
        ("person climbing", "people climbing"),
        ("face screaming in fear", "faces screaming in fear"),
        ("cup with a straw", "cups with a straw"),
        ("flag of Norway", "flags of Norway"),
        ("ring", "rings"),
        ("playground slide", "playground slides"),
        ("sun behind a cloud", "suns behind a cloud"),
    ],
)
def test_plural(one, many):
    assert plural(one) == many


def test_listing_and_counted_phrases():
    assert [listing(["a"]), listing(["a", "b"]), listing(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    owl = Name("owl", "owls")
    assert [
        owl.counted(1),
        owl.counted(1, "big"),
        owl.counted(3),
        owl.counted(2, "tiny"),
        owl.counted(1, number=True),
    ] == [
        "an owl",
        "a big owl",
        "three owls",
        "two tiny owls",
        "one owl",
    ]
    assert [owl.definite(1), owl.definite(2), owl.definite(2, number=True)] == ["the owl", "the owls", "the two owls"]


@pytest.mark.parametrize(
    ("label", "group", "subgroup", "name"),
    [
        ("flag: France", "flags", "country-flag", ("flag of France", "flags of France")),
        (
            "flag: Cayman Islands",
            "flags",
            "country-flag",
            ("flag of the Cayman Islands", "flags of the Cayman Islands"),
        ),
        ("flag: United States", "flags", "country-flag", ("flag of the United States", "flags of the United States")),
        ("man: red hair", "people-body", "person", ("man with red hair", "men with red hair")),
        ("woman: bald", "people-body", "person", ("bald woman", "bald women")),
        ("three-thirty", "travel-places", "time", ("clock showing three thirty", "clocks showing three thirty")),
        ("jeans", "objects", "clothing", ("pair of jeans", "pairs of jeans")),
        ("bread", "food-drink", "food-prepared", ("loaf of bread", "loaves of bread")),
        ("man with veil", "people-body", "person-role", ("man with a veil", "men with a veil")),
        ("dizzy", "smileys-emotion", "emotion", None),
        ("family: man, woman, boy", "people-body", "family", None),
        ("Aries", "symbols", "zodiac", None),
        ("white small square", "symbols", "geometric", None),
    ],
)
def test_names_from_labels(label, group, subgroup, name):
    found = name_of_label(label, group, subgroup)
    assert (found and tuple(found)) == name


def test_tables_speak_of_labels_that_exist():
    from mmjax.data.scenes import names

    labels = {concept.labels["en"] for concept in emoji.concepts()}
    assert set(names._OTHERWISE) | set(names._OUT) | set(EVERYDAY) <= labels


def test_names_of_world_all_are_plain_noun_phrases():
    for thing in open_world("all", emoji.TRAIN_STYLES).things:
        for phrase in thing.name:
            assert re.fullmatch(r"[\w’'.,\-() ]+", phrase), phrase
            assert phrase == phrase.strip() and not re.match(r"(a|an|the) ", phrase), phrase
        assert thing.name.one != thing.name.many or thing.name.one.split()[-1] in SAME, thing.name


SAME = {"fish", "deer", "bison", "moose", "squid", "shrimp", "blowfish", "jellyfish"}


def texts_of(source, count):
    for index in range(count):
        example = source[index]
        yield from example["texts"]
        yield from (question for question, _, _ in example["questions"])
        yield from (text for _, text in example["conversation"])
        yield from (expression for expression, _ in example["referring"])


@pytest.mark.parametrize("arg", ["train", "all-train"])
def test_texts_have_right_articles_numbers_and_spaces(arg):
    for text in texts_of(scenes.open(arg, parts="all"), 50):
        assert "  " not in text and text == text.strip(), text
        assert not re.search(r"[{}]|\bNone\b|-1", text), text
        for found in re.finditer(r"\b([Aa]n?) ((?:[\w’'\-]+!?)(?: [\w’'\-]+)?)", text):
            assert found[1].lower() == article(found[2]), text
        assert not re.search(r"\b(is|Is) (two|three|four|five|six)\b", text), text
        assert not re.search(r"\b[Tt]here are (a|an|one)\b", text), text
        assert not re.search(r"\bthe the\b|\ba the\b|\bof of\b", text), text
        if text[0].isupper():
            assert text[-1] in ".?", text


def test_number_words_agree_with_nouns():
    """After 'two' and more comes a plural, after 'a', 'an' and 'one' a singular, in every text of the default world."""
    many = {names[1] for names in EVERYDAY.values()}
    one = {names[0] for names in EVERYDAY.values()}
    sizes = r"(?:(?:big|large|small|little|tiny) )?+"
    plurals, singulars = ("|".join(sorted(group, key=len, reverse=True)) for group in (many, one))
    things = "|thing|things|object|objects|item|items|picture|image|drawing|scene"
    after_many = re.compile(rf"\b(?:two|three|four) {sizes}(?!(?:{plurals}{things})\b)\w+")
    after_one = re.compile(rf"\b(?:a|an|one) {sizes}(?:(?!(?:{singulars})\b)(?:{plurals}))\b")
    for text in texts_of(scenes.open(parts="all"), 70):
        assert not re.search(r"\b(?:two|three|four) in total", text) or text.startswith("There are")
        if "in total" not in text:
            assert not after_many.search(text), text
        assert not after_one.search(text), text


def test_captions_are_five_different_and_varied():
    source = scenes.open(parts="captions")
    openings = Counter()
    everything = set()
    for index in range(300):
        texts = source[index]["texts"]
        assert len(set(texts)) == 5, texts
        openings.update(" ".join(text.split()[:2]) for text in texts)
        everything.update(texts)
    assert len(everything) > 1300
    assert openings.most_common(1)[0][1] < 0.15 * 1500
