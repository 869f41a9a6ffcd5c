"""Every config resolves; those of the paper have its sizes, lower for 256 devices, and train in the form `:smoke`."""

import contextlib
import functools
import json
import math
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from mmjax import checks, inputs, main, systems
from mmjax.commands import models
from mmjax.core import config as configs
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.train.optim import decay_mask
from mmjax.train.stage import make_stage
from mmjax.train.state import begin
from mmjax.train.step import train_step

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.py") if not path.name.startswith("_"))
CLIP = ROOT / "configs" / "clip"

# Radford et al. 2021; counted on the published implementation.
PARAMETERS = {
    "rn50": 102_007_137,
    "rn101": 119_688_033,
    "rn50x4": 178_300_601,
    "rn50x16": 290_979_217,
    "rn50x64": 623_258_305,
    "vit_b32": 151_277_313,
    "vit_b16": 149_620_737,
    "vit_l14": 427_616_513,
    "vit_l14_336": 427_944_193,
}


def each_size(*fast: str) -> list:
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in PARAMETERS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("variant", ["", ":smoke"])
def test_every_config_resolves(path, variant):
    config = configs.plain(configs.load(f"{path}{variant}"))
    configs.check_keys("config", config, checks.KEYS)
    configs.check_keys("config.data", config["data"], inputs.DATA_KEYS)
    stages = [make_stage(name, settings) for name, settings in config["stages"].items()]
    assert stages and isinstance(systems.build(config["system"]), nn.Module)
    assert json.loads(json.dumps(config)) == config  # what a checkpoint stores is what was run
    if variant:
        assert sum(stage.steps for stage in stages) <= 10 and config["data"]["batch_size"] <= 64
        assert "emoji" in str(config["data"]["train"])
    else:
        assert f"configs/{path.parent.name}/{path.name}" in path.read_text(
            encoding="utf-8"
        )  # the docstring has the command


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes_are_those_of_the_paper(name):
    config = configs.plain(configs.load(CLIP / f"{name}.py"))
    assert (
        sum(math.prod(shape) for path, shape in shapes(config).items() if path.startswith("params/"))
        == (PARAMETERS[name])
    )


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    return models.shapes(models.spelled_out(config["system"]))


@pytest.mark.parametrize("name", PARAMETERS)
def test_recipe(name):
    config = configs.plain(configs.load(CLIP / f"{name}.py"))
    stage = make_stage("train", config["stages"]["train"])
    further = name == "vit_l14_336"
    assert stage.steps == (12_207 if further else 390_625)
    assert config["data"]["batch_size"] * stage.steps == pytest.approx(400e6 * (1 if further else 32), rel=1e-4)
    assert bool(config["init"]) == further
    assert (stage.b1, stage.b2, stage.eps) == ((0.9, 0.999, 1e-8) if name.startswith("rn") else (0.9, 0.98, 1e-6))
    assert systems.build(config["system"]).scale_max == 100
    mask = trees.flatten(decay_mask(trees.unflatten({
        path.removeprefix("params/"): jax.ShapeDtypeStruct(shape, np.float32)
        for path, shape in shapes(config).items() if path.startswith("params/")
    })))  # fmt: skip
    gains = {path for path in mask if path.split("/")[-1] in ("scale", "bias", "log_scale", "cls")}
    assert {path for path, decays in mask.items() if not decays} == gains


