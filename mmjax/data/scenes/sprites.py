"""Sprites for scenes: tight bounds, mean colours, and premultiplied copies at every size in a bounded cache."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8, UInt16
from PIL import Image

VISIBLE = 32  # an alpha above this counts as the object (of 255); below it is soft shadow or a filter's fringe
_CACHE_BYTES = 96 * 2**20
_COARSE = 16  # side of the coarse masks that decide whether two objects really touch


class Shape(NamedTuple):
    """What the scene graph needs to know of a sprite: tight bounds as shares of the sprite's side, mean RGB."""

    x0: float
    y0: float
    x1: float
    y1: float
    colour: tuple[float, float, float]


class SpriteBank:
    """Sprites by (style, row); `load(style)` gives uint8[N, 64, 64, 4] and is called once, when first needed."""

    def __init__(self, load: Callable[[str], UInt8[np.ndarray, "N 64 64 4"]]) -> None:
        self._load = load
        self._sheets: dict[str, np.ndarray] = {}
        self._shapes: dict[tuple[str, int], Shape] = {}
        self._masks: dict[tuple[str, int], np.ndarray] = {}
        self._scaled: dict[tuple[str, int, int, bool], tuple[np.ndarray, np.ndarray]] = {}
        self._bytes = 0

    def sheet(self, style: str) -> UInt8[np.ndarray, "N 64 64 4"]:
        """All sprites of a style, uint8[N, 64, 64, 4]."""
        if style not in self._sheets:
            self._sheets[style] = self._load(style)
        return self._sheets[style]

    def drawn(self, style: str, row: int) -> bool:
        """Whether the style has a picture of this concept."""
        return bool((self.sheet(style)[row, :, :, 3] > VISIBLE).any())

    def shape(self, style: str, row: int) -> Shape:
        found = self._shapes.get((style, row))
        if found is None:
            found = self._shapes[style, row] = _measure(self.sheet(style)[row])
        return found

    def mask(self, style: str, row: int) -> Bool[np.ndarray, "16 16"]:
        """Where the sprite is opaque, bool[16, 16]."""
        found = self._masks.get((style, row))
        if found is None:
            alpha = self.sheet(style)[row, :, :, 3].astype(np.float32)
            step = alpha.shape[0] // _COARSE
            found = alpha.reshape(_COARSE, step, _COARSE, step).mean(axis=(1, 3)) > 127
            self._masks[style, row] = found
        return found

    def scaled(
        self, style: str, row: int, pixels: int, flip: bool
    ) -> tuple[UInt16[np.ndarray, "{pixels} {pixels} 3"], UInt16[np.ndarray, "{pixels} {pixels} 1"]]:
        """(premultiplied colour uint16[p, p, 3], 255 - alpha uint16[p, p, 1]) at `pixels` a side."""
        key = (style, row, pixels, flip)
        found = self._scaled.get(key)
        if found is None:
            found = _scale(self.sheet(style)[row], pixels, flip)
            if self._bytes > _CACHE_BYTES:
                self._scaled.clear()
                self._bytes = 0
            self._bytes += found[0].nbytes + found[1].nbytes
            self._scaled[key] = found
        return found


def _measure(sprite: np.ndarray) -> Shape:
    side = sprite.shape[0]
    opaque = sprite[:, :, 3] > VISIBLE
    rows = np.flatnonzero(opaque.any(axis=1))
    columns = np.flatnonzero(opaque.any(axis=0))
    if not len(rows):
        raise ValueError("an empty sprite has no shape")
    colour = sprite[opaque][:, :3].mean(axis=0)
    return Shape(
        int(columns[0]) / side,
        int(rows[0]) / side,
        int(columns[-1] + 1) / side,
        int(rows[-1] + 1) / side,
        (float(colour[0]), float(colour[1]), float(colour[2])),
    )


def _scale(sprite: np.ndarray, pixels: int, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lanczos on premultiplied colour: no dark or bright seam where colour meets transparency."""
    picture = Image.fromarray(sprite).convert("RGBa")
    if pixels != sprite.shape[0]:
        picture = picture.resize((pixels, pixels), Image.Resampling.LANCZOS)
    values = np.asarray(picture).astype(np.uint16)
    if flip:
        values = values[:, ::-1]
    alpha = values[:, :, 3:]
    colour = np.minimum(values[:, :, :3], alpha)  # the filter overshoots: colour may not exceed its alpha
    return np.ascontiguousarray(colour), np.ascontiguousarray(255 - alpha)
