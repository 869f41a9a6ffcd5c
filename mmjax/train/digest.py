"""Digests of arrays: what tells a checkpoint that a disk or a copy has changed from the one that was saved.

The storage format finds files that are cut or missing, but not every flipped bit in the numbers. A digest is

    sum over i of word_i * weight_i  (mod 2^32),

where word_i are the array's bits in row-major order and the weights odd. An odd factor is invertible, so any change of
one word changes the digest; of several, all but one in 2^32. Sums of integers do not depend on their order: the digest
is the same on any mesh, and costs one pass over the array where it lives.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32

from mmjax.core import processes, trees

_GOLDEN = np.uint32(0x9E3779B1)  # 2^32 / golden ratio: neighbours get unlike weights


def digests(tree: Any) -> dict[str, str]:
    """ "a/b/c" -> "float32[8,4] 1a2b3c4d" for every leaf (jax or numpy array) of a tree.

    With several processes all of them call it.
    """
    leaves = [(trees.path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    sums = jax.device_get([processes.settle(_sum(_storable(leaf))) for _, leaf in leaves])
    return {name: f"{describe(leaf)} {int(value):08x}" for (name, leaf), value in zip(leaves, sums, strict=True)}


def describe(leaf: Any) -> str:
    """Type and shape of an array, or of its ShapeDtypeStruct: "float32[8,4]"."""
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def form(found: Mapping[str, str]) -> dict[str, str]:
    """Digests less the sums: what a tree of equal names, types and shapes has in common."""
    return {name: text.partition(" ")[0] for name, text in found.items()}


def _storable(leaf: Any) -> Any:
    """As the device takes it: it would cut 64-bit numbers, so they become pairs of words."""
    if isinstance(leaf, np.ndarray) and leaf.dtype.itemsize > 4:
        return np.ascontiguousarray(leaf).reshape(*leaf.shape, 1).view(np.uint32)
    return leaf


@jax.jit
def _sum(leaf: Shaped[Array | np.ndarray, "..."]) -> UInt32[Array, ""]:
    words = _words(leaf)
    index, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):  # row-major place, made without a reshape that a mesh would have to gather
        index += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    mixed = index * _GOLDEN
    weights = (mixed ^ (mixed >> 15)) * np.uint32(2) + np.uint32(1)
    return jnp.sum(words * weights, dtype=jnp.uint32)


def _words(leaf: Any) -> Array:
    """The bits of every number as uint32."""
    leaf = jnp.asarray(leaf)
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    bits = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, bits).astype(jnp.uint32)
