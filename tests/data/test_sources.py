import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.data import sources
from mmjax.data.choices import choose
from mmjax.data.example import check_batch


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("emoji", ("emoji", None, {})),
        ("emoji:test", ("emoji", "test", {})),
        ("emoji?lang=en,de", ("emoji", None, {"lang": "en,de"})),
        ("jsonl:/data/a:b.jsonl?x=1&y=2=3", ("jsonl", "/data/a:b.jsonl", {"x": "1", "y": "2=3"})),
    ],
)
def test_parse_spec(spec, expected):
    assert tuple(sources.parse_spec(spec)) == expected


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "no name"),
        (":test", "no name"),
        ("emoji:", "nothing after"),
        ("emoji?", "key=value"),
        ("emoji?style", "'style' is not of the form"),
        ("emoji?style=", "'style=' is not of the form"),
        ("emoji?style=noto&style=noto", "'style' twice"),
        ("emojy:test", "did you mean 'emoji'"),
        ("cocoa", "valid: emoji, emoji_scenes, jsonl"),
        ("emoji:tset", "did you mean 'test'"),
        ("emoji?stlye=noto", "did you mean 'style'"),
    ],
)
def test_mistakes_in_specs(spec, words):
    with pytest.raises(UserError, match=words):
        sources.open_source(spec)


def test_open_source():
    source = sources.open_source("emoji:test?style=fluent&lang=de")
    assert source.name == "emoji:test?style=fluent&lang=de"
    assert source[0]["texts"][0] == "grinsendes Gesicht"
    again = sources.open_source(source.name)
    assert (again.name, len(again)) == (source.name, len(source))


class Opened(list):
    name = "opened"


def opener(arg: str | None, *, number: int = 1, share: float = 0.5, on: bool = False, word: str | None = None):
    return Opened([arg, number, share, on, word])


def test_options_take_the_types_of_the_opener(monkeypatch):
    monkeypatch.setattr(sources, "_import", lambda target: opener)
    monkeypatch.setitem(sources.SOURCES, "counted", "somewhere:opener")
    assert sources.open_source("counted:x?number=3&share=.25&on=true&word=w") == ["x", 3, 0.25, True, "w"]
    assert sources.open_source("counted?on=0") == [None, 1, 0.5, False, None]
    for spec, words in (("counted?number=a", "expected int"), ("counted?on=maybe", "expected bool")):
        with pytest.raises(UserError, match=words):
            sources.open_source(spec)


def test_every_source_can_be_imported():
    for target in sources.SOURCES.values():
        assert callable(sources._import(target)), target


def test_choose():
    assert choose("thing", "a", ("a", "b")) == "a"
    with pytest.raises(UserError, match=r"unknown thing: 'appel'; valid: apple, pear; did you mean 'apple'\?"):
        choose("thing", "appel", ("apple", "pear"))


def batch(**changes):
    return {
        "image": np.zeros((2, 8, 8, 3), np.uint8),
        "ids": np.zeros((2, 5), np.int32),
        "valid": np.ones((2, 5), bool),
        "index": np.arange(2),
    } | changes


def test_check_batch_accepts():
    check_batch(batch(), required=("image", "ids", "valid"))
    check_batch(batch(image=np.zeros((2, 3, 8, 8, 3), np.uint8)))
    check_batch(batch(image=np.zeros((2, 8, 8, 3), np.float32), label=np.zeros(2, np.int32)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imgae": np.zeros(2)}, "did you mean 'image'"),
        ({"image": np.zeros((2, 8, 8, 3))}, "dtype float64, expected uint8 or float32"),
        ({"image": np.zeros((2, 8, 8, 4), np.uint8)}, r"\[2, 8, 8, 4\], expected \[B, Y, X, 3\]"),
        ({"ids": np.zeros((2, 5, 1), np.int32)}, r"expected \[B, T\]"),
        ({"ids": [1, 2]}, "is a list, expected an array"),
        ({"valid": np.ones((2, 6), bool)}, "axis T is 6 in batch"),
        ({"index": np.arange(3)}, "axis B is 3 in batch"),
        ({"valid": np.ones((2, 5), np.int32)}, "dtype int32, expected bool"),
    ],
)
def test_check_batch_refuses(changes, words):
    with pytest.raises(UserError, match=words):
        check_batch(batch(**changes))


def test_check_batch_names_what_is_missing():
    with pytest.raises(UserError, match=r"lacks \['label'\]"):
        check_batch(batch(), required=("ids", "label"))
