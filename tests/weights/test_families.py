"""Families of published checkpoints: what they share, and entries of a file that repeat others."""

import numpy as np
import pytest

from mmjax.commands import convert
from mmjax.core.errors import UserError
from mmjax.weights import families, files
from mmjax.weights.layout import Alias, Row, Table

TABLE = Table("tied", (Row("words", "embed"), Row("at", "at", collection="queue", dtype="int64")), (), {},
              (Alias("out", "words", "the output map is the embedding"),))  # fmt: skip
SHAPES = {"params/embed": (2, 3), "queue/at": ()}


def store(folder, **tensors):
    files.write_safetensors(folder / files.WEIGHTS, tensors)
    return files.open_tensors(folder)


def test_the_command_offers_every_layout():
    assert set(convert.LAYOUTS) == {*families.LAYOUTS, "mmjax"}


def test_a_system_without_a_published_layout_is_named():
    with pytest.raises(UserError, match="'nothing' has no published layout"):
        families.family_of({"name": "nothing"})


def test_a_tied_tensor_is_read_once_and_written_twice(tmp_path):
    words = np.arange(6, dtype=np.float16).reshape(2, 3)
    tensors = store(tmp_path, words=words, out=words, at=np.int64(7))
    flat, account = TABLE.read(tensors, SHAPES, "file")
    assert flat["params/embed"].dtype == np.float32 and flat["queue/at"].dtype == np.int32 and flat["queue/at"] == 7
    assert account.ignored == {"out": "repeats words: the output map is the embedding"}
    back = TABLE.published(flat, account.stored)
    assert {key: (array.dtype, array.tolist()) for key, array in back.items()} == {
        "words": (np.float16, words.tolist()),
        "out": (np.float16, words.tolist()),
        "at": (np.int64, 7),
    }
    assert TABLE.published(flat)["at"].dtype == np.int64


def test_a_tied_tensor_may_be_missing_but_not_differ(tmp_path):
    words = np.ones((2, 3), np.float32)
    assert TABLE.read(store(tmp_path, words=words, at=np.int64(0)), SHAPES, "file")[1].ignored == {}
    tensors = store(tmp_path, words=words, out=2 * words, at=np.int64(0))
    with pytest.raises(UserError, match="out is not words, but the output map is the embedding"):
        TABLE.read(tensors, SHAPES, "file")
