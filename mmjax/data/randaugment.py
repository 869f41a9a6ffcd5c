"""RandAugment as ALBEF and BLIP use it: a few operations a picture, none that changes a colour a text may name.

Source: Cubuk et al. 2020 (RandAugment); operations and strengths of the releases of ALBEF and BLIP.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

FILL = (128, 128, 128)
MOST = 10.0  # the strength M of an operation at its strongest


def _affine(picture: Image.Image, *coefficients: float) -> Image.Image:
    """Output pixel (x, y) is source pixel (a x + b y + c, d x + e y + f); what lies outside is grey."""
    return picture.transform(
        picture.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=FILL
    )


def _rotate(picture: Image.Image, degrees: float) -> Image.Image:
    return picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=FILL)


def _signed(level: float, rng: np.random.Generator) -> float:
    return -level if rng.random() > 0.5 else level


# Name -> (picture, strength from 0 to 1, generator) -> picture.
OPERATIONS: dict[str, Callable[[Image.Image, float, np.random.Generator], Image.Image]] = {
    "identity": lambda p, m, rng: p,
    "autocontrast": lambda p, m, rng: ImageOps.autocontrast(p),
    "equalize": lambda p, m, rng: ImageOps.equalize(p),
    "brightness": lambda p, m, rng: ImageEnhance.Brightness(p).enhance(1.8 * m + 0.1),
    "sharpness": lambda p, m, rng: ImageEnhance.Sharpness(p).enhance(1.8 * m + 0.1),
    "shear_x": lambda p, m, rng: _affine(p, 1.0, _signed(0.3 * m, rng), 0.0, 0.0, 1.0, 0.0),
    "shear_y": lambda p, m, rng: _affine(p, 1.0, 0.0, 0.0, _signed(0.3 * m, rng), 1.0, 0.0),
    "translate_x": lambda p, m, rng: _affine(p, 1.0, 0.0, _signed(10 * m, rng), 0.0, 1.0, 0.0),
    "translate_y": lambda p, m, rng: _affine(p, 1.0, 0.0, 0.0, 0.0, 1.0, _signed(10 * m, rng)),
    "rotate": lambda p, m, rng: _rotate(p, _signed(30 * m, rng)),
}


def rand_augment(image: np.ndarray, rng: np.random.Generator, ops: int, magnitude: float, share: float) -> np.ndarray:
    """uint8[Y, X, 3] -> uint8[Y, X, 3]: `ops` operations drawn with replacement, each done with probability `share`.

    Args:
      image: RGB.
      rng: what is drawn from.
      ops: N of the paper.
      magnitude: M, from 0 to 10.
      share: 0.5 in the releases.

    Example:
      >>> rand_augment(np.zeros((4, 4, 3), np.uint8), np.random.default_rng(0), 2, 7.0, 0.5).shape
      (4, 4, 3)
    """
    picture, names = Image.fromarray(image), list(OPERATIONS)
    for _ in range(ops):
        name = names[math.floor(len(names) * rng.random())]
        if rng.random() < share:
            picture = OPERATIONS[name](picture, magnitude / MOST, rng)
    return np.asarray(picture)
