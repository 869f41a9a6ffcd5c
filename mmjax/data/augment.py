"""Training augmentation of one image: one geometric resampling, one colour matrix, a varied background.

Everything is drawn from the generator that is passed in, so that a sample is a function of its position alone.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.image import WHITE, Color, Preprocess, check, check_color
from mmjax.data.randaugment import rand_augment

BACKGROUNDS = ("fixed", "plain", "gradient", "noise")
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL converts to grey

# Lowest and highest value of every number and of both ends of every range.
LIMITS = {
    "scale": (0.01, 16.0),
    "ratio": (0.1, 10.0),
    "rotate": (0.0, 180.0),
    "shear": (0.0, 60.0),
    "flip": (0.0, 1.0),
    "color": (0.0, 1.0),
    "brightness": (0.0, 1.0),
    "contrast": (0.0, 1.0),
    "saturation": (0.0, 1.0),
    "hue": (0.0, 0.5),
    "gray": (0.0, 1.0),
    "shade": (0.0, 1.0),
    "blur": (0.0, 1.0),
    "blur_radius": (0.0, 32.0),
    "noise": (0.0, 1.0),
    "noise_sigma": (0.0, 128.0),
    "erase": (0.0, 1.0),
    "erase_area": (0.0, 0.5),
    "magnitude": (0.0, 10.0),
    "ops_share": (0.0, 1.0),
}
_RANGES = ("scale", "ratio", "blur_radius", "noise_sigma", "erase_area")


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random augmentation of one image; every default leaves the image alone.

    Attributes:
      size: side of the output in pixels.
      scale: range of the crop's area, as a share of the largest square inside the image. Above 1 the crop reaches
        past the image, which then appears small on the background.
      ratio: range of the crop's width / height (drawn log-uniformly).
      rotate: largest rotation in degrees, either way.
      shear: largest shear in degrees, along x.
      flip: probability of a mirror image. Off by default: a text may say left or right.
      backgrounds: weights of what lies under transparent pixels and beside the image:
        "fixed" (the colour `fill`), "plain" (a random colour), "gradient" (between two), "noise" (smooth blobs).
      fill: colour of the "fixed" background: the one that evaluation uses.
      color: probability that brightness … hue are applied at all.
      brightness, contrast, saturation: each draws a factor from [1 - x, 1 + x]. Contrast is about mid-grey.
      hue: largest rotation about the grey axis, in turns.
      gray: probability of a grey image.
      shade: largest strength of a linear ramp of light across the image, in a random direction.
      blur: probability of a Gaussian blur; blur_radius: range of its sigma in output pixels.
      noise: probability of Gaussian pixel noise; noise_sigma: range of its sigma in grey levels.
      erase: probability of one rectangle of random colour; erase_area: range of its share of the image.
      ops: last of all, so many operations of RandAugment (data/randaugment.py), each with probability `ops_share` and
        of strength `magnitude` of 10.

    Colour and shading change the image, not the background under it.

    Raises:
      UserError: a value outside `LIMITS`, a range that runs backwards, an unknown background.

    Example:
      >>> augment = Augment(size=32, scale=(0.9, 1.0))
      >>> augment(np.zeros([64, 64, 3], np.uint8), np.random.default_rng(0)).shape
      (32, 32, 3)
    """

    size: int = 224
    scale: tuple[float, ...] = (1.0, 1.0)
    ratio: tuple[float, ...] = (1.0, 1.0)
    rotate: float = 0.0
    shear: float = 0.0
    flip: float = 0.0
    backgrounds: Mapping[str, float | int] = dataclasses.field(default_factory=lambda: {"fixed": 1.0})
    fill: Color = WHITE
    color: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gray: float = 0.0
    shade: float = 0.0
    blur: float = 0.0
    blur_radius: tuple[float, ...] = (0.1, 1.0)
    noise: float = 0.0
    noise_sigma: tuple[float, ...] = (0.0, 16.0)
    erase: float = 0.0
    erase_area: tuple[float, ...] = (0.02, 0.2)
    ops: int = 0
    magnitude: float = 7.0
    ops_share: float = 0.5

    def __post_init__(self):
        if int(self.size) != self.size or self.size < 1:
            raise UserError(f"augment size {self.size!r}; valid: a whole number of pixels, at least 1")
        if int(self.ops) != self.ops or self.ops < 0:
            raise UserError(f"augment ops = {self.ops!r}; valid: a whole number, 0 or more")
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            ends = tuple(value) if name in _RANGES else (value,)
            if name in _RANGES and (len(ends) != 2 or ends[0] > ends[1]):
                raise UserError(f"augment {name} = {value!r}; valid: (low, high) with low <= high")
            if not all(low <= end <= high for end in ends):
                raise UserError(f"augment {name} = {value!r}; valid: from {low} to {high}")
            if name in _RANGES:
                object.__setattr__(self, name, ends)
        weights = dict(self.backgrounds)
        if not weights or set(weights) - set(BACKGROUNDS) or min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise UserError(f"augment backgrounds = {weights}; valid: positive weights for {', '.join(BACKGROUNDS)}")
        object.__setattr__(self, "backgrounds", weights)
        object.__setattr__(self, "fill", check_color(self.fill, "augment fill"))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8[Y, X, C], C = 1, 3 or 4 -> uint8[size, size, 3]."""
        # Colours are planes [3, size * size] in here: numpy is several times slower on an innermost axis of 3.
        planes, alpha = _geometry(self, image, rng)
        matrix, offset = _color_matrix(self, rng)
        if matrix is not None:
            planes = matrix @ planes
            planes += offset if alpha is None else offset * alpha
        if self.shade:
            planes *= 1 + np.float32(self.shade * rng.random()) * _ramp(self.size, rng)
        if alpha is not None:
            planes += (1 - alpha) * _background(self, rng)
        if rng.random() < self.noise:
            sigma = np.float32(_draw(rng, self.noise_sigma))
            planes += sigma * rng.standard_normal(planes.shape, dtype=np.float32)
        if rng.random() < self.erase:
            _erase(planes.reshape(3, self.size, self.size), _draw(rng, self.erase_area), rng)
        planes += 0.5
        np.clip(planes, 0, 255, out=planes)
        out = planes.T.astype(np.uint8, order="C").reshape(self.size, self.size, 3)
        return rand_augment(out, rng, self.ops, self.magnitude, self.ops_share) if self.ops else out


def _draw(rng: np.random.Generator, ends: tuple[float, ...]) -> float:
    return ends[0] + (ends[1] - ends[0]) * rng.random()


def _signed(rng: np.random.Generator, most: float) -> float:
    return most * (2 * rng.random() - 1)


def _geometry(spec: Augment, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
    """Crop, flip, rotation and shear in one resampling, then the blur.

    Returns:
      float32[3, size * size] premultiplied with alpha, and alpha float32[1, size * size] in 0…1 (None: opaque).
    """
    image = check(image)
    height, width = image.shape[:2]
    area = _draw(rng, spec.scale) * min(height, width) ** 2
    ratio = math.exp(_draw(rng, (math.log(spec.ratio[0]), math.log(spec.ratio[1]))))
    w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
    if spec.scale[1] <= 1:  # an elongated crop of a square image still has to fit
        w, h = min(w, width), min(h, height)
    # A crop larger than the image is placed so that the image stays inside it.
    left = _draw(rng, (min(0.0, width - w), max(0.0, width - w)))
    top = _draw(rng, (min(0.0, height - h), max(0.0, height - h)))
    mirrored = rng.random() < spec.flip
    angle, shear = _signed(rng, spec.rotate), _signed(rng, spec.shear)

    picture = Image.fromarray(image)
    inside = left >= 0 and top >= 0 and left + w <= width and top + h <= height
    if inside and not angle and not shear:
        if image.shape[2] == 4:
            picture = picture.convert("RGBa")
        box = (left, top, min(left + w, width), min(top + h, height))
        picture = picture.resize((spec.size, spec.size), Image.Resampling.BICUBIC, box=box)
        if mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:  # what lies outside the image is transparent
        if image.shape[2] == 3:
            picture = picture.convert("RGBA")
        picture = _affine(picture.convert("RGBa"), spec.size, (left, top, w, h), angle, shear, mirrored)
    if rng.random() < spec.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(_draw(rng, spec.blur_radius)))
    pixels = np.asarray(picture)
    planes = pixels.reshape(-1, pixels.shape[2]).T.astype(np.float32, order="C")
    return (planes, None) if len(planes) == 3 else (planes[:3], planes[3:] * np.float32(1 / 255))


def _affine(
    picture: Image.Image, size: int, box: tuple[float, float, float, float], angle: float, shear: float, mirrored: bool
) -> Image.Image:
    """The box (left, top, width, height; source pixels), rotated and sheared about its centre, as size x size.

    PIL's `transform` samples points and would alias when it shrinks. Nearest-neighbour samples at `fine` times the
    resolution and a box average cost a third of bilinear ones at equal quality.
    """
    left, top, w, h = box
    shrink = max(w, h) / size
    if shrink >= 4:  # large photographs: no need to visit every pixel
        factor = int(shrink // 2)
        picture = picture.reduce(factor)
        left, top, w, h = left / factor, top / factor, w / factor, h / factor
        shrink /= factor
    fine = math.ceil(1.5 * shrink) if shrink > 1 else 1
    n = size * fine
    cos, sin, tan = math.cos(math.radians(angle)), math.sin(math.radians(angle)), math.tan(math.radians(shear))
    sx, sy = (-w if mirrored else w) / n, h / n
    # source = centre + R(angle) [[1, tan], [0, 1]] diag(sx, sy) (output - n/2)
    a, b = cos * sx, (cos * tan - sin) * sy
    d, e = sin * sx, (sin * tan + cos) * sy
    c = left + w / 2 - (a + b) * n / 2
    f = top + h / 2 - (d + e) * n / 2
    how = Image.Resampling.NEAREST if fine > 1 else Image.Resampling.BILINEAR
    out = picture.transform((n, n), Image.Transform.AFFINE, (a, b, c, d, e, f), how)
    return out.reduce(fine) if fine > 1 else out


def _color_matrix(spec: Augment, rng: np.random.Generator) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Saturation, hue, contrast and brightness as one `matrix @ rgb + offset` (float32[3, 3], float32[3, 1])."""
    jitter = rng.random() < spec.color and (spec.brightness or spec.contrast or spec.saturation or spec.hue)
    gray = rng.random() < spec.gray
    if not jitter and not gray:
        return None, None
    saturation = brightness = contrast = 1.0
    turn = 0.0
    if jitter:
        brightness = 1 + _signed(rng, spec.brightness)
        contrast = 1 + _signed(rng, spec.contrast)
        saturation = 1 + _signed(rng, spec.saturation)
        turn = _signed(rng, spec.hue)
    if gray:
        saturation = 0.0
    offset = np.full((3, 1), 127.5 * (1 - contrast) * brightness, np.float32)
    return _color_product(turn, saturation, brightness * contrast), offset


