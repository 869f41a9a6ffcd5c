"""Images before the model: compositing, the resize of evaluation, and what counts as an image."""

import dataclasses

import numpy as np
from PIL import Image

from mmjax.core.errors import UserError

Color = tuple[int, int, int]
MODES = ("crop", "square", "pad")
_LONGEST = 8192  # pixels of a side before "pad" makes it a square
RESAMPLES = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

WHITE: Color = (255, 255, 255)


def check(image: np.ndarray, where: str = "image") -> np.ndarray:
    """An image as uint8[Y, X, C] with C in (3, 4); grey images (uint8[Y, X] or C = 1) become RGB.

    Raises:
      UserError: another dtype or shape.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = f"{image.dtype} array" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"{where}: expected a uint8 numpy array, got {got}")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise UserError(f"{where}: expected uint8[Y, X], [Y, X, 1], [Y, X, 3] or [Y, X, 4], got shape {image.shape}")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def check_color(color: tuple, where: str) -> Color:
    """A colour as three integers 0…255; anything else is a UserError."""
    values = tuple(color)
    if len(values) != 3 or any(not 0 <= int(v) <= 255 or int(v) != v for v in values):
        raise UserError(f"{where}: a colour is three integers from 0 to 255, got {color!r}")
    return int(values[0]), int(values[1]), int(values[2])


def composite(image: np.ndarray, background: Color = WHITE) -> np.ndarray:
    """Lays an image on a plain colour: `alpha * image + (1 - alpha) * background`, rounded.

    Args:
      image: uint8[Y, X, C], C = 3 (returned as it is) or 4 (RGB with straight alpha).
      background: red, green, blue.

    Returns:
      uint8[Y, X, 3].
    """
    image = check(image)
    if image.shape[2] == 3:
        return image
    alpha = image[:, :, 3:].astype(np.uint32)
    under = np.asarray(background, np.uint32)[None, None]
    return ((image[:, :, :3] * alpha + under * (255 - alpha) + 127) // 255).astype(np.uint8)


def preprocess(
    image: np.ndarray,
    size: int,
    *,
    mode: str = "crop",
    background: Color = WHITE,
    resample: str = "bicubic",
    where: str = "image",
) -> np.ndarray:
    """The image that evaluation sees, resized with antialiasing.

    * "crop": the shorter side becomes `size`, then the centre square: byte for byte OpenAI CLIP's
      `Resize(size, BICUBIC)` and `CenterCrop(size)`.
    * "square": both sides become `size`; the aspect ratio is lost, nothing is cut.
    * "pad": laid on the centre of a square of `background`, whose side becomes `size`, as LLaVA-1.5's code does.

    Args:
      image: uint8[Y, X, C], C = 1, 3 or 4; an alpha channel is laid on `background` first.
      size: pixels.
      resample: "bicubic", or "bilinear" as in SigLIP 2.
      where: named in errors.

    Returns:
      uint8[size, size, 3].
    """
    if resample not in RESAMPLES:
        raise UserError(f"preprocess resample {resample!r}; valid: {', '.join(RESAMPLES)}")
    how = RESAMPLES[resample]
    rgb = Image.fromarray(composite(check(image, where), background))
    width, height = rgb.size
    if mode == "square":
        return np.array(rgb.resize((size, size), how))
    if mode == "crop":
        short, long = min(width, height), max(width, height)
        other = int(size * long / short)  # cut, not rounded: as torchvision does
        shape = (size, other) if width <= height else (other, size)
        rgb = rgb.resize(shape, how)
        # Python's round (half to even) as in torchvision's center_crop; floor would differ by a pixel.
        left, top = round((shape[0] - size) / 2), round((shape[1] - size) / 2)
        return np.array(rgb.crop((left, top, left + size, top + size)))
    if mode == "pad":
        if max(width, height) > _LONGEST:  # the square of a long strip would take gigabytes
            rgb.thumbnail((_LONGEST, _LONGEST), how)
        long = max(rgb.size)
        canvas = Image.new("RGB", (long, long), background)
        canvas.paste(rgb, ((long - rgb.width) // 2, (long - rgb.height) // 2))
        return np.array(canvas.resize((size, size), how))
    raise UserError(f"preprocess mode {mode!r}; valid: {', '.join(MODES)}")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """`preprocess` as an image transform of the pipeline: the same for every epoch.

    Attributes:
      size: side of the output in pixels, >= 1.
      mode: "crop", "square" or "pad".
      background: colour under transparent pixels and beside padded images.
      resample: "bicubic" or "bilinear".
    """

    size: int = 224
    mode: str = "crop"
    background: Color = WHITE
    resample: str = "bicubic"

    def __post_init__(self):
        if self.size < 1:
            raise UserError(f"image size {self.size}; valid: at least 1 pixel")
        if self.mode not in MODES:
            raise UserError(f"preprocess mode {self.mode!r}; valid: {', '.join(MODES)}")
        if self.resample not in RESAMPLES:
            raise UserError(f"preprocess resample {self.resample!r}; valid: {', '.join(RESAMPLES)}")
        object.__setattr__(self, "background", check_color(self.background, "background"))

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """uint8[Y, X, C] -> uint8[size, size, 3]; `rng` is not used."""
        return preprocess(image, self.size, mode=self.mode, background=self.background, resample=self.resample)
