"""A decoder's kernels as whole numbers of 8 bits, and back."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int8

from mmjax.core import trees
from mmjax.core.errors import UserError

MOST = 127
TOWER = "llm"
_KERNEL = re.compile(rf"(params/{TOWER}/transformer/.*/(?:attn|mlp)/\w+)/kernel")  # adapters lie a level deeper


def quantize(kernel: np.ndarray) -> tuple[Int8[np.ndarray, "*layers D F"], Float32[np.ndarray, "*layers F"]]:
    """(whole numbers, scale of each column): `kernel ≈ numbers · scale`, to half a scale.

    Example:
      >>> [part.tolist() for part in quantize(np.array([[1.0, 0.0], [-0.5, 0.0]], np.float32))]
      [[[127, 0], [-64, 0]], [0.007874015718698502, 1.0]]
    """
    kernel = np.asarray(kernel, np.float32)
    most = np.abs(kernel).max(axis=-2)
    scale = np.where(most > 0, most / np.float32(MOST), np.float32(1)).astype(np.float32)
    return np.rint(kernel / scale[..., None, :]).astype(np.int8), scale


def rounded(system: Mapping[str, Any], variables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(system, variables) with the kernels of the decoder's blocks in 8 bits; embedding and output map stay.

    Raises:
      UserError: a system without a decoder, or one whose kernels are in 8 bits already.
    """
    llm = dict(system.get(TOWER, {}))
    if not llm or llm.get("int8"):
        why = "its kernels are already" if llm else f"it has no decoder `{TOWER}`"
        raise UserError(f"the system {system.get('name')} cannot be put into 8 bits: {why}")
    flat: dict[str, Any] = {}
    for path, array in trees.flatten(variables).items():
        if found := _KERNEL.fullmatch(path):
            flat[path], flat[f"{found[1]}/scale"] = quantize(array)
        else:
            flat[path] = array
    return {**system, TOWER: {**llm, "int8": True}}, trees.unflatten(flat)


def restored(system: Mapping[str, Any], variables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """(system, variables, whether there was something to do): kernels in 8 bits as the numbers that they stand for."""
    llm = dict(system.get(TOWER, {}))
    if not llm.pop("int8", False):
        return dict(system), dict(variables), False
    flat = dict(trees.flatten(variables))
    for path in [path for path in flat if _KERNEL.fullmatch(path)]:
        scale = np.asarray(flat.pop(f"{path.removesuffix('/kernel')}/scale"))
        flat[path] = np.asarray(flat[path], np.float32) * scale[..., None, :]
    return {**system, TOWER: llm}, trees.unflatten(flat), True
