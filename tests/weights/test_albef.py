"""ALBEF's layout there and back, for every form, with and without momentum copies and token types."""

import numpy as np
import pytest

from mmjax.commands import models
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.weights import albef, files, surgery

IMG = {"image_size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2, "mlp_dim": 24}
TXT = {"vocab": 30, "length": 9, "width": 12, "depth": 3, "heads": 3, "mlp_dim": 20, "types": 2, "cross_from": 1,
       "act": "relu", "eps": 1e-6}  # fmt: skip
CONTRAST = {"embed_dim": 6, "queue": 8}
SYSTEMS = {
    "pretrain": {"task": "pretrain", **CONTRAST},
    "no types": {"task": "pretrain", **CONTRAST, "txt": {**TXT, "types": 0}},
    "no queue": {"task": "retrieval", "embed_dim": 6, "queue": 0},
    "retrieval": {"task": "retrieval", **CONTRAST},
    "vqa": {"task": "vqa", "dec": {**TXT, "depth": 2, "cross_from": 0}},
    "nlvr2": {"task": "nlvr2", "txt": {**TXT, "depth": 5}},
    "ve": {"task": "ve", "classes": 4},
}


def made(name, teacher):
    system = {"name": "albef", "img": IMG, "txt": TXT, **SYSTEMS[name]}
    rng, flat = np.random.default_rng(0), {}
    for path, shape in models.shapes(system).items():
        whole = path in ("queue/past/pointer", "queue/past/ids")
        values = rng.integers(0, 9, shape) if whole else rng.normal(size=shape)
        flat[path] = np.asarray(values, np.int32 if whole else np.float32)
    left_out = ("params/itm_head", "params/tau")
    copies = [path for path in flat if path.startswith("params/") and not path.startswith(left_out)]
    if teacher:
        flat |= {path.replace("params/", "teacher/"): flat[path] + np.float32(1) for path in copies}
    return system, flat


@pytest.mark.parametrize("teacher", [True, False])
@pytest.mark.parametrize("name", SYSTEMS)
def test_there_and_back(name, teacher, tmp_path):
    system, flat = made(name, teacher)
    surgery.export(trees.unflatten(flat), system, "albef", tmp_path / "one")
    loaded = surgery.load(tmp_path / "one", models.shapes)
    found = trees.flatten(loaded.variables)
    assert found.keys() == flat.keys()
    for path, array in flat.items():
        assert found[path].dtype == array.dtype, path
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    assert models.shapes(loaded.system) == models.shapes(system)
    surgery.export(loaded.variables, loaded.system, "albef", tmp_path / "two", origin=loaded.origin)
    for file in (files.WEIGHTS, surgery.CONFIG):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_fixture_survives_mmjax_bit_for_bit(golden, tmp_path):
    source = golden / "albef" / "pretrain_a"
    models.save(models.load(source), "mmjax", tmp_path / "ours")
    models.save(models.load(tmp_path / "ours"), "albef", tmp_path / "back")
    one, two = files.open_tensors(source / files.WEIGHTS), files.open_tensors(tmp_path / "back")
    assert one.keys() == two.keys()
    for key in one.keys():  # noqa: SIM118
        assert one.read(key).dtype == two.read(key).dtype and np.array_equal(one.read(key), two.read(key)), key
    assert files.read_json(source / "config.json") == files.read_json(tmp_path / "back" / "config.json")


def test_without_a_configuration_the_shapes_tell(tmp_path):
    system = {"name": "albef", **SYSTEMS["pretrain"], "img": {**IMG, "width": 64, "heads": 1, "mlp_dim": 256},
              "txt": {**TXT, "width": 64, "heads": 1, "act": "gelu", "eps": 1e-12}}  # fmt: skip
    flat = {path: np.ones(shape, np.float32) for path, shape in models.shapes(system).items()}
    surgery.export(trees.unflatten(flat), system, "albef", tmp_path)
    (tmp_path / "config.json").unlink()
    found, layout = surgery.read_system(tmp_path)
    assert layout == "albef" and models.shapes(found) == models.shapes(system)
    assert found["txt"]["cross_from"] == 1 and found["img"]["heads"] == 1


def test_what_the_layout_cannot_hold_is_refused(tmp_path):
    system, flat = made("pretrain", False)
    system = {**system, "img": {**IMG, "eps": 1e-5}}
    with pytest.raises(UserError, match=r"img\.eps is 1e-05"):
        surgery.export(trees.unflatten(flat), system, "albef", tmp_path)


def test_an_unknown_activation_is_named(golden):
    config = files.read_json(golden / "albef" / "pretrain_a" / "config.json")
    config["bert_config"]["hidden_act"] = "mish"
    with pytest.raises(UserError, match="hidden_act = 'mish'"):
        albef.system_from(config, {"task": "ve", "depth": 4, "types": 2, "queue": 0}, "config.json")


def test_text_assignment_there_and_back(tmp_path):
    """As pretrain_model_nlvr.pth holds it: with a projection and a temperature that are not used."""
    system = {"name": "albef", "task": "assign", "embed_dim": 6, "img": IMG, "txt": {**TXT, "depth": 5}}
    rng = np.random.default_rng(0)
    flat = {path: rng.normal(size=shape).astype(np.float32) for path, shape in models.shapes(system).items()}
    surgery.export(trees.unflatten(flat), system, "albef", tmp_path)
    held = files.open_tensors(tmp_path)
    tensors = {key: held.read(key) for key in held.keys()}  # noqa: SIM118
    assert {"ta_head.weight", "vision_proj.bias"} <= tensors.keys()
    for leaf in ("weight", "bias"):  # both layers of a pair hold the keys
        one, two = (tensors[f"text_encoder.encoder.layer.{i}.crossattention.self.key.{leaf}"] for i in (1, 2))
        np.testing.assert_array_equal(one, two)
    unused = {"text_proj.weight": (6, 12), "text_proj.bias": (6,), "temp": ()}
    files.write_safetensors(tmp_path / files.WEIGHTS, {**tensors, **{k: np.ones(v) for k, v in unused.items()}})
    loaded = surgery.load(tmp_path, models.shapes)
    assert loaded.system["task"] == "assign" and set(unused) <= set(loaded.account.ignored)
    for path, array in trees.flatten(loaded.variables).items():
        np.testing.assert_array_equal(array, flat[path], err_msg=path)
