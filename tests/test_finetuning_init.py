"""Fine-tuning of ALBEF and BLIP begins with every weight of pre-training that its model has a place for."""

import pathlib
import re

import numpy as np
import pytest

from mmjax import initial, main, systems
from mmjax.commands import models
from mmjax.core import config as configs
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.stacking import unstack_blocks
from tests.beginning import CONFIGS, Arrays, begun, compare, recipe

IMG = {"image_size": 16, "patch": 8, "width": 8, "depth": 1, "heads": 2}
TXT = {"vocab": 20, "length": 6, "width": 8, "depth": 3, "heads": 2}
BERT = {**TXT, "cross_from": 1}
ALBEF = {"name": "albef", "task": "pretrain", "embed_dim": 4, "queue": 8, "mask_id": 4, "img": IMG, "txt": BERT}
ASSIGN = {"name": "albef", "task": "assign", "embed_dim": 4, "img": IMG, "txt": {**BERT, "depth": 5}}
NLVR2 = {"name": "albef", "task": "nlvr2", "img": IMG, "txt": {**BERT, "depth": 5}}
BLIP = {"name": "blip", "task": "pretrain", "embed_dim": 4, "queue": 8, "img": IMG, "txt": TXT}


def stored(system: dict, folder: pathlib.Path) -> Arrays:
    """A checkpoint of random numbers in a folder; its parameters."""
    rng, flat = np.random.default_rng(0), {}
    for path, shape in models.shapes(system).items():
        flat[path] = np.asarray(rng.normal(size=shape), np.int32 if path.endswith("pointer") else np.float32)
    models.save(models.Model(system, trees.unflatten(flat), "mmjax", None, None, None, ""), "mmjax", folder)
    return {path.removeprefix("params/"): array for path, array in flat.items() if path.startswith("params/")}


def config_module(name: str):
    return configs.sibling(str(CONFIGS / "albef" / "x.py"), name)


def check(init: object, system: dict, expected: Arrays, left: set[str]) -> None:
    """What is expected is there, and at random are the top modules that are named, and no other."""
    found, random, _ = begun(init, system)
    compare(found, random, expected)
    assert {path.split("/")[0] for path in set(found) - set(expected)} == left


def test_albefs_decoder_begins_as_its_fusion_layers(tmp_path: pathlib.Path) -> None:
    there = stored(ALBEF, tmp_path)
    tower = {path: array for path, array in there.items() if path.split("/")[0] in ("img", "txt")}
    expected = {path: array for path, array in tower.items() if "head" not in path}
    expected |= {
        path.replace("txt/", "dec/"): array
        for path, array in tower.items()
        if path.startswith("txt/") and not path.startswith("txt/text/")
    }
    assert {"dec/head/dense/kernel", "dec/head_bias", "dec/fusion/block_1/cross/k/kernel", "dec/types"} <= set(expected)
    system = {"name": "albef", "task": "vqa", "img": IMG, "txt": BERT, "dec": {**TXT, "depth": 2, "cross_from": 0}}
    check(config_module("vqa").answers(str(tmp_path)), system, expected, set())


def doubled(there: Arrays) -> Arrays:
    """Of ALBEF's fusion layers two each, which share keys and values."""
    made: Arrays = {path: there[path] for path in there if path.startswith("img/")}
    for path, array in there.items():
        if match := re.fullmatch(r"txt/fusion/block_(\d)/(.*)", path):
            pair, rest = int(match[1]), match[2]
            if shared := re.fullmatch(r"cross/([kv])/(.*)", rest):
                made[f"twin/{shared[1]}_{pair}/{shared[2]}"] = array
            else:
                made |= {f"twin/block_{2 * pair + which}/{rest}": array for which in range(2)}
        elif path.startswith("txt/") and "head" not in path:
            made[path] = array
    return made


def test_albefs_layers_are_doubled_for_two_images(tmp_path: pathlib.Path) -> None:
    """From pre-training to text assignment, from that to NLVR2, and there at once."""
    there = stored(ALBEF, tmp_path / "pretrained")
    expected, config, path = doubled(there), config_module("nlvr2"), str(tmp_path / "pretrained")
    assert len(expected) > 60 and "twin/block_3/cross/q/kernel" in expected and "twin/v_1/bias" in expected
    projection = {f"img_proj/{leaf}": there[f"img_proj/{leaf}"] for leaf in ("kernel", "bias")}
    load = ("img/.*", "img_proj/.*", "txt/.*")
    check(config.doubled(load, path, pairs=2), ASSIGN, expected | projection, {"assign_head"})
    check(config.doubled(("img/.*", "txt/.*"), path, pairs=2), NLVR2, expected, {"fc1", "fc2"})
    between = stored(ASSIGN, tmp_path / "assigned")
    kept = {path: array for path, array in between.items() if path.split("/")[0] in ("img", "txt", "twin")}
    (from_between, _) = configs.plain(configs.load(CONFIGS / "albef" / "nlvr2.py"))["init"]
    check({**from_between, "path": str(tmp_path / "assigned")}, NLVR2, kept, {"fc1", "fc2"})


