"""Meshes and where things live on them: one table from logical to mesh axes serves every module.

Three mesh axes: `data` (batch only), `fsdp` (batch, and parameters and optimizer state are split over it), `tensor`
(width of attention heads and MLPs). A model annotates its kernels with logical names; nothing else knows about devices.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.core import trees
from mmjax.core.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
AnyMesh = Mesh | AbstractMesh  # an abstract one is enough to trace and lower for devices that are not there

# Logical axis -> mesh axis. A name that is not here is an error when a parameter or an activation uses it.
RULES: tuple[tuple[str, Any], ...] = (
    ("batch", BATCH_AXES),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("queue", "tensor"),
    ("layers", None),
)


def make_mesh(shape: Mapping[str, int] | None = None, devices: Any = None) -> Mesh:
    """A mesh from sizes per axis, e.g. `{"data": -1, "fsdp": 4}`: -1 is what is left, and axes not named have size 1.

    Axes are Auto: under jax.make_mesh's Explicit default, Linen's Embed and tensor-parallel Dense raise.

    Raises:
      UserError: unknown axis, or sizes that do not multiply to the number of devices.
    """
    devices = np.asarray(jax.devices() if devices is None else devices).reshape(-1)
    sizes = mesh_sizes(shape, devices.size)
    return Mesh(devices.reshape(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def mesh_sizes(shape: Mapping[str, int] | None, devices: int) -> tuple[int, ...]:
    """Sizes of MESH_AXES for so many devices; `shape` and errors as in `make_mesh`."""
    shape = dict(shape or {"data": -1})
    unknown = sorted(set(shape) - set(MESH_AXES))
    if unknown:
        raise UserError(f"mesh axis {unknown} does not exist; the axes are {list(MESH_AXES)}")
    sizes = [int(shape.get(axis, 1)) for axis in MESH_AXES]
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise UserError(f"mesh {shape}: sizes are positive, and at most one may be -1 (what is left)")
    known = int(np.prod([s for s in sizes if s != -1]))
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(devices // known, 1)
    if int(np.prod(sizes)) != devices:
        asked = " x ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
        raise UserError(f"mesh {asked} asks for {int(np.prod(sizes))} devices, but there are {devices}")
    return tuple(sizes)


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Makes the mesh and the logical rules current: `with mesh:` alone lowers no constraint in JAX >= 0.10."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield mesh


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Says where an array of a computation lives, by the logical names of its axes; so its gradient, too.

    A no-op where no rules or no mesh are in force, and in a shard_map, which sees one device's part. An axis stays
    whole if its mesh axes do not divide it: three heads on two devices are computed on both.

    Args:
      names: one per axis; "batch" for the leading axis of activations, "heads" and "mlp" for the widths that `tensor`
        splits, None for the others. The residual stream's width is None: "embed" is for parameters.

    Raises:
      UserError: a name that RULES does not know.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or not nn.get_logical_axis_rules():
        return x
    table = dict(RULES)
    if unknown := [name for name in names if name is not None and name not in table]:
        raise UserError(f"activation {x.shape}: logical axis {unknown} has no rule; known: {sorted(table)}")
    spec = P(*(None if name is None else table[name] for name in names))
    return jax.lax.with_sharding_constraint(x, _fit(spec, x.shape, mesh))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(kernel: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """A parameter as a computation reads it: whole along `fsdp`, still split along `tensor`.

    Without it the partitioner is free to leave the parameter where it is and to move activations instead, which it
    does where a batch is small. The gradient is sent to where the parameter lives.

    Args:
      names: the logical axes of the parameter, None for an axis without one.
    """
    return _gathered(kernel, names)


def _gathered(kernel: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    return constrain(kernel, *(None if name == "embed" else name for name in names))


gathered.defvjp(
    lambda kernel, names: (_gathered(kernel, names), None),
    lambda names, _, grad: (constrain(grad, *names),),
)


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Leading axis over all batch axes."""
    return NamedSharding(mesh, P(BATCH_AXES))


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Rows of a global batch that live on this process's devices, ascending.

    Processes may share rows: tensor parallelism that spans processes needs the same examples in all of them.
    """
    parts = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for part in parts if part is not None for row in range(*part[0].indices(batch_size))})


def replicated(mesh: AnyMesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def check_batch_size(batch_size: int, mesh: AnyMesh, chunks: int = 1) -> None:
    """Raises UserError unless the global batch, and each of its chunks, divides over the batch axes."""
    ways = int(np.prod([mesh.shape[a] for a in BATCH_AXES]))
    if chunks > 1 and batch_size % (ways * chunks):
        near = max(batch_size // (ways * chunks), 1) * ways * chunks
        raise UserError(
            f"batch size {batch_size} does not divide into chunks={chunks} that divide over {ways} devices "
            f"(mesh {dict(mesh.shape)}); e.g. {near} would"
        )
    if batch_size % ways:
        near = max(batch_size // ways, 1) * ways
        raise UserError(
            f"batch size {batch_size} does not divide over {ways} devices (mesh {dict(mesh.shape)}); e.g. {near} would"
        )


def _fit(spec: P, shape: tuple[int, ...], mesh: AnyMesh) -> P:
    """Drops a mesh axis from dimensions that it does not divide (a 3-head projection on 4 devices stays whole)."""

    def ways(axes: Any) -> int:
        names = (axes,) if isinstance(axes, str) else tuple(axes or ())
        return int(np.prod([mesh.shape[a] for a in names]))

    return P(*(axes if axes is None or dim % ways(axes) == 0 else None for axes, dim in zip(spec, shape, strict=False)))


def unbox(boxed: Any) -> Any:
    """Parameters without their logical names; unlike flax's own unbox it takes abstract ones under a mesh."""
    is_box = lambda x: isinstance(x, nn.meta.AxisMetadata)  # noqa: E731
    return jax.tree.map(lambda x: x.value if is_box(x) else x, boxed, is_leaf=is_box)


