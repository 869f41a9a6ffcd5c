"""Pixels to the bytes of a PNG file: the library's own encoder needs TensorFlow."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def encode_png(pixels: UInt8[np.ndarray, "Y X C"]) -> bytes:
    """A PNG of an image with C = 3 (RGB) or 4 (RGB with straight alpha)."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
