"""Bytes of an image file to pixels: what can be shown is converted, whatever its mode; the rest is a `BadExample`."""

import contextlib
import functools
import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from mmjax.data.example import BadExample

MAX_PIXELS = 2**26  # 8192 x 8192, 200 MB as RGB

# Format (Pillow's name) -> how its files begin. Only these are tried: formats that Pillow hands to other programs
# (EPS, WMF) or recognises without a signature (TGA) have no place in data from elsewhere.
SIGNATURES: dict[str, re.Pattern[bytes]] = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.S),
    "GIF": re.compile(rb"GIF8[79]a"),
    "BMP": re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", re.S),
    "TIFF": re.compile(rb"II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]"),
    "AVIF": re.compile(rb"....ftyp(avif|avis|mif1.{4,40}avif)", re.S),
    "JPEG2000": re.compile(rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  \r\n\x87\n"),
    "ICO": re.compile(rb"\x00\x00\x01\x00"),
    "PPM": re.compile(rb"P[1-6]\s"),
}

_TURNS = {  # EXIF orientation -> what makes the picture upright
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "Y X C"]:
    """The pixels of an image file, upright: RGB, or RGB with straight alpha where the file has transparency.

    Converted: grey of 1 to 32 bits and float, palettes with and without transparency, CMYK (inverted in the files that
    say so), YCbCr and LAB, EXIF orientation; of an animation the first frame. Grey of 16 bits is divided by 257;
    32-bit grey, whose white no file tells, by its own maximum (float from 0 to 1 counts as such); colour profiles are
    not applied.

    Args:
      data: the whole file; PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, ICO or PPM.
      max_pixels: larger images are refused before memory is taken for them. Pillow refuses from 179 million on.

    Returns:
      uint8[Y, X, 3] or uint8[Y, X, 4], read-only or not.

    Raises:
      BadExample: "empty file", "not an image", "truncated image", "corrupt image" or "image too large".

    Example:
      >>> decode_image(b"P6 1 1 255 " + bytes([1, 2, 3]))
      array([[[1, 2, 3]]], dtype=uint8)
    """
    if not data:
        raise BadExample("empty file")
    kind = image_format(data)
    if kind is None:
        raise BadExample("not an image", f"the file begins with {bytes(data[:40])!r}")
    if kind not in readable():
        raise BadExample("not an image", f"{kind}, which this build of Pillow cannot read")
    try:
        with _silent(), Image.open(io.BytesIO(data), formats=[kind]) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadExample("image too large", f"{width} x {height} pixels, more than {max_pixels:,}")
            image.load()
            pixels = _eight_bits(image)
            orientation = _orientation(image)
    except BadExample:
        raise
    except Image.DecompressionBombError as error:
        raise BadExample("image too large", str(error)) from None
    except Exception as error:  # of any kind: decoders meet what no format allows
        early = ends_early(kind, data) or re.search("truncated|eof", str(error), re.I)
        raise BadExample("truncated image" if early else "corrupt image", f"{kind}: {_words(error)}") from None
    if 0 in pixels.shape:
        raise BadExample("corrupt image", f"{kind}: it has {width} x {height} pixels")
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def image_format(data: bytes) -> str | None:
    """The format that the first bytes tell, a key of `SIGNATURES`, or None."""
    return next((kind for kind, begin in SIGNATURES.items() if begin.match(data)), None)


def _eight_bits(image: Image.Image) -> UInt8[np.ndarray, "Y X C"]:
    """The loaded image as RGB or RGBA."""
    if image.mode.startswith(("I", "F")):
        return _deep_grey(image)
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for an inverted one; those without Adobe's marker are not.
        image = Image.fromarray(255 - np.asarray(image), "CMYK")
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:  # of a 16-bit PNG, whose pixels are cut
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.mode == "La":
        image = image.convert("LA")
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _deep_grey(image: Image.Image) -> UInt8[np.ndarray, "Y X C"]:
    """Grey of more than eight bits (modes I;16…, I, F)."""
    values = np.asarray(image)
    if values.dtype.kind == "u" or image.format in ("PNG", "PPM"):
        bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]  # a TIFF may use only 12 of the 16
        white = 2 ** min(int(bits), 16) - 1
    else:
        values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        values = values - min(values.min(), 0.0)
        shares = values.dtype.kind == "f" and image.mode == "F" and values.max() <= 1
        white = 1.0 if shares else max(values.max(), 1e-30)
    grey = np.clip(values.astype(np.float64) * 255 / white + 0.5, 0, 255).astype(np.uint8)
    out = np.repeat(grey[:, :, None], 3, axis=2)
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return out
    return np.concatenate([out, np.where(values == clear, 0, 255).astype(np.uint8)[:, :, None]], axis=2)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8. Damaged EXIF counts as none, as in every viewer: the picture itself is good."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _words(error: Exception) -> str:
    """An error's words, the same in every process: without addresses."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "no header that the decoder understands"
    return re.sub(r"<[^>]* at 0x[0-9a-f]+>", "it", f"{type(error).__name__}: {error}" if str(error) else repr(error))


_lock = threading.Lock()
_decoding = 0
_filters = contextlib.ExitStack()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Ignores Pillow's warnings while images are decoded: what matters of them is in the result.

    `warnings.catch_warnings` alone is for one thread: with several, the filters of the first would be put back while
    others still decode, and theirs would stay for good. So the first to come sets them and the last to go undoes it.
    """
    global _decoding
    with _lock:
        if not _decoding:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _decoding += 1
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            if not _decoding:
                _filters.close()