def _color_product(turn: float, saturation: float, gain: float) -> np.ndarray:
    """float32[3, 3]: `gain * H(turn) @ (saturation * I + (1 - saturation) * 1 luma^T)`.

    H rotates about the grey axis, so that H 1 = 1 and the product is `gain * (saturation * H + … 1 luma^T)`.
    """
    angle = 2 * math.pi * turn
    cos, sin = math.cos(angle), math.sin(angle)
    p, q, r = cos + (1 - cos) / 3, (1 - cos) / 3 - sin / math.sqrt(3), (1 - cos) / 3 + sin / math.sqrt(3)
    k = gain * saturation
    x, y, z = (gain * (1 - saturation) * weight for weight in LUMA)
    rows = ((k * p + x, k * q + y, k * r + z), (k * r + x, k * p + y, k * q + z), (k * q + x, k * r + y, k * p + z))
    return np.array(rows, np.float32)


@functools.lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel, float32[size * size] each, from -1 to 1."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    return x.ravel(), y.ravel()


def _ramp(size: int, rng: np.random.Generator) -> np.ndarray:
    """float32[size * size]: a linear ramp in a random direction, from -1 to 1 between opposite corners."""
    x, y = _grid(size)
    angle = 2 * math.pi * rng.random()
    cos, sin = math.cos(angle), math.sin(angle)
    norm = abs(cos) + abs(sin)
    return np.float32(cos / norm) * x + np.float32(sin / norm) * y


