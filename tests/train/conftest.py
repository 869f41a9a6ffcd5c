"""A CLIP of a few thousand parameters, batches for it, and a training step as `mmjax train` builds it."""

import functools
import json
from typing import NamedTuple

import jax
import numpy as np
import pytest

from mmjax import main, systems
from mmjax.core import sharding as shd
from mmjax.train.stage import Stage
from mmjax.train.state import State, begin
from mmjax.train.step import train_step

TEXT = {"vocab": 32, "length": 8, "width": 16, "depth": 1, "heads": 2}
VIT = {"image_size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2}
RESNET = {"kind": "resnet", "image_size": 32, "layers": (1, 1, 1, 1), "width": 2, "heads": 2}


class Run(NamedTuple):
    """A stage ready to step."""

    state: State
    placed: State
    step: object


@pytest.fixture(scope="session")
def tiny():
    """(system mapping): a CLIP with a ViT."""
    return {"name": "clip", "embed_dim": 8, "img": VIT, "txt": TEXT}


@pytest.fixture(scope="session")
def tiny_resnet():
    """(system mapping): a CLIP with a ResNet, whose statistics move."""
    return {"name": "clip", "embed_dim": 8, "img": RESNET, "txt": TEXT}


@pytest.fixture(scope="session")
def make_batch():
    """(system mapping, seed) -> a batch of 16 as numpy arrays."""

    def make(system, seed=0, size=16):
        rng = np.random.default_rng(seed)
        side, length = system["img"]["image_size"], TEXT["length"]
        lengths = rng.integers(2, length + 1, size)
        return {
            "image": rng.integers(0, 256, (size, side, side, 3), np.uint8),
            "ids": rng.integers(0, TEXT["vocab"], (size, length), np.int32),
            "valid": np.arange(length)[None, :] < lengths[:, None],
        }

    return make


@pytest.fixture(scope="session")
def prepare():
    """(system mapping, stage, mesh) -> Run, with the same first state for the same arguments. Use inside the mesh."""

    made: dict = {}

    def initial(mapping, system, mesh):
        name = json.dumps([mapping, mesh.devices.shape])
        if name not in made:  # kept as numpy: steps take the arrays' memory
            variables, shardings = main.initial_variables(system, {"system": mapping}, mesh, jax.random.key(0))
            made[name] = jax.tree.map(np.array, variables), shardings
        variables, shardings = made[name]
        return jax.device_put(variables, shardings), shardings

    def make(mapping, stage: Stage, mesh) -> Run:
        system = systems.build(mapping)
        variables, shardings = initial(mapping, system, mesh)
        tx, placed = main.optimizer(stage, variables, shardings, mesh)
        state = jax.jit(functools.partial(begin, stage, tx), out_shardings=placed)(variables, jax.random.key(1))
        return Run(state, placed, main.compiled_step(functools.partial(train_step, system, tx, stage), placed, mesh))

    return make


@pytest.fixture
def one_device():
    """A mesh of one device, current."""
    with shd.use_mesh(shd.make_mesh({"data": 1}, jax.devices()[:1])) as mesh:
        yield mesh
