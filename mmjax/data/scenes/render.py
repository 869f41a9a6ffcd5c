"""From graph to pixels, at any size."""

import numpy as np
from jaxtyping import UInt8

from mmjax.data.scenes.background import paint
from mmjax.data.scenes.graph import Graph, Object
from mmjax.data.scenes.sprites import SpriteBank


def render(graph: Graph, bank: SpriteBank, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The scene as uint8[size, size, 3]: the background, then the objects from the farthest to the nearest."""
    canvas = paint(graph.background, size)
    for item in sorted(graph.objects, key=_depth):
        draw(canvas, item, bank)
    return canvas


def _depth(item: Object) -> int:
    return item.depth


def draw(canvas: UInt8[np.ndarray, "Y Y 3"], item: Object, bank: SpriteBank) -> None:
    """Composite one object over a square canvas in place: canvas · (1 − alpha) + premultiplied colour."""
    size = canvas.shape[0]
    pixels = max(1, round(item.side * size))
    colour, clear = bank.scaled(item.style, item.row, pixels, item.flip)
    # Rounding the centre, not the corner, keeps boxes within half a pixel of the truth.
    left = round((item.left + item.side / 2) * size - pixels / 2)
    top = round((item.top + item.side / 2) * size - pixels / 2)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + pixels, size), min(top + pixels, size)
    inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    under = canvas[y0:y1, x0:x1]
    # (v + 127) / 255 in integers, exact to half a level: premultiplied colours add without overflow.
    mixed = (under * clear[inside] + 127) // 255 + colour[inside]
    canvas[y0:y1, x0:x1] = np.minimum(mixed, 255)