def ends_early(kind: str, data: bytes) -> bool:
    """Whether a file of a known format lacks its end, by the lengths that the format itself states.

    Decoders say little: the same words may stand for a damaged byte and for a download that broke off.
    """
    try:
        return _ENDS_EARLY[kind](data) if kind in _ENDS_EARLY else False
    except (struct.error, IndexError):  # a number that should be there is not
        return True


def _png_ends_early(data: bytes) -> bool:
    place = 8
    while place < len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        place += 12 + length
        if name == b"IEND":
            return place > len(data)
        if not name.isalpha():  # no chunk: the file is damaged, not cut
            return False
    return True


def _jpeg_ends_early(data: bytes) -> bool:
    place = 2
    while place < len(data):
        if data[place] != 0xFF:
            return False
        marker = data[place + 1]
        if marker == 0xDA:  # pixels follow, and after them the end marker (thumbnails before this have their own)
            return b"\xff\xd9" not in data[place:]
        stands_alone = marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD9
        place += (1 if marker == 0xFF else 2) + (0 if stands_alone else struct.unpack_from(">H", data, place + 2)[0])
    return True


def _gif_ends_early(data: bytes) -> bool:
    def table(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    place = 13 + table(data[10])
    while data[place] != 0x3B:
        if data[place] == 0x21:
            place += 2
        elif data[place] == 0x2C:
            place += 11 + table(data[place + 9])
        else:
            return False
        while data[place]:
            place += 1 + data[place]
        place += 1
    return False


def _tiff_ends_early(data: bytes) -> bool:
    order = "<" if data[:1] == b"I" else ">"
    if data[2:4] in (b"\x2b\0", b"\0\x2b"):  # BigTIFF
        return struct.unpack_from(order + "Q", data, 8)[0] >= len(data)
    (place,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, place)
    values: dict[int, list[int]] = {}
    for entry in range(count):
        tag, kind, number = struct.unpack_from(order + "HHI", data, place + 2 + 12 * entry)
        width, at = _TIFF_WIDTHS.get(kind, 1), place + 10 + 12 * entry
        if width * number > 4:
            (at,) = struct.unpack_from(order + "I", data, at)
            if at + width * number > len(data):
                return True
        if tag in (273, 279, 324, 325) and kind in (3, 4):  # where strips or tiles are, and how long
            values[tag] = list(struct.unpack_from(f"{order}{number}{'H' if kind == 3 else 'I'}", data, at))
    strips = zip(values.get(273, ()), values.get(279, ()), strict=False)
    tiles = zip(values.get(324, ()), values.get(325, ()), strict=False)
    return any(start + length > len(data) for start, length in (*strips, *tiles))


_TIFF_WIDTHS = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of a value, where not one


def _boxes_end_early(data: bytes) -> bool:
    """JPEG 2000 and AVIF: boxes, each with its length."""
    if data[:2] == b"\xff\x4f":  # a bare JPEG 2000 code stream
        return not data.endswith(b"\xff\xd9")
    place = 0
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, place + 8)
        if length == 0:  # up to the end, wherever that is
            return not data.endswith(b"\xff\xd9")
        if length < 8:
            return False
        place += length
    return place > len(data)


def _ico_ends_early(data: bytes) -> bool:
    (count,) = struct.unpack_from("<H", data, 4)
    return any(sum(struct.unpack_from("<II", data, 6 + 16 * i + 8)) > len(data) for i in range(count))


_ENDS_EARLY = {
    "PNG": _png_ends_early,
    "JPEG": _jpeg_ends_early,
    "GIF": _gif_ends_early,
    "TIFF": _tiff_ends_early,
    "AVIF": _boxes_end_early,
    "JPEG2000": _boxes_end_early,
    "ICO": _ico_ends_early,
    "WEBP": lambda data: struct.unpack_from("<I", data, 4)[0] + 8 > len(data),
    "BMP": lambda data: struct.unpack_from("<I", data, 2)[0] > len(data),
}


@functools.cache
def readable() -> tuple[str, ...]:
    """The formats of `SIGNATURES` that this Pillow can read (AVIF and JPEG 2000 depend on how it was built)."""
    Image.init()
    return tuple(kind for kind in SIGNATURES if kind in Image.OPEN)


def stored_mode(data: bytes) -> str:
    """Format and mode of an image as the file has them, such as "JPEG CMYK" or "PNG P"; the pixels are not read.

    Raises:
      BadExample: no header that can be read.
    """
    kind = image_format(data)
    try:
        with _silent(), Image.open(io.BytesIO(data), formats=[kind] if kind else []) as image:
            return f"{kind} {image.mode}"
    except Exception as error:
        raise BadExample("corrupt image", _words(error)) from None
