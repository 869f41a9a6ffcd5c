"""One parameter tree, two forms: repeated blocks as `block_0 … block_{L-1}`, or stacked as `blocks` for a scan.

The scanned form keeps compile time flat on accelerators, the unrolled one is faster on CPU. Every leaf of `blocks` has
the layer as its leading axis, so converting loses nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.errors import UserError

BLOCK, STACK = re.compile(r"block_(\d+)"), "blocks"


def _stack(leaves: list[Any]) -> Any:
    if isinstance(leaves[0], jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(leaves), *leaves[0].shape), leaves[0].dtype)
    return np.stack(leaves) if isinstance(leaves[0], np.ndarray) else jnp.stack(leaves)


def _index(leaf: Any, i: int) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf[i]


def stack_blocks(params: Mapping) -> dict[str, Any]:
    """Turns every group `…/block_{i}/…` of a tree of arrays into `…/blocks/…` with a leading layer axis.

    Args:
      params: nested mappings of jax or numpy arrays or ShapeDtypeStructs, without Partitioned boxes.

    Raises:
      UserError: the numbers of a group have a gap, or its blocks differ in structure or shape.
    """
    numbered = {int(m.group(1)): key for key in params if (m := BLOCK.fullmatch(key))}
    out = {k: stack_blocks(v) if isinstance(v, Mapping) else v for k, v in params.items() if not BLOCK.fullmatch(k)}
    if not numbered:
        return out
    if sorted(numbered) != list(range(len(numbered))):
        raise UserError(f"blocks to stack are numbered {sorted(numbered)}, not 0 to {len(numbered) - 1}")
    blocks = [stack_blocks(params[numbered[i]]) for i in range(len(numbered))]
    shapes = [jax.tree.map(lambda leaf: tuple(leaf.shape), block) for block in blocks]
    if different := [i for i, shape in enumerate(shapes) if shape != shapes[0]]:
        raise UserError(f"blocks {different} differ from block_0 in structure or shape and cannot be stacked")
    return {**out, "blocks": jax.tree.map(lambda *leaves: _stack(list(leaves)), *blocks)}


def unstack_blocks(params: Mapping) -> dict[str, Any]:
    """The inverse of `stack_blocks`: every `…/blocks/…` becomes `…/block_{i}/…`.

    Raises:
      UserError: the leaves of a group have different numbers of layers.
    """
    out: dict[str, Any] = {}
    for key, value in params.items():
        if key != "blocks":
            out[key] = unstack_blocks(value) if isinstance(value, Mapping) else value
            continue
        depths = {leaf.shape[0] for leaf in jax.tree.leaves(value)}
        if len(depths) != 1:
            raise UserError(f"stacked blocks have leading axes {sorted(depths)}; one number of layers is expected")
        for i in range(depths.pop()):
            out[f"block_{i}"] = unstack_blocks(jax.tree.map(lambda leaf, i=i: _index(leaf, i), value))
    return out
