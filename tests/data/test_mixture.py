"""Batches of pairs with images and texts alone beside them: sources, shapes, resuming, the ledger."""

import numpy as np
import pytest

from mmjax import inputs, licences
from mmjax.core.errors import UserError
from mmjax.data import mixture
from mmjax.data.pipeline import DROPPED
from mmjax.data.prefetch import prefetch_to_device
from mmjax.data.sources import open_source
from mmjax.data.tokenizers import SentencePiece

PIECES = SentencePiece.train(["a red circle", "a blue square"], 272)
LINES = ["a red square", "a blue circle", "", "red", "blue square, red circle"]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes("\n".join(LINES * 20).encode() + b"\n\xff\xfe not UTF-8\n" * 20)
    return f"text:{path}"


def config(name="beit3", task=None, **alone):
    system = {"beit3": {"name": "beit3", "tasks": ("mdm",), "target": "pixels"},
              "vlmo": {"name": "vlmo", "tasks": ("mlm",)}}[name]  # fmt: skip
    system |= {"width": 8, "depth": 1, "heads": 2, "img": {"image_size": 16, "patch": 8},
               "txt": {"vocab": 300, "length": 12, "mask_id": 299}}  # fmt: skip
    data = {"train": "emoji:test?style=noto", "batch_size": 8, "text_length": 8, "image": {"preset": "sprite"},
            "text": {"forms": {"label": 1, "text": 1}}, "task": task or {"kind": "masked", "modality": "all"},
            "alone": alone}  # fmt: skip
    return {"seed": 3, "system": system, "data": data}


def made(*args, **alone):
    return inputs.make_pipeline(config(*args, **alone), {}, PIECES)


def three(corpus):
    return made(image={"train": "emoji:val?style=noto", "share": 0.5},
                text={"train": corpus, "share": 2.0, "text_length": 6})  # fmt: skip


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_every_kind_from_its_own_source(corpus):
    found, shapes = three(corpus), {}
    for batch in (found[0], found[7]):
        shapes = {key: value.shape for key, value in batch.items()}
        texts = {PIECES.decode(row[ok]) for row, ok in zip(batch["alone_ids"], batch["alone_valid"], strict=True)}
        cut = {PIECES.decode(row[ok]) for row, ok in zip(*PIECES.batch(LINES, 6), strict=True)}
        assert texts <= cut and "begins" not in batch
    assert shapes == {"image": (8, 16, 16, 3), "ids": (8, 8), "valid": (8, 8), "index": (8,),
                      "alone_image": (4, 16, 16, 3), "alone_ids": (16, 6), "alone_valid": (16, 6)}  # fmt: skip
    # The pairs are what they are without the others, and so are these: each is a pipeline of its own.
    same({key: value for key, value in found[5].items() if not key.startswith(mixture.PREFIX)}, made()[5])
    same({"image": found[5]["alone_image"]}, {"image": found.parts["image"][5]["image"]})
    planned = inputs.stage_batch(config(image={"train": "emoji:val?style=noto", "share": 0.5},
                                        text={"train": corpus, "share": 2.0, "text_length": 6}), {}, 8)  # fmt: skip
    assert {key: shape.shape for key, shape in planned.items()} == {k: v for k, v in shapes.items() if k != "index"}


def test_one_source_for_pairs_and_for_images_alone_has_two_orders():
    batch = made(image={"train": "emoji:test?style=noto"})[0]
    assert batch["alone_image"].shape == batch["image"].shape
    assert not np.array_equal(batch["alone_image"], batch["image"])


def test_a_stage_of_one_kind_reads_that_source(corpus):
    texts = made("vlmo", {"kind": "masked", "modality": "text"}, text={"train": corpus, "text_length": 6})
    assert list(texts.lengths) == [corpus] and texts[0]["ids"].shape == (8, 6) and "image" not in texts[0]
    images = made("vlmo", {"kind": "masked", "modality": "image"},
                  image={"train": "emoji_scenes:train?parts=image&size=16&length=20"})  # fmt: skip
    assert set(images[0]) == {"image", "index"}  # the source has no texts
    pairs = made("vlmo", {"kind": "masked", "modality": "pair"}, text={"train": corpus})
    assert list(pairs.lengths) == ["emoji:test?style=noto"]