def _background(spec: Augment, rng: np.random.Generator) -> np.ndarray:
    """Grey levels, float32[3, size * size], or [3, 1] for one colour."""
    kind = _choose(spec.backgrounds, rng)
    if kind == "fixed":
        return np.array(spec.fill, np.float32)[:, None]
    if kind == "plain":
        return 255 * rng.random((3, 1), np.float32)
    if kind == "gradient":
        first, second = 255 * rng.random((2, 3, 1), np.float32)
        return (first + second) / 2 + (second - first) / 2 * _ramp(spec.size, rng)
    cells = 2 + int(5 * rng.random())
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
    smooth = coarse.resize((spec.size, spec.size), Image.Resampling.BILINEAR)
    return np.asarray(smooth).reshape(-1, 3).T.astype(np.float32, order="C")


def _choose(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    point = rng.random() * sum(weights.values())
    for name, weight in weights.items():
        point -= weight
        if point < 0:
            return name
    return name


def _erase(planes: np.ndarray, share: float, rng: np.random.Generator) -> None:
    """Paints a rectangle of `share` of the area into float32[3, size, size], in place."""
    size = planes.shape[1]
    ratio = math.exp(_signed(rng, math.log(3.0)))
    h = min(size, max(1, round(size * math.sqrt(share * ratio))))
    w = min(size, max(1, round(size * math.sqrt(share / ratio))))
    top, left = int((size - h + 1) * rng.random()), int((size - w + 1) * rng.random())
    planes[:, top : top + h, left : left + w] = 255 * rng.random((3, 1, 1), np.float32)


PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # "A random square crop from resized images is the only data augmentation used during training": CLIP §2.4.
    "clip": {"scale": (0.9, 1.0)},
    # Drawn symbols whose shape is to be known in any palette, light and size.
    "sprite": {
        "scale": (0.6, 1.6),
        "ratio": (0.85, 1.18),
        "rotate": 15.0,
        "shear": 8.0,
        "backgrounds": {"fixed": 2.0, "plain": 2.0, "gradient": 1.0, "noise": 1.0},
        "brightness": 0.3,
        "contrast": 0.3,
        "saturation": 0.5,
        "hue": 0.06,
        "gray": 0.05,
        "shade": 0.35,
        "blur": 0.25,
        "blur_radius": (0.2, 0.9),
        "noise": 0.25,
        "noise_sigma": (1.0, 12.0),
        "erase": 0.15,
        "erase_area": (0.02, 0.12),
    },
    # ALBEF (Li et al. 2021), its release: colours stay, because texts name them.
    "albef": {"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5, "ops": 2, "magnitude": 7.0},
    # SimCLR (Chen et al. 2020), appendix A, strength 1: mirrors, so not for texts with left and right.
    "simclr": {
        "scale": (0.08, 1.0),
        "ratio": (3 / 4, 4 / 3),
        "flip": 0.5,
        "color": 0.8,
        "brightness": 0.8,
        "contrast": 0.8,
        "saturation": 0.8,
        "hue": 0.2,
        "gray": 0.2,
        "blur": 0.5,
        "blur_radius": (0.1, 2.0),
    },
}


def from_config(config: Mapping[str, Any]) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """An image transform from a mapping: `preset` (default "none") and fields of `Augment` that override it.

    `preset="eval"` gives `Preprocess`, whose fields are size, mode and background.

    Raises:
      UserError: unknown preset or key, or a value out of range.

    Example:
      >>> from_config(dict(preset="clip", size=64)).scale
      (0.9, 1.0)
    """
    values = dict(config)
    preset = values.pop("preset", "none")
    choose("image preset", preset, [*PRESETS, "eval"])
    kind = Preprocess if preset == "eval" else Augment
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        choose(f"key of the image transform {preset!r}", name, ["preset", *fields])
        values[name] = _plain(name, values[name])
    return kind(**{**PRESETS.get(preset, {}), **values})


def _plain(name: str, value: Any) -> Any:
    """Lists and whole numbers of a config as tuples and floats, its mappings as dicts."""
    if name in _RANGES or name in ("fill", "background"):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UserError(f"image {name} = {value!r}; valid: a list of {2 if name in _RANGES else 3} numbers")
        return tuple(float(v) for v in value) if name in _RANGES else tuple(value)
    if name == "backgrounds":
        return {kind: float(weight) for kind, weight in dict(value).items()}
    return float(value) if name in LIMITS else value
