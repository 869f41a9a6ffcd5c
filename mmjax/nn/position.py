"""Positions: fixed sine tables, rotary embedding, relative buckets and tables, and resizing of learned grids."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Integer

from mmjax.core.errors import UserError
from mmjax.core.interpolate import bicubic_resize
from mmjax.nn.dense import Initializer, normal

# ---------------------------------------------------------------- fixed tables


def sincos_1d(length: int, width: int, theta: float = 10_000.0) -> np.ndarray:
    """float32[length, width]: sines of `t θ^(-2i/width)` in the first half of the columns, cosines in the second.

    Raises:
      UserError: odd width.
    """
    return _sincos(np.arange(length), width, theta)


def sincos_2d(height: int, width: int, dim: int, theta: float = 10_000.0) -> np.ndarray:
    """float32[height·width, dim], row-major: the first half of the columns encodes x, the second y.

    Source: MoCo v3 (Chen et al. 2021) and MAE's fixed ViT positions.
    """
    y, x = np.mgrid[:height, :width]
    return np.concatenate([_sincos(x.reshape(-1), dim // 2, theta), _sincos(y.reshape(-1), dim // 2, theta)], axis=1)


def _sincos(positions: np.ndarray, width: int, theta: float) -> np.ndarray:
    if width % 2:
        raise UserError(f"sine positions need an even width per axis, not {width}")
    angles = positions[:, None] * theta ** (-np.arange(0, width, 2) / width)[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


# ---------------------------------------------------------------- rotary


@struct.dataclass
class Rope:
    """Angles of rotary positions: cos and sin float[B or 1, T, R, h] for R equal sections of a head, h pairs each."""

    # Any: under jax's transformations the leaves are tracers, shapes or placeholders.
    cos: Any
    sin: Any


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Slower rotations, for texts that are longer than those of the first training.

    Attributes:
      kind: "linear": all frequencies over `factor` (Chen et al. 2023); "llama3": those whose wave is longer than
        length / low over `factor`, those shorter than length / high as they are, blended between (Llama 3.1).
      low, high, length: of "llama3".
    """

    kind: str
    factor: float
    low: float = 1.0
    high: float = 4.0
    length: int = 8192

    def __call__(self, frequencies: np.ndarray) -> np.ndarray:
        """The scaled frequencies, radians a position.

        Raises:
          UserError: no such kind.
        """
        if self.kind == "linear":
            return frequencies / self.factor
        if self.kind != "llama3":
            raise UserError(f"scaling of rotary positions {self.kind!r} does not exist; there are linear, llama3")
        waves = self.length * frequencies / (2 * np.pi)  # of the first training's length
        kept = np.clip((waves - self.low) / (self.high - self.low), 0.0, 1.0)
        return kept * frequencies + (1 - kept) * frequencies / self.factor


def rope(
    positions: Integer[Array, "B T"] | Integer[Array, "B T R"],
    head_dim: int,
    theta: float = 10_000.0,
    scaling: RopeScaling | None = None,
) -> Rope:
    """Rotation angles `p θ^(-2i/d)` where d = head_dim / R is the width of a section.

    Args:
      positions: int[B, T]; or int[B, T, R]: the head is split into R sections, each rotated by its own position
        (ChatGLM: R = 2, position and block position).
      head_dim: H, divisible by 2R.
      theta: θ, the base of the frequencies.
      scaling: of the frequencies.

    Source: Su et al. 2021 (RoFormer), §3.2.2.
    """
    positions = positions[:, :, None] if positions.ndim == 2 else positions
    dim = head_dim // positions.shape[-1]
    if dim % 2 or dim * positions.shape[-1] != head_dim:
        raise UserError(f"rope: head_dim {head_dim} does not split into {positions.shape[-1]} sections of even width")
    rates = theta ** (-np.arange(0, dim, 2) / dim)
    frequencies = jnp.asarray(rates if scaling is None else scaling(rates), jnp.float32)
    angles = positions.astype(jnp.float32)[..., None] * frequencies[None, None, None, :]  # [B, T, R, h]
    return Rope(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "B T N H"], rope: Rope) -> Float[Array, "B T N H"]:
    """Rotates pairs (x_i, x_{i+h}) of each section of each head: the half-split layout of GPT-NeoX and HF's LLaMA."""
    B, T, N, H = x.shape
    R, h = rope.cos.shape[-2:]
    pairs = x.astype(jnp.float32).reshape(B, T, N, R, 2, h)
    a, b = pairs[..., 0, :], pairs[..., 1, :]
    cos, sin = rope.cos[:, :, None], rope.sin[:, :, None]  # [B, T, 1, R, h]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-2).reshape(B, T, N, H).astype(x.dtype)