def test_resumes_where_it_was(corpus):
    batches = iter(three(corpus))
    seen = [next(batches) for _ in range(5)]
    batches.set_state(state := {**batches.get_state(), "step": 3})
    for batch in seen[3:]:
        same(next(batches), batch)
    batches.close()
    other = iter(made(image={"train": "emoji:val?style=noto", "share": 0.5},
                      text={"train": "emoji:val?style=noto", "share": 2.0, "text_length": 6}))  # fmt: skip
    with pytest.raises(UserError, match=r"order cannot be continued: text\.sources\[0\]\.name was 'text:.*corpus"):
        other.set_state(state)


def test_what_cannot_be_used_is_told_of_its_source(corpus):
    found = three(corpus)
    batches = iter(found)
    told = [item for _ in range(6) for _ in [next(batches)] for item in batches.dropped]
    batches.close()
    assert told and {(item.source, item.reason) for item in told} == {(corpus, "bad text encoding")}
    assert all(item.index >= 80 for item in told) and DROPPED not in found[0]
    pairs, images = (f"emoji:{split}?style=noto" for split in ("test", "val"))
    assert found.lengths == {pairs: len(open_source(pairs)), images: len(open_source(images)), corpus: 100}
    assert found.seen(6) == {pairs: 48, images: 24, corpus: 96}
    both = made(image={"train": "emoji:test?style=noto"})
    share = 17 * 8 / len(open_source(pairs))  # of its places, in each of two orders
    assert both.seen(17) == {pairs: round(len(open_source(pairs)) * (1 - (1 - share) ** 2))}


def test_devices_get_rows_of_every_kind(corpus, mesh8):
    from mmjax.core import sharding

    pipeline = inputs.make_pipeline(config(text={"train": corpus, "share": 2.0}), {}, PIECES, mesh8)
    with inputs.open_batches(pipeline, sharding.batch_sharding(mesh8)) as batches:
        batch = next(batches)
    same({key: np.asarray(value) for key, value in batch.items()}, pipeline[0])
    assert batch["alone_ids"].addressable_shards[0].data.shape == (2, 8)
    with pytest.raises(UserError, match="batch size 4 does not divide over 8 devices"):
        inputs.make_pipeline(config(text={"train": corpus, "share": 0.5}), {}, PIECES, mesh8)
    # The rows that a process has are those of each kind.
    whole = inputs.make_pipeline(config(text={"train": corpus, "share": 2.0}), {}, PIECES)[0]
    placed = prefetch_to_device(iter([whole]), sharding.batch_sharding(mesh8), rows=range(8), batch_size=8,
                                apart={"alone_ids": (range(16), 16), "alone_valid": (range(16), 16)})  # fmt: skip
    with placed as batches:
        same({key: np.asarray(value) for key, value in next(batches).items()}, whole)


def test_mistakes(corpus):
    with pytest.raises(UserError, match=r"alone\.text\.share = 0\.01 of 8 pairs is 0 rows"):
        made(text={"train": corpus, "share": 0.01})
    with pytest.raises(UserError, match=r"alone\.text\.train = 3; valid: a source's spec"):
        made(text={"train": 3})
    with pytest.raises(UserError, match=r'config\.data\.alone\.images does not exist; did you mean "image"'):
        made(images={"train": corpus})
    with pytest.raises(UserError, match=r"config\.data\.alone\.text\.rows does not exist"):
        made(text={"train": corpus, "rows": 3})
    with pytest.raises(UserError, match="modality = 'all': the system vlmo learns of one kind at a time"):
        made("vlmo")
    assert list(made(text={"train": ""}).lengths) == ["emoji:test?style=noto"]  # of the pairs


def test_licences_are_of_all_sources(tmp_path):
    found = licences.of_run(config(image={"train": "easy_vqa:train"}, text={"train": ""}))
    assert {"easy-vqa", "emoji: Noto Emoji"} <= {item["name"] for item in found}
