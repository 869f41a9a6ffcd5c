"""Arrays that are read one at a time, put where they belong as they come."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.core import processes, trees
from mmjax.core.stacking import BLOCK, STACK


def put(array: Any, sharding: NamedSharding) -> jax.Array:
    """float32 (whole numbers: int32, or int8 as they are) on devices; a host array is converted slice by slice, without
    a whole copy."""
    kind = np.int8 if array.dtype == np.int8 else np.int32 if array.dtype.kind in "iu" else np.float32
    if isinstance(array, jax.Array):
        return processes.settle(jax.device_put(array.astype(kind), sharding))
    return jax.make_array_from_callback(
        array.shape, sharding, lambda index: np.ascontiguousarray(array[index], kind).reshape(array[index].shape)
    )


@functools.partial(jax.jit, donate_argnums=0, static_argnames="sharding")
def _set(stack: jax.Array, layer: jax.Array, index: jax.Array, sharding: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(stack.at[index].set(layer), sharding)


class Placer:
    """Collects a tree whose leaves live where `shardings` say.

    Args:
      abstract: flat, path -> shape; the blocks of a scan are stacked ("…/blocks/…", a leading layer axis) or numbered.
      shardings: of the same paths.
      flat: what is there already, to be replaced leaf by leaf; its arrays are released as they are.

    Paths with numbered blocks go into their slice of a stacked leaf.
    """

    def __init__(
        self,
        abstract: Mapping[str, jax.ShapeDtypeStruct],
        shardings: Mapping[str, NamedSharding],
        flat: Mapping[str, jax.Array] | None = None,
    ) -> None:
        self._abstract, self._shardings = abstract, shardings
        self.flat: dict[str, jax.Array] = dict(flat or {})

    def __call__(self, path: str, array: Any) -> None:
        """Places one array; `path` must exist and have the array's shape."""
        if path in self._abstract:
            self.flat[path] = put(array, self._shardings[path])
            return
        stacked, index = _stacked(path)
        sharding = self._shardings[stacked]
        if stacked not in self.flat:
            zeros = functools.partial(jnp.zeros, self._abstract[stacked].shape, self._abstract[stacked].dtype)
            self.flat[stacked] = jax.jit(zeros, out_shardings=sharding)()
        layer = put(array, NamedSharding(sharding.mesh, P(*sharding.spec[1:])))
        self.flat[stacked] = processes.settle(_set(self.flat[stacked], layer, jnp.int32(index), sharding))

    def sharding(self, path: str) -> NamedSharding | None:
        """Where a variable is read to, whose blocks may be stacked ("…/blocks/…") where ours are numbered, or the other
        way round; None for one that is not ours.
        """
        if path in self._shardings:
            return self._shardings[path]
        stacked, _ = _stacked(path)
        if stacked in self._shardings:
            found = self._shardings[stacked]
            return NamedSharding(found.mesh, P(*found.spec[1:]))
        numbered = next((mine for mine in self._shardings if as_stack(mine) == path), None)
        if numbered is None:
            return None
        found = self._shardings[numbered]
        return NamedSharding(found.mesh, P(None, *found.spec))

    def tree(self) -> dict[str, Any]:
        """What was placed."""
        return trees.unflatten(self.flat)


def as_stack(path: str) -> str:
    """ "…/block_3/…" -> "…/blocks/…"; another path as it is."""
    return _stacked(path)[0] or path


def _stacked(path: str) -> tuple[str, int]:
    """("…/blocks/…", number) of a path with a numbered block; ("", -1) of another."""
    parts = path.split("/")
    for at, part in enumerate(parts):
        if match := BLOCK.fullmatch(part):
            return "/".join([*parts[:at], STACK, *parts[at + 1 :]]), int(match[1])
    return "", -1
