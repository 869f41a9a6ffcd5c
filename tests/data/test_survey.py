"""The survey: findings on sources whose contents are known, and the contact sheet."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from mmjax.data.sources import open_source
from mmjax.data.survey import THUMBNAIL, contact_sheet, looks, survey
from tests.data import own_data


def write(folder, rows) -> str:
    """A jsonl of (image bytes, text)."""
    folder.mkdir(exist_ok=True)
    lines = []
    for number, (image, text) in enumerate(rows):
        (folder / f"{number}.png").write_bytes(image)
        lines.append(json.dumps({"image": f"{number}.png", "text": text}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return f"jsonl:{folder / 'pairs.jsonl'}"


def photo(seed: int, size: int = 64) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def test_counts_of_a_source_with_damage(tmp_path):
    pairs = own_data.make_pairs(64, own_data.spread(64))
    done = []
    found, items = survey(open_source(own_data.write_jsonl(pairs, tmp_path)), tick=done.append)
    expected = own_data.expected(pairs)
    assert (found.length, found.read, found.usable, found.images) == (64, 64, 64 - 9, 64 - 9)
    assert found.dropped == {reason: list(expected.values()).count(reason) for reason in expected.values()}
    first = next(index for index, reason in expected.items() if reason == "missing file")
    assert found.offenders["missing file"][0].startswith(f"[{first}]")
    assert found.sizes["width"] == {"least": 48, "median": 48, "most": 48, "mean": 48.0}
    odd = {pair.damage for pair in pairs} & own_data.ODD.keys()
    assert found.modes["PNG RGB"] == 64 - 9 - 9
    assert {"JPEG CMYK", "PNG P", "PNG I;16", "PNG RGBA"} <= found.modes.keys() and len(odd) == len(own_data.ODD)
    assert done == [64]
    assert len(items) == 48 and {item.index for item in items}.isdisjoint(expected)
    assert json.loads(json.dumps(found.as_dict()))["usable"] == 55
    text = "\n".join(found.lines())
    assert "64, 55 usable, 55 images" in text and "2 truncated image" in text


def test_captions(tmp_path):
    image = own_data.encode(photo(0))
    texts = ["a cat", "a  cat ", "a red dog on a mat", "a cat", "x"]
    found, _ = survey(open_source(write(tmp_path / "a", [(image, text) for text in texts])))
    assert found.captions == {
        "count": 5, "per_item": 1.0, "blank": 0,
        "characters": {"least": 1, "median": 5, "most": 18, "mean": pytest.approx((5 * 3 + 18 + 1) / 5)},
        "words": {"least": 1, "median": 2, "most": 6, "mean": pytest.approx((2 * 3 + 6 + 1) / 5)},
        "repeated": 2, "repeated_share": 0.4, "most_frequent": [("a cat", 3)],
    }  # fmt: skip


def test_duplicates(tmp_path):
    whole = photo(1)
    png, jpeg = own_data.encode(whole), own_data.encode(whole, "JPEG", quality=70)
    small = own_data.encode(whole.resize((40, 40), Image.Resampling.BICUBIC))
    others = [own_data.encode(photo(seed)) for seed in range(2, 12)]
    flat = [own_data.encode(Image.new("RGB", (32, 32), colour)) for colour in ("red", "blue")]
    rows = [(image, str(i)) for i, image in enumerate([png, *others, jpeg, *flat, small, png])]
    found, _ = survey(open_source(write(tmp_path / "a", rows)))
    assert (found.duplicates["equal_files"], found.duplicates["look_alike"]) == (1, 2)
    kinds = [(kind, a.split()[0], b.split()[0]) for kind, a, b in found.duplicates["pairs"]]
    assert kinds == [("equal", "[0]", "[15]"), ("alike", "[0]", "[11]"), ("alike", "[0]", "[14]")]


def test_looks_survive_scaling_and_compression():
    for seed in range(20):
        hashed, coarse = looks(photo(seed, 96))
        again = Image.open(io.BytesIO(own_data.encode(photo(seed, 96).resize((50, 50)), "JPEG", quality=60)))
        other, colours = looks(again)
        assert (hashed ^ other).bit_count() < 4 and np.abs(coarse.astype(int) - colours).mean() < 6
        assert (hashed ^ looks(photo(seed + 100))[0]).bit_count() > 8


@pytest.mark.parametrize("spec", ["emoji:test?style=fluent", "emoji:val", "emoji_scenes:test?length=30&size=32"])
def test_sources_without_files(spec):
    source = open_source(spec)
    found, items = survey(source, limit=24, shown=10)
    assert (found.length, found.read, found.usable, len(items)) == (len(source), 24, 24, 10)
    images = sum(
        len(source[i].get("images", [0])) for i in np.linspace(0, len(source) - 1, 24).round().astype(int).tolist()
    )
    assert found.images == images == sum(found.modes.values())
    assert not found.dropped and found.captions["blank"] == 0
    sheet = Image.open(io.BytesIO(contact_sheet(items)))
    assert sheet.format == "PNG" and sheet.width > 8 * THUMBNAIL and sheet.height > 2 * THUMBNAIL
    assert len(np.unique(np.asarray(sheet.convert("L")))) > 20


def test_nothing_usable(tmp_path):
    found, items = survey(open_source(write(tmp_path / "a", [(b"<html>", "a"), (b"", "b")])))
    assert (found.usable, items) == (0, []) and found.dropped == {"not an image": 1, "empty file": 1}
    assert "0 usable" in "\n".join(found.lines())
    assert Image.open(io.BytesIO(contact_sheet(items))).format == "PNG"
