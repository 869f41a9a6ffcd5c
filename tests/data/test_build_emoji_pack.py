"""The build script's rules, against the committed pack (the build itself needs downloads: `--check` compares it)."""

import importlib.util
import io
import json
import pathlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import UserError
from mmjax.data import emoji

PATH = pathlib.Path(__file__).parents[2] / "experiments" / "packs" / "build_emoji_pack.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_emoji_pack", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_splits_follow_from_the_families(script):
    members = Counter(concept.family for concept in emoji.concepts())
    for concept in emoji.concepts():
        assert concept.split == script.split_of(concept.family, members[concept.family])


def test_committed_families_follow_from_keys_and_equal_pictures(script):
    joined = [c.key for c in emoji.concepts() if c.family != script.variant_family(c.key)]
    # Equal flags (Norway and Svalbard, …), and one pair that Fluent draws alike: "cat face" and "grinning cat".
    assert len(joined) < 15
    assert all(script.is_country_flag(key) or key == "1f63a" for key in joined), joined


def test_manifest_names_what_the_script_pins(script):
    manifest = json.loads((emoji.PACK / "manifest.json").read_text())
    pinned = {name: {"file": file, "sha256": digest} for name, (file, digest) in script.ARCHIVES.items()}
    assert manifest["archives"] == pinned
    assert (manifest["pillow"], manifest["libwebp"]) == (script.PILLOW, script.LIBWEBP)
    assert (emoji.PACK / "NOTICE").read_bytes() == script.NOTICE.read_bytes()


def test_sprites_shrink_without_hidden_colour(script):
    """Opaque white beside transparent black: no grey seam in the colours."""
    pixels = np.zeros((256, 264, 4), np.uint8)
    pixels[:, 132:] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    sprite = np.asarray(script.to_sprite(out.getvalue()))
    assert sprite.shape == (64, 64, 4)
    seen = sprite[..., 3] > 16
    assert seen.mean() == pytest.approx(62 * 32 / 64**2, abs=0.02)  # fitted, not stretched
    assert sprite[seen][:, :3].min() > 240


def test_sheet_order(script):
    red, blue = (Image.new("RGBA", (64, 64), colour) for colour in ("red", "blue"))
    order = [str(i) for i in range(script.COLUMNS + 2)]
    pixels = np.asarray(script.sheet({"1": red, order[-1]: blue}, order))
    assert pixels.shape == (128, 64 * script.COLUMNS, 4)
    assert tuple(pixels[0, 64]) == (255, 0, 0, 255)
    assert tuple(pixels[64, 64]) == (0, 0, 255, 255)
    assert pixels[..., 3].sum() == 2 * 64 * 64 * 255


def test_compression_repeats(script):
    assert script.compress(b"abc") == script.compress(b"abc")


def test_changed_archive_is_refused(script, tmp_path):
    for name, _ in script.ARCHIVES.values():
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(UserError, match="pinned to"):
        script.fetch(tmp_path)
