"""What tests of `config.init` share: a system's variables as it begins, and what of them came from where."""

import functools
import json
import pathlib

import jax
import numpy as np

from mmjax import initial, main, systems
from mmjax.core import config as configs
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.stacking import unstack_blocks

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
Arrays = dict[str, np.ndarray]


@functools.cache
def parts(system: str) -> tuple[dict, dict]:
    """(shapes, shardings) of a system's variables."""
    config, mesh = {"system": json.loads(system)}, shd.make_mesh(None)
    with shd.use_mesh(mesh):
        _, boxed, shardings = main.abstract_variables(systems.build(config["system"]), config, mesh)
    return shd.unbox(boxed), shardings


def begun(init: object, system: dict) -> tuple[Arrays, Arrays, str]:
    """(what begins, what would begin at random, the account), parameters by path with numbered blocks."""
    abstract, shardings = parts(json.dumps(system))
    random = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), abstract)

    def placed() -> dict:
        return jax.tree.map(jax.device_put, random, shardings)

    with shd.use_mesh(shd.make_mesh(None)):
        made, account = initial.load({"init": init, "system": system, "seed": 0}, abstract, shardings, placed)
    one, two = (trees.flatten(unstack_blocks(jax.tree.map(np.asarray, tree))["params"]) for tree in (made, random))
    return one, two, account


def recipe(name: str):
    return configs.sibling(str(CONFIGS / name / "x.py"), "_recipe")


def compare(found: Arrays, random: Arrays, expected: Arrays) -> None:
    """What is expected is there, and all else as it was drawn."""
    assert set(expected) <= set(found)
    for path, array in found.items():
        np.testing.assert_array_equal(array, expected.get(path, random[path]), err_msg=path)