def blip_parts(there: Arrays, own: str) -> Arrays:
    """Image encoder, and text encoder ("") or decoder ("_dec") of a pre-trained BLIP."""
    other = {"": "_dec/", "_dec": "/"}[own]
    unused = tuple(f"{part}{other}" for part in ("attn", "norm1"))
    return {
        path: array
        for path, array in there.items()
        if path.startswith("img/")
        or (path.startswith("txt/") and not path.partition("block_")[2][2:].startswith(unused))
    }


def test_blips_forms_take_what_they_use(tmp_path: pathlib.Path) -> None:
    there, path, make = stored(BLIP, tmp_path), str(tmp_path), recipe("blip")
    reads = {k: v for k, v in blip_parts(there, "").items() if not k.startswith("txt/head")}
    writes = blip_parts(there, "_dec")
    assert "txt/fusion/block_0/attn_dec/q/kernel" in writes and "txt/fusion/block_0/attn_dec/q/kernel" not in reads
    decoder = {k.replace("txt/", "dec/"): v for k, v in writes.items() if k.startswith("txt/")}
    vqa = {"name": "blip", "task": "vqa", "img": IMG, "txt": TXT, "dec": TXT}
    check(make.answers(path), vqa, reads | decoder, set())
    caption = {"name": "blip", "task": "caption", "img": IMG, "txt": TXT}
    check(make.writes(path), caption, writes, set())
    heads = {k: v for k, v in there.items() if k.split("/")[0] in ("img_proj", "txt_proj", "itm_head", "tau")}
    check(make.contrasts(path), {**BLIP, "task": "retrieval"}, reads | heads, set())


def test_both_of_blips_looks_begin_as_the_one(tmp_path: pathlib.Path) -> None:
    there = stored(BLIP, tmp_path)
    expected = {k: v for k, v in there.items() if k.startswith(("img/", "txt/embed", "txt/norm/", "txt/pos"))}
    for i, new in enumerate(("lower/block_0", "upper/block_0", "upper/block_1")):
        for path, array in there.items():
            part, _, rest = path.removeprefix(f"txt/fusion/block_{i}/").partition("/")
            if not path.startswith(f"txt/fusion/block_{i}/") or part.endswith("_dec"):
                continue
            names = ("cross0", "cross1") if part == "cross" else (part,)
            expected |= {f"{new}/{name}/{rest}": array for name in names}
    system = {"name": "blip", "task": "nlvr2", "img": IMG, "txt": TXT, "merged_from": 1}
    check(recipe("blip").pairs(str(tmp_path), merged=1, depth=3), system, expected, {"upper", "fc1", "fc2"})
    left = set(begun(recipe("blip").pairs(str(tmp_path), merged=1, depth=3), system)[0]) - set(expected)
    assert {path for path in left if path.startswith("upper")} == {
        f"upper/block_{i}/merge/{leaf}" for i in range(2) for leaf in ("kernel", "bias")
    }


def test_cocas_classifier_begins_with_all_of_coca(tmp_path: pathlib.Path) -> None:
    system = {"name": "coca", "embed_dim": 8, "img": {**IMG, "act": "gelu", "cls": False}, "queries": 2,
              "txt": {**TXT, "act": "gelu"}, "dec": {"depth": 1}, "project": False}  # fmt: skip
    there, init = stored(system, tmp_path), configs.plain(configs.load(CONFIGS / "coca" / "vqa.py"))["init"]
    head = {"classes": 3, "class_loss": "sigmoid", "cap_weight": 1.0}
    check({**init, "path": str(tmp_path)}, {**system, **head}, there, {"class_pool", "class_head"})


PRETRAINED = {
    "ALBEF": {"name": "albef", "size": "pretrain_256"},
    "runs/albef_assign": {"name": "albef", "size": "assign_256"},
    "runs/blip": {"name": "blip", "size": "base_pretrain_224"},
}


FORMS = ("albef/vqa.py", "albef/ve.py", "albef/retrieval.py", "albef/nlvr2.py", "albef/nlvr2.py:assign",
         "albef/nlvr2.py:direct", "blip/vqa.py", "blip/nlvr2.py", "blip/caption_coco.py", "blip/retrieval_coco.py",
         "blip/retrieval_flickr.py")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_every_weight_of_the_published_sizes_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By shapes alone; or said to be random on purpose."""
    monkeypatch.setattr(models, "read_system", PRETRAINED.__getitem__)
    config = configs.plain(configs.load(f"{CONFIGS}/{name}"))
    mesh = shd.make_mesh(None)
    with shd.use_mesh(mesh):
        _, boxed, _ = main.abstract_variables(systems.build(config["system"]), config, mesh)
    abstract = shd.unbox(boxed)
    assert set(trees.flatten(unstack_blocks(abstract["params"]))) <= initial.given(config, abstract)
