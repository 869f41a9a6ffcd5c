"""Texts cut at the longest of the global batch, in a few static lengths."""

import json

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import UserError
from mmjax.data import augment, sources, tasks, text
from mmjax.data.example import NO_PICTURE
from mmjax.data.files import base
from mmjax.data.pipeline import Pipeline
from mmjax.data.tokenizers import WordPiece
from tests.data.test_pipeline import Numbers, make


class Uneven(Numbers):
    """Texts of one to six words."""

    def __getitem__(self, i: int) -> dict:
        return {**super().__getitem__(i), "texts": [" ".join([str(i)] * (1 + i * i % 6))]}


def test_texts_are_cut_to_the_bucket_of_the_longest_of_the_global_batch():
    whole = make(Uneven(43), length=8)
    cut = make(Uneven(43), length=8, text_buckets=[3, 6], batch_size=2)
    plain = make(Uneven(43), length=8, batch_size=2)
    seen = set()
    for step in range(21):
        batch, full = cut[step], plain[step]
        longest, size = full["valid"].sum(1).max(), batch["ids"].shape[1]
        assert size == (3 if longest <= 3 else 6) and batch["valid"].shape == (2, size)
        np.testing.assert_array_equal(batch["ids"], full["ids"][:, :size])
        np.testing.assert_array_equal(batch["valid"].sum(1), full["valid"].sum(1))
        seen.add(size)
        for row in (0, 1):  # of two processes, each knows one row
            part = make(Uneven(43), length=8, text_buckets=[3, 6], batch_size=2, rows=[row])[step]
            np.testing.assert_array_equal(part["ids"], batch["ids"][row : row + 1])
            np.testing.assert_array_equal(part["valid"], batch["valid"][row : row + 1])
    assert seen == {3, 6}
    assert make(Uneven(43), length=8, text_buckets=[3, 4])[0]["ids"].shape[1] == 8  # no bucket holds six words
    assert "text_buckets" not in whole.fingerprint and cut.fingerprint["text_buckets"] == [3, 6]


@pytest.mark.parametrize("buckets", [[8], [1], [6, 3], [3, 3]])
def test_buckets_that_are_none(buckets):
    with pytest.raises(UserError, match="text_buckets"):
        make(length=8, text_buckets=buckets)


def test_images_are_decoded_for_the_rows_made_here_alone(tmp_path, monkeypatch):
    """And one that cannot be decoded, which only the process of its row meets, leaves the bucket the same in all."""
    lines = []
    for i in range(12):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
        # The captions of one example differ in length: the draw has to be the same with its image and without.
        captions = [str(i), " ".join([str(i)] * (1 + i % 6))]
        lines.append(json.dumps({"image": f"{i}.png", "texts": captions}))
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:50])
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    source, decoded = sources.open_source(f"jsonl:{tmp_path / 'pairs.jsonl'}"), []
    decode = base.decode_image
    monkeypatch.setattr(base, "decode_image", lambda data: decoded.append(len(data)) or decode(data))

    def batches(rows):
        pipeline = make(source, length=8, text_buckets=[2, 4], batch_size=4, rows=rows)
        decoded.clear()
        found = [pipeline[step] for step in range(6)]
        return found, len(decoded)

    whole, count = batches(None)
    assert 24 < count < 24 + 8  # two epochs, and what stood in for the damaged one
    parts, counts = zip(*(batches([2 * place, 2 * place + 1]) for place in (0, 1)), strict=True)
    assert sum(counts) == count  # nothing is decoded twice
    for step, batch in enumerate(whole):
        for key in ("image", "ids", "valid", "index"):
            np.testing.assert_array_equal(np.concatenate([part[step][key] for part in parts]), batch[key])
    assert {batch["ids"].shape[1] for batch in whole} == {2, 4, 8}


class Everything:
    """Examples for every task, whose texts and questions differ in length; counts the pictures that it makes."""

    alternatives = 1  # pictures of an example, of which a task draws one

    def __init__(self):
        self.pictures = 0

    def __len__(self):
        return 20

    def __getitem__(self, i):
        self.pictures += 1
        return self._with(i, np.full((8, 8, 3), i, np.uint8))

    def without_image(self, i):
        return self._with(i, NO_PICTURE)

    def _with(self, i, picture):
        drawn = ["red", "red blue " * (i % 4) + "red"]
        return {"images": [picture] * self.alternatives, "pictures": [picture] * 2, "label": i % 2, "texts": drawn,
                "questions": [(asked, "yes", "kind") for asked in drawn]}  # fmt: skip


class Alternatives(Everything):
    alternatives = 3


# But "chat": its rows are not cut to buckets (tests/data/test_chat_task.py).
KINDS = [*({"kind": kind} for kind in tasks.TASKS if kind != "chat"), {"kind": "caption", "prompt": "blue "},
         {"kind": "masked", "whole_words": True}, {"kind": "masked", "modality": "text"},
         {"kind": "masked", "modality": "image"}]  # fmt: skip


@pytest.mark.parametrize("source", [Everything, Alternatives])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_task_draws_the_same_text_with_its_image_and_without(kind, source):
    words, buckets = WordPiece.train(["red blue yes"] * 3, 60), [5, 7]

    def batches(rows=None):
        made = source()
        pipeline = Pipeline(made, tokenizer=words, length=10, batch_size=4, seed=1, rows=rows, text_buckets=buckets,
                            task=tasks.from_config(kind), image=augment.from_config({"size": 8, "noise": 1.0}),
                            text=text.from_config({}))  # fmt: skip
        return [pipeline[step] for step in range(10)], made.pictures

    whole, count = batches()
    each = 0 if kind.get("modality") == "text" else 1  # texts alone are read without their images
    assert count == 40 * each
    for rows in ([0, 1], [2], [3]):
        parts, count = batches(rows)
        assert count == 10 * len(rows) * each
        for part, batch in zip(parts, whole, strict=True):
            assert part.keys() == batch.keys()
            for key, array in part.items():
                np.testing.assert_array_equal(array, batch[key][rows], err_msg=key)
    if "ids" in whole[0]:
        sizes = [batch["ids"].shape[1] for batch in whole]
        longest = [batch["valid"].sum(1).max() for batch in whole]
        assert sizes == [next(size for size in (*buckets, 10) if size >= each) for each in longest]
        assert len(set(sizes)) > 1
        assert all(batch[key].shape == batch["ids"].shape for batch in whole for key in ("mask_loss", "begins", "valid")
                   if key in batch)  # fmt: skip
