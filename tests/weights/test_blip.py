"""BLIP's checkpoints: read and written again bit for bit, from one layout to the other, and recognised."""

import pathlib

import numpy as np
import pytest
import safetensors.numpy

from mmjax.commands import models
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.weights import surgery

VARIANTS = ("pretrain_a", "vqa_a", "hf_caption_a")


def tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back(variant: str, golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = golden / "blip" / variant
    loaded = surgery.load(source, models.shapes)
    layout = "hf" if variant.startswith("hf") else "blip"
    surgery.export(loaded.variables, loaded.system, layout, tmp_path, origin=loaded.origin)
    before, after = tensors(source), tensors(tmp_path)
    tied = {key for key in after if key not in before}  # Hugging Face's file leaves out the tied output map
    assert tied == ({f"text_decoder.cls.predictions.decoder.{part}" for part in ("weight", "bias")}
                    if layout == "hf" else set())  # fmt: skip
    for key, array in before.items():
        np.testing.assert_array_equal(after[key], array, err_msg=key)
        assert after[key].dtype == array.dtype and after[key].shape == array.shape


def test_what_a_pre_trained_model_holds(golden: pathlib.Path) -> None:
    loaded = surgery.load(golden / "blip" / "pretrain_a", models.shapes)
    stored = tensors(golden / "blip" / "pretrain_a")
    assert set(loaded.variables) == {"params", "queue", "teacher"}
    assert (loaded.system["dec_id"], loaded.system["enc_id"], loaded.system["queue"]) == (118, 119, 16)
    queue = loaded.variables["queue"]["past"]
    np.testing.assert_array_equal(queue["img"], stored["image_queue"].T)
    assert set(queue) == {"img", "txt", "pointer"} and queue["pointer"] == stored["queue_ptr"][0]
    teacher = trees.flatten(loaded.variables["teacher"])
    assert set(teacher) < set(trees.flatten(loaded.variables["params"]))
    assert not any("_dec" in path or "head" in path for path in teacher)


@pytest.mark.parametrize(("variant", "layout"), [("vqa_a", "hf"), ("hf_caption_a", "blip")])
def test_from_one_layout_to_the_other(variant: str, layout: str, golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    loaded = surgery.load(golden / "blip" / variant, models.shapes)
    surgery.export(loaded.variables, loaded.system, layout, tmp_path, origin=loaded.origin)
    again = surgery.load(tmp_path, models.shapes)
    assert again.origin.layout == layout
    one, two = (trees.flatten(each.variables["params"]) for each in (loaded, again))
    assert one.keys() == two.keys() and all(np.array_equal(one[path], two[path]) for path in one)
    differ = {key for key in loaded.system if loaded.system[key] != again.system.get(key)}
    allowed = {"enc_id", "smoothing", "txt", "dec", "img"}  # eps and rates are spelled out by one layout alone
    assert differ <= allowed and again.system["img"]["heads"] == loaded.system["img"]["heads"]


def test_what_a_layout_cannot_hold(golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    loaded = surgery.load(golden / "blip" / "pretrain_a", models.shapes)
    with pytest.raises(UserError, match="'hf' cannot hold this system: it has no momentum copies and no queue"):
        surgery.export(loaded.variables, loaded.system, "hf", tmp_path, origin=loaded.origin)


def test_without_a_configuration(golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The published files come without one: sizes are the tensors', heads are 64 wide."""
    (tmp_path / "model.safetensors").write_bytes((golden / "blip" / "vqa_a" / "model.safetensors").read_bytes())
    system, layout = surgery.read_system(tmp_path / "model.safetensors")
    assert (layout, system["task"], system["txt"]["heads"]) == ("blip", "vqa", 1)
    assert (system["dec_id"], system["enc_id"]) == (118, 119)
    assert {key: system["img"][key] for key in ("image_size", "patch", "width", "depth", "mlp_dim")} == {
        "image_size": 32, "patch": 8, "width": 32, "depth": 2, "mlp_dim": 64}  # fmt: skip
