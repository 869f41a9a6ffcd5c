"""Resizing of small grids and rows (position tables, feature maps) exactly as torch computes it, mostly bicubic.

`jax.image.resize` differs twice from `torch.nn.functional.interpolate(mode="bicubic")`: the kernel's parameter is -0.5
instead of -0.75, and it filters when shrinking. Published checkpoints were resized with torch, so the kernel is here.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.interpolate import RectBivariateSpline


def _keys_kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (Keys 1981) with parameter a, at the given distances."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic_matrix(source: int, target: int, *, antialias: bool) -> np.ndarray:
    """The linear map float64[target, source] of a 1-D bicubic resize, `align_corners=False`.

    Without antialias: a = -0.75, four taps around the sample, indices clamped at the border. With antialias: a = -0.5,
    the kernel widened by the shrinking factor, taps outside dropped and the rest rescaled to sum to one, as in PIL.
    """
    scale = source / target
    weights = np.zeros((target, source))
    for i in range(target):
        center = scale * (i + 0.5)
        if antialias:
            width = max(scale, 1.0)
            first = max(int(center - 2 * width + 0.5), 0)
            last = min(int(center + 2 * width + 0.5), source)
            taps = np.arange(first, last)
            values = _keys_kernel((taps - center + 0.5) / width, -0.5)
            weights[i, taps] = values / values.sum()
        else:
            floor = int(np.floor(center - 0.5))
            taps = np.arange(floor - 1, floor + 3)
            values = _keys_kernel(taps - (center - 0.5), -0.75)
            np.add.at(weights[i], np.clip(taps, 0, source - 1), values)
    return weights


def linear_matrix(source: int, target: int) -> np.ndarray:
    """The linear map float64[target, source] of a 1-D linear resize, `align_corners=False`, without antialias.

    Example:
      >>> linear_matrix(2, 4).tolist()
      [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    places = np.clip(source / target * (np.arange(target) + 0.5) - 0.5, 0, source - 1)
    return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(source)[None, :]))


def bicubic_resize(
    grid: Float[Array, "Y X D"] | Float[np.ndarray, "Y X D"], size: tuple[int, int], *, antialias: bool = False
) -> Float[Array, "..."] | Float[np.ndarray, "..."]:
    """Resizes float[Y, X, D] to float[size[0], size[1], D]; numpy in, numpy out.

    Args:
      grid: float[Y, X, D].
      size: the new (rows, columns).
      antialias: torch's option of the same name. False is how ViT checkpoints of the BEiT, ALBEF, BLIP and EVA
        families are resized; True is open_clip's.

    Example:
      >>> bicubic_resize(np.ones((2, 2, 1), np.float32), (3, 3)).shape
      (3, 3, 1)
    """
    rows = bicubic_matrix(grid.shape[0], size[0], antialias=antialias)
    columns = bicubic_matrix(grid.shape[1], size[1], antialias=antialias)
    if isinstance(grid, np.ndarray):
        return np.einsum("ay,bx,yxd->abd", rows, columns, grid, optimize=True).astype(grid.dtype)
    weights = jnp.asarray(rows, grid.dtype), jnp.asarray(columns, grid.dtype)
    return jnp.einsum("ay,bx,yxd->abd", *weights, grid, precision="highest")


def relative_resize(table: Float[np.ndarray, "R N"], source: int, target: int) -> Float[np.ndarray, "S N"]:
    """Rows of relative positions of a source² grid of patches for a target² one: float32[R, N] -> float32[S, N].

    The first (2·source - 1)² rows are offsets; those behind them stay as they are. Each column is a bicubic spline over
    abscissae whose steps grow geometrically from 1, so that near patches keep the bias of their distance and the
    outermost ones land at the outermost. Beyond the last abscissa the border's value holds.

    Source: Bao et al. 2021 (BEiT), as released.
    """
    old, new = 2 * source - 1, 2 * target - 1
    if old == new:
        return table
    half = old // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (1 - ratio**half) / (1 - ratio) > new // 2 else (ratio, high)
    steps = np.cumsum(ratio ** np.arange(half))
    places = np.concatenate([-steps[::-1], [0.0], steps])
    wanted = np.arange(-(new // 2), new // 2 + 1, dtype=np.float64)
    order, columns = min(3, old - 1), []
    for column in table[: old * old].T:
        spline = RectBivariateSpline(places, places, column.reshape(old, old).astype(np.float64), kx=order, ky=order)
        columns.append(spline(wanted, wanted).reshape(-1))
    return np.concatenate([np.stack(columns, axis=1).astype(table.dtype), table[old * old :]])