def param_shardings(boxed: Any, mesh: AnyMesh) -> Any:
    """Shardings for a tree of (possibly boxed) abstract parameters, from their logical names.

    Raises:
      UserError: a logical axis name that RULES does not know.
    """
    known = {name for name, _ in RULES}
    specs = nn.get_partition_spec(boxed)
    for path, spec in jax.tree_util.tree_leaves_with_path(specs, is_leaf=lambda x: isinstance(x, P)):
        used = {axis for axis in (spec or ()) if isinstance(axis, str)}
        if not used <= known:
            raise UserError(
                f"parameter {trees.path_name(path)}: logical axis {sorted(used - known)} has no rule; "
                f"known: {sorted(known)}"
            )
    shardings = nn.logical_to_mesh_sharding(specs, mesh, list(RULES))  # type: ignore[arg-type]  # abstract ones do as well
    return jax.tree.map(
        lambda sharding, leaf: NamedSharding(mesh, _fit(sharding.spec, leaf.shape, mesh)),
        shardings,
        unbox(boxed),
        is_leaf=lambda x: isinstance(x, NamedSharding),
    )


def state_shardings(abstract_state: Any, shardings: Mapping, mesh: AnyMesh) -> Any:
    """Optimizer moments, teacher and frozen copies are sharded as the parameter whose path they end in.

    Args:
      abstract_state: tree of ShapeDtypeStructs.
      shardings: trees of NamedShardings by collection, "params" and others.

    Scalars and whatever ends in no parameter's path are replicated.
    """
    known = {
        **trees.flatten(shardings["params"]),
        **trees.flatten({k: v for k, v in shardings.items() if k != "params"}),
    }

    def pick(path: tuple, leaf: Any) -> NamedSharding:
        parts = trees.path_name(path).split("/")
        # The longest suffix wins: "opt/0/mu/txt/pos" is txt/pos, never pos.
        suffixes = ("/".join(parts[start:]) for start in range(len(parts)))
        sharding = next((known[suffix] for suffix in suffixes if suffix in known), None)
        # An optimizer may keep less than an array per parameter: a factored moment, a scalar, a place left empty.
        if sharding is None or len(sharding.spec) > leaf.ndim:
            return replicated(mesh)
        return NamedSharding(mesh, _fit(sharding.spec, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(pick, abstract_state)