# ---------------------------------------------------------------- relative


def relative_buckets(
    query: Integer[Array, "T"],
    key: Integer[Array, "S"],
    *,
    buckets: int = 32,
    max_distance: int = 128,
    bidirectional: bool = True,
) -> Integer[Array, "T S"]:
    """T5's buckets of key - query: exact up to half of them, then logarithmic up to max_distance.

    Bidirectional: the upper half of the buckets is for keys after the query. Unidirectional: those fall into bucket 0.

    Source: Raffel et al. 2020, §2.1.
    """
    relative = key[None, :] - query[:, None]
    offset = jnp.zeros_like(relative)
    if bidirectional:
        buckets //= 2
        offset = jnp.where(relative > 0, buckets, 0)
        distance = jnp.abs(relative)
    else:
        distance = jnp.maximum(-relative, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / np.log(max_distance / exact)
    far = exact + (ratio * (buckets - exact)).astype(distance.dtype)
    return offset + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))


def relative_index_2d(height: int, width: int, *, cls: bool = True) -> np.ndarray:
    """BEiT's rows of a relative-position table: int32[L, L], L = height·width (+1 with a class token in front).

    Row of patches i, j: (y_i - y_j + height - 1)(2·width - 1) + x_i - x_j + width - 1. The class token adds three rows
    after these: class to patch, patch to class, class to class.

    Source: Bao et al. 2021 (BEiT); VLMo.
    """
    y, x = (axis.reshape(-1) for axis in np.mgrid[:height, :width])
    index = (y[:, None] - y[None, :] + height - 1) * (2 * width - 1) + x[:, None] - x[None, :] + width - 1
    if cls:
        rows = (2 * height - 1) * (2 * width - 1)
        index = np.pad(index, ((1, 0), (1, 0)))
        index[0, :], index[:, 0], index[0, 0] = rows, rows + 1, rows + 2
    return index.astype(np.int32)


class RelativeBias(nn.Module):
    """A learned attention bias, one value per head and row of a table: int[T, S] -> float[1, N, T, S]."""

    rows: int
    heads: int
    table_init: Initializer = normal(0.02)

    @nn.compact
    def __call__(self, index: Integer[Array, "T S"] | Integer[np.ndarray, "T S"]) -> Float[Array, "1 N T S"]:
        table = self.param("table", self.table_init, (self.rows, self.heads), jnp.float32)
        return table[index].transpose(2, 0, 1)[None]  # [T, S, N] -> [1, N, T, S]


# ---------------------------------------------------------------- resizing


def resize_positions(
    pos: Float[Array, "T D"] | Float[np.ndarray, "T D"],
    grid: tuple[int, int],
    *,
    extra: int = 1,
    antialias: bool = False,
) -> Float[Array, "U D"] | Float[np.ndarray, "U D"]:
    """Resizes the grid part of a learned position table to another grid; the first `extra` rows (class token) stay.

    Args:
      pos: float[extra + s², D]: a square grid in row-major order.
      grid: new (rows, columns).
      antialias: see `core.interpolate.bicubic_resize`.

    Raises:
      UserError: the rows after `extra` are no square.
    """
    side = round((pos.shape[0] - extra) ** 0.5)
    if side * side != pos.shape[0] - extra:
        raise UserError(f"position table of {pos.shape[0]} rows minus {extra} extra is no square grid")
    if (side, side) == tuple(grid):
        return pos
    resized = bicubic_resize(pos[extra:].reshape(side, side, -1), grid, antialias=antialias)
    concatenate = np.concatenate if isinstance(pos, np.ndarray) else jnp.concatenate
    return concatenate([pos[:extra], resized.reshape(grid[0] * grid[1], -1)], axis=0)
