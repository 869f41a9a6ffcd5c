"""The training step of every stage of a config, abstract: shapes and shardings for devices that need not exist."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, AxisType

from mmjax import inputs, main, systems
from mmjax.core import precision
from mmjax.core import sharding as shd
from mmjax.train.stage import Stage, make_stage
from mmjax.train.state import State, begin
from mmjax.train.step import train_step


@dataclasses.dataclass(frozen=True)
class AbstractStep:
    """One stage's step.

    Attributes:
      name: of the stage.
      stage: its settings.
      mesh: what the step is laid out for.
      batch_size: global.
      state, batch: trees of ShapeDtypeStructs, global shapes.
      placed: tree of NamedShardings like `state`.
      jitted: the function that main.train compiles.
    """

    name: str
    stage: Stage
    mesh: shd.AnyMesh
    batch_size: int
    state: State
    batch: dict[str, jax.ShapeDtypeStruct]
    placed: State
    jitted: Any

    def trace(self) -> Any:
        """The traced step; its mesh must be in use (`use_mesh`)."""
        return self.jitted.trace(self.state, self.batch)


def for_platform(config: Mapping[str, Any], platform: str) -> dict[str, Any]:
    """The config with `system.dtype` as a run on "cpu", "gpu" or "tpu" would choose it."""
    name = config["system"].get("dtype", "auto")
    return {**config, "system": {**config["system"], "dtype": precision.compute_dtype(name, platform).name}}


def abstract_mesh(config: Mapping[str, Any], devices: int) -> AbstractMesh:
    """The config's mesh over so many devices that need not exist.

    Raises:
      UserError: as `shd.make_mesh`.
    """
    sizes = shd.mesh_sizes(config.get("mesh"), devices)
    return AbstractMesh(sizes, shd.MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes))


@contextlib.contextmanager
def use_mesh(mesh: shd.AnyMesh) -> Iterator[None]:
    """Makes the mesh and the logical rules current for tracing; nothing runs on its devices."""
    abstract = mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh
    with jax.sharding.use_abstract_mesh(abstract), nn.logical_axis_rules(shd.RULES):
        yield


def abstract_step(config: Mapping[str, Any], name: str, mesh: shd.AnyMesh) -> AbstractStep:
    """The step of the stage `name`, through the functions that main.train uses. The mesh must be in use.

    Raises:
      UserError: a mistake in the config; a batch that the mesh does not divide.
    """
    stage = make_stage(name, config["stages"][name])
    batch_size = inputs.data_settings(config, stage.data)["batch_size"]
    shd.check_batch_size(batch_size, mesh, stage.chunks)
    system = systems.build(config["system"])
    _, boxed, shardings = main.abstract_variables(system, config, mesh)
    variables = shd.unbox(boxed)
    tx, placed = main.optimizer(stage, variables, shardings, mesh)
    state = jax.eval_shape(functools.partial(begin, stage, tx), variables, jax.random.key(0))
    batch = inputs.stage_batch(config, stage.data, batch_size)
    jitted = main.compiled_step(functools.partial(train_step, system, tx, stage), placed, mesh)
    return AbstractStep(name, stage, mesh, batch_size, state, batch, placed, jitted)


def held_bytes(shapes: Any, placed: Any) -> int:
    """Bytes that a device holds of a tree of ShapeDtypeStructs under a tree of shardings (or one for all)."""
    leaves = jax.tree.leaves(shapes)
    shardings = jax.tree.leaves(placed)
    shardings = shardings * len(leaves) if len(shardings) == 1 else shardings
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(leaves, shardings, strict=True)
    )
