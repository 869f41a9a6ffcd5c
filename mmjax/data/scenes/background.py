"""Backgrounds with names: one colour word each, plain or with a tone-on-tone pattern, defined at any resolution."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from mmjax.data.scenes.dice import Dice

Rgb = tuple[float, float, float]

# Centres of the colour words, kept far apart: a background is called what every viewer would call it.
COLOURS: dict[str, Rgb] = {
    "white": (250.0, 250.0, 250.0),
    "gray": (150.0, 152.0, 155.0),
    "black": (22.0, 22.0, 26.0),
    "red": (205.0, 45.0, 45.0),
    "orange": (245.0, 150.0, 50.0),
    "yellow": (250.0, 225.0, 95.0),
    "green": (95.0, 180.0, 95.0),
    "blue": (75.0, 135.0, 225.0),
    "purple": (145.0, 90.0, 190.0),
    "pink": (250.0, 170.0, 200.0),
    "brown": (135.0, 90.0, 55.0),
}
_NEUTRAL = ("white", "gray", "black")
PATTERNS = ("plain", "gradient", "stripes", "dots", "checks")
_WEIGHTS = (0.5, 0.2, 0.1, 0.1, 0.1)
_JITTER = 9.0


class Background(NamedTuple):
    """`colour` is the word for it; `first` and `second` are the two tones (RGB, 0..255) of the pattern.

    `period` and `phase` are shares of the canvas side; `angle` is in radians.
    """

    colour: str
    pattern: str
    first: Rgb
    second: Rgb
    angle: float
    period: float
    phase: float


def choose_background(dice: Dice, avoid: list[Rgb]) -> Background:
    """A background whose colour is not near the mean colour of any object in `avoid` (the best of six tries)."""
    best, best_distance = "white", -1.0
    for _ in range(6):
        name = dice.choice(tuple(COLOURS))
        distance = min(_distance(COLOURS[name], colour) for colour in avoid)
        if distance > best_distance:
            best, best_distance = name, distance
        if distance > 95:
            break
    red, green, blue = COLOURS[best]
    shifts = [dice.uniform(-_JITTER, _JITTER) for _ in range(3)]
    if best in _NEUTRAL:
        shifts = shifts[:1] * 3  # a tinted white would be pink or cream
    first = (_clip(red + shifts[0]), _clip(green + shifts[1]), _clip(blue + shifts[2]))
    pattern = dice.weighted(PATTERNS, _WEIGHTS)
    # The second tone is the first one a little darker or lighter: the colour word stays right.
    tone = dice.uniform(0.10, 0.17) * (1 if best == "black" or (best != "white" and dice.chance(0.5)) else -1)
    mix = 255.0 if tone > 0 else 0.0
    share = abs(tone)
    second = tuple(_clip(value * (1 - share) + mix * share) for value in first)
    return Background(
        best,
        pattern,
        first,
        (second[0], second[1], second[2]),
        angle=dice.choice((0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)),
        period=dice.uniform(0.10, 0.22),
        phase=dice.random(),
    )


def _distance(a: Rgb, b: Rgb) -> float:
    return ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2) ** 0.5


def _clip(value: float) -> float:
    return min(max(value, 0.0), 255.0)


def paint(background: Background, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The background at `size` pixels a side, uint8[size, size, 3]."""
    first = np.array(background.first, np.float32)
    if background.pattern == "plain":
        return np.broadcast_to((first + 0.5).astype(np.uint8), (size, size, 3)).copy()
    second = np.array(background.second, np.float32)
    amount = _amount(background, size)[:, :, None]
    return (first + amount * (second - first) + 0.5).astype(np.uint8)


def _amount(background: Background, size: int) -> np.ndarray:
    """How much of the second tone each pixel has, float32[size, size] in 0..1."""
    y, x = _grid(size)
    cos, sin = np.float32(np.cos(background.angle)), np.float32(np.sin(background.angle))
    if background.pattern == "gradient":
        along = (x - 0.5) * cos + (y - 0.5) * sin
        return along / (abs(cos) + abs(sin)) + np.float32(0.5)
    period, phase = np.float32(background.period), np.float32(background.phase)
    if background.pattern == "stripes":
        return _soft(np.abs(((x * cos + y * sin) / period + phase) % 1 - 0.5) - 0.25, size * background.period)
    u, v = (x / period + phase) % 1 - 0.5, (y / period + phase) % 1 - 0.5
    if background.pattern == "dots":
        return _soft(0.3 - np.sqrt(u * u + v * v), size * background.period)
    if background.pattern == "checks":
        return _soft(u * v * 2, size * background.period)
    raise ValueError(f"unknown background pattern {background.pattern!r}; known: {', '.join(PATTERNS)}")


def _soft(distance: np.ndarray, pixels: float) -> np.ndarray:
    """A step from 0 to 1 at distance 0, one pixel wide; `distance` is in periods of `pixels` pixels."""
    return np.clip(distance * np.float32(pixels) + np.float32(0.5), 0, 1)


@functools.lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres as shares of the side: (float32[size, 1], float32[1, size])."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return centres[:, None], centres[None, :]
