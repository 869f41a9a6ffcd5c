"""Any resolution (LLaVA-NeXT): which grid of tiles a picture gets, and which of the tiles' features stay.

A picture is seen whole, squeezed to a square, and once more enlarged, in tiles. It keeps its proportions in the tiles:
what is beyond it there is black, and the features that saw nothing else are taken away again.

Two rules are published. LLaVA's code reads the list of grids as (width, height), Hugging Face's the same list as
(height, width): where several grids fit a small picture equally well, the first one wins, which is another one then.

Source: LLaVA (commit c121f043) `mm_utils.py`, `llava_arch.py`; transformers `LlavaNextForConditionalGeneration`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from mmjax.core.errors import UserError

RULES = ("original", "hf")
MERGES = ("flat", "spatial", "spatial_unpad")
GRIDS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""Of the released models, in pixels."""


class Size(NamedTuple):
    """Pixels, or features, of a rectangle."""

    width: int
    height: int


def select_grid(size: Size, grids: Sequence[Sequence[int]], rule: str = "original") -> Size:
    """The grid in which a picture has the most pixels, and of those the one that wastes the fewest; then, the first.

    Args:
      size: of the picture.
      grids: pairs of pixels, as a config lists them.
      rule: whether the pairs are (width, height), "original", or (height, width), "hf".

    Raises:
      UserError: no such rule, or no grid.

    Example:
      >>> select_grid(Size(300, 300), GRIDS), select_grid(Size(300, 300), GRIDS, "hf")
      (Size(width=336, height=672), Size(width=672, height=336))
    """
    if rule not in RULES or not grids:
        raise UserError(f"grids of tiles: {len(grids)} grids, rule {rule!r}; at least one grid, rules {RULES}")
    best, most, least = None, 0, math.inf
    for pair in grids:
        grid = Size(*pair) if rule == "original" else Size(*pair[::-1])
        scale = min(grid.width / size.width, grid.height / size.height)
        shown = min(int(size.width * scale) * int(size.height * scale), size.width * size.height)
        wasted = grid.width * grid.height - shown
        if shown > most or (shown == most and wasted < least):
            best, most, least = grid, shown, wasted
    assert best is not None
    return best


def fitted(size: Size, grid: Size) -> Size:
    """The picture's size when it is enlarged or reduced to fit into the grid."""
    across, down = grid.width / size.width, grid.height / size.height
    if across < down:
        return Size(grid.width, min(math.ceil(size.height * across), grid.height))
    return Size(min(math.ceil(size.width * down), grid.width), grid.height)


def unpadded(size: Size, features: Size, rule: str = "original") -> tuple[slice, slice]:
    """Rows and columns of the tiles' features that saw the picture.

    Args:
      size: of the picture, in pixels.
      features: of all tiles side by side.
      rule: as of `select_grid`; "hf" rounds before it cuts off.
    """

    def shrunk(length: int, scale: float) -> int:
        return int(length * scale) if rule == "original" else int(round(length * scale, 7))

    rows, columns = slice(0, features.height), slice(0, features.width)
    if size.width / size.height > features.width / features.height:
        beyond = (features.height - shrunk(size.height, features.width / size.width)) // 2
        rows = slice(beyond, features.height - beyond)
    else:
        beyond = (features.width - shrunk(size.width, features.height / size.height)) // 2
        columns = slice(beyond, features.width - beyond)
    return rows, columns


def views(picture: UInt8[np.ndarray, "Y X 3"], grid: Size, side: int) -> UInt8[np.ndarray, "V S S 3"]:
    """The whole picture squeezed to a square, then the tiles of the grid row by row, on black.

    Args:
      picture: RGB.
      grid: in pixels, whole tiles.
      side: S, of a tile in pixels.

    Raises:
      UserError: the grid is not made of whole tiles.
    """
    if grid.width % side or grid.height % side:
        raise UserError(f"a grid of {grid.width}x{grid.height} pixels is not made of tiles of {side}x{side}")
    image = Image.fromarray(picture)
    small = fitted(Size(*image.size), grid)
    canvas = Image.new("RGB", grid, (0, 0, 0))
    at = (grid.width - small.width) // 2, (grid.height - small.height) // 2
    canvas.paste(image.resize(small, Image.Resampling.BICUBIC), at)
    down, across = grid.height // side, grid.width // side
    tiles = np.asarray(canvas).reshape(down, side, across, side, 3).transpose(0, 2, 1, 3, 4)
    base = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    return np.concatenate([base[None], tiles.reshape(-1, side, side, 3)])


def slots(
    size: Size | None,
    grid: Size | None,
    *,
    first: int,
    newline: int,
    tile: int,
    side: int,
    merge: str = "spatial_unpad",
    rule: str = "original",
) -> Int32[np.ndarray, "F"]:
    """Which features stand for a picture, in order: numbers view · P + patch, and `newline`.

    The whole view's come first, then the tiles' row by row over all tiles, with a newline after each row.

    Args:
      size: of the picture, in pixels; None: it has one view alone.
      grid: of its tiles, in pixels.
      first: number of its first view.
      newline: number of the learned newline.
      tile: of a side, in pixels; side: of a view in patches, P = side².
      merge: "flat": all features view by view; "spatial": row by row over the tiles, without newlines;
        "spatial_unpad": without those beyond the picture, and with newlines.
      rule: see `unpadded`.

    Raises:
      UserError: an unknown merge, or nothing of the picture is left: it is too long or too narrow.

    Example:
      >>> slots(Size(2, 1), Size(2, 2), first=0, newline=9, tile=1, side=1).tolist()
      [0, 1, 2, 9, 3, 4, 9]
    """
    if merge not in MERGES:
        raise UserError(f"merging of a picture's views {merge!r} does not exist; there are {', '.join(MERGES)}")
    P = side * side
    base = first * P + np.arange(P, dtype=np.int32)
    if size is None or grid is None:
        return np.append(base, np.int32(newline)) if merge == "spatial_unpad" else base
    down, across = grid.height // tile, grid.width // tile
    if merge == "flat":
        return first * P + np.arange((1 + down * across) * P, dtype=np.int32)
    order = np.arange(down * across * P, dtype=np.int32).reshape(down, across, side, side)
    mosaic = (first + 1) * P + order.transpose(0, 2, 1, 3).reshape(down * side, across * side)
    if merge == "spatial":
        return np.concatenate([base, mosaic.reshape(-1)])
    rows, columns = unpadded(size, Size(across * side, down * side), rule)
    kept = mosaic[rows, columns]
    if not kept.size:
        raise UserError(f"a picture of {size.width}x{size.height} pixels has no row or column of features left")
    ends = np.full((len(kept), 1), newline, np.int32)
    return np.concatenate([base, np.concatenate([kept, ends], axis=1).reshape(-1)])