def test_the_source_has_to_be_given(tmp_path):
    config = configs.load(CLIP / "vit_l14.py")
    with pytest.raises(UserError, match=r"config\.data\.train is empty.*--config\.data\.train="):
        main.train(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_variant():
    with pytest.raises(UserError, match=r"vit_b32\.py:smok: .*variant 'smok' does not exist; .*'smoke'"):
        configs.load(CLIP / "vit_b32.py:smok")


@contextlib.contextmanager
def abstract_pod(shape: dict[str, int], devices: int):
    """A mesh of devices that do not exist."""
    sizes = {axis: shape.get(axis, 1) for axis in shd.MESH_AXES}
    known = math.prod(size for size in sizes.values() if size > 0)
    sizes = {axis: devices // known if size < 0 else size for axis, size in sizes.items()}
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules(shd.RULES):
        yield mesh


@pytest.mark.parametrize("name", each_size("rn50", "vit_b32", "vit_b16", "vit_l14", "vit_l14_336"))
def test_lowers_for_a_pod(name):
    """The real step of the real size, in the pod's number format, through the same functions as main.train."""
    config = configs.plain(configs.load(CLIP / f"{name}.py", ["--config.system.dtype=bfloat16"]))
    with abstract_pod(config["mesh"], devices=256) as mesh:
        assert dict(mesh.shape) == {"data": 32, "fsdp": 8, "tensor": 1}
        shd.check_batch_size(config["data"]["batch_size"], mesh)
        system, stage = systems.build(config["system"]), make_stage("train", config["stages"]["train"])
        _, boxed, shardings = main.abstract_variables(system, config, mesh)
        variables = shd.unbox(boxed)
        tx, placed = main.optimizer(stage, variables, shardings, mesh)
        state = jax.eval_shape(functools.partial(begin, stage, tx), variables, jax.random.key(0))
        batch = {
            key: jax.ShapeDtypeStruct((config["data"]["batch_size"], *leaf.shape[1:]), leaf.dtype)
            for key, leaf in inputs.abstract_batch(config, mesh).items()
        }
        step = main.compiled_step(functools.partial(train_step, system, tx, stage), placed, mesh)
        traced = step.trace(state, batch)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert trees.count(variables["params"]) == PARAMETERS[name]
    assert "num_partitions = 256" in text
    assert "collective_permute" in text  # the loss is a ring
    assert f"{config['data']['batch_size']}x{config['data']['batch_size']}" not in text  # and makes no B x B matrix
    after, metrics = traced.out_info
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert metrics["loss"].shape == ()
    # Of the moments, a device holds an eighth (and a little: what 8 does not divide stays whole).
    held = sum(
        math.prod(sharding.shard_shape(leaf.shape))
        for leaf, sharding in zip(jax.tree.leaves(state.opt), jax.tree.leaves(placed.opt), strict=True)
    )
    assert held < 2 * PARAMETERS[name] / 8 * 1.05


@pytest.mark.parametrize("name", each_size("vit_b32"))  # compiling a ResNet takes a minute
def test_smoke_trains(name, tmp_path):
    config = configs.load(f"{CLIP / name}.py:smoke")
    assert main.train(config, tmp_path) == {}  # no evaluators
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert models.load(tmp_path).system["img"]["image_size"] == 32


def test_the_336_pixel_epoch_begins_with_the_224_pixel_weights(tmp_path):
    """The smoke forms of both, at 32 and 48 pixels: every weight is taken over, the positions are resized."""
    before = configs.load(f"{CLIP}/vit_l14.py:smoke")
    main.train(before, tmp_path / "before")
    found = trees.flatten(models.load(tmp_path / "before").variables)
    further = configs.load(f"{CLIP}/vit_l14_336.py:smoke")
    further.init, further.system.img.image_size = str(tmp_path / "before"), 48
    config = configs.plain(further)
    mesh = shd.make_mesh(config["mesh"])
    with shd.use_mesh(mesh):
        taken, _ = main.initial_variables(systems.build(config["system"]), config, mesh, jax.random.key(1))
    taken = trees.flatten(taken)
    assert taken.keys() == found.keys()
    different = {path for path in taken if taken[path].shape != found[path].shape}
    assert different == {"params/img/pos"} and taken["params/img/pos"].shape == (3 * 3 + 1, 32)
    np.testing.assert_array_equal(taken["params/img/pos"][0], found["params/img/pos"][0])
    for path in taken.keys() - different:
        np.testing.assert_array_equal(taken[path], found[path], err_msg=path)


@pytest.mark.parametrize("name", ["emoji_scenes", pytest.param("vqa", marks=pytest.mark.slow),
                                  pytest.param("base", marks=pytest.mark.slow)])  # fmt: skip
def test_cocas_smoke_trains(name, tmp_path):
    main.train(configs.load(f"{ROOT}/configs/coca/{name}.py:smoke"), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    assert len(rows) >= 3 and all(math.isfinite(row["loss"]) for row in rows)
    assert ({"classes", "caption"} if name == "vqa" else {"contrastive", "caption"}) <= set(rows[0])
