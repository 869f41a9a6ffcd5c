"""Segments of a sequence that are computed by different modules: the routing of Multiway transformers.

A segment is (expert, tokens): `(("txt", 40), ("img", 197))` are 40 text tokens before 197 of an image. The borders are
static, so that an expert sees its own tokens alone and costs nothing elsewhere; no parameter is gathered or indexed.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.core.errors import UserError

Segments = tuple[tuple[str, int], ...]


def by_segment(
    x: Float[Array, "B T D"], segments: Segments, make: Callable[[str], Callable[[Array], Array]]
) -> Float[Array, "B T F"]:
    """Each segment through its expert's module, or all through one: float[B, T, D] -> float[B, T, F].

    Args:
      x: the sequence.
      segments: their lengths sum to T; () is one module for all.
      make: from the end of a module's name ("_img", or "" without segments) to the module.

    Raises:
      UserError: the lengths do not sum to T.

    Example:
      >>> gains = {"_txt": 2.0, "_img": 3.0}
      >>> by_segment(jnp.ones((1, 3, 1)), (("txt", 1), ("img", 2)), lambda e: lambda h: gains[e] * h)[0, :, 0].tolist()
      [2.0, 3.0, 3.0]
    """
    if not segments:
        return make("")(x)
    if sum(length for _, length in segments) != x.shape[1]:
        raise UserError(f"segments {segments} do not cover the {x.shape[1]} tokens of the sequence")
    parts, start = [], 0
    for expert, length in segments:
        parts.append(make(f"_{expert}")(x[:, start : start + length]))
        start += length
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
