"""Decoding: expected pixels for every mode, a reason for every kind of damage, and nothing else for 2,000 wrecks."""

import concurrent.futures
import io
import pickle
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mmjax.data.decode import SIGNATURES, decode_image, image_format, readable
from mmjax.data.example import BadExample

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
PICTURE = np.array([[RED, GREEN, BLUE], [GREY, (1, 2, 3), (250, 251, 252)]], np.uint8)  # 2 rows, 3 columns


def encoded(image, kind: str, **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def smooth(size: int = 32, seed: int = 0) -> Image.Image:
    """A picture that JPEG keeps almost as it is, with something in every corner."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def refused(data: bytes, reason: str, **options) -> str:
    with pytest.raises(BadExample) as caught:
        decode_image(data, **options)
    assert caught.value.reason == reason, caught.value
    assert " at 0x" not in caught.value.detail
    return caught.value.detail


LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}, "PPM": {}, "ICO": {"sizes": [(3, 2)]},
            "JPEG2000": {}}  # fmt: skip


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_come_back_exactly(kind):
    data = encoded(PICTURE, kind, **LOSSLESS[kind])
    assert image_format(data) == kind
    got = decode_image(data)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got[:, :, :3], PICTURE)


@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_lossy_formats_come_back_closely(kind):
    data = encoded(smooth(), kind, quality=95)
    assert image_format(data) == kind
    np.testing.assert_allclose(decode_image(data).astype(int), np.asarray(smooth()).astype(int), atol=20)


def test_every_format_is_readable_here():
    assert set(readable()) == set(SIGNATURES)


def test_palette():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([2, 0, 1])
    np.testing.assert_array_equal(decode_image(encoded(image, "PNG")), [[BLUE, RED, GREEN]])
    np.testing.assert_array_equal(decode_image(encoded(image, "GIF")), [[BLUE, RED, GREEN]])
    one = decode_image(encoded(image, "PNG", transparency=0))
    np.testing.assert_array_equal(one, [[(*BLUE, 255), (*RED, 0), (*GREEN, 255)]])
    np.testing.assert_array_equal(decode_image(encoded(image, "GIF", transparency=0)), one)
    each = decode_image(encoded(image, "PNG", transparency=bytes([10, 20, 30])))
    np.testing.assert_array_equal(each, [[(*BLUE, 30), (*RED, 10), (*GREEN, 20)]])


def test_grey_and_alpha():
    grey = Image.fromarray(np.array([[0, 7, 255]], np.uint8))
    np.testing.assert_array_equal(decode_image(encoded(grey, "PNG")), [[[0] * 3, [7] * 3, [255] * 3]])
    clear = decode_image(encoded(grey, "PNG", transparency=7))
    np.testing.assert_array_equal(clear, [[[0, 0, 0, 255], [7, 7, 7, 0], [255, 255, 255, 255]]])
    both = Image.merge("LA", [grey, Image.fromarray(np.array([[255, 128, 0]], np.uint8))])
    for kind in ("PNG", "TIFF"):
        got = decode_image(encoded(both, kind))
        np.testing.assert_array_equal(got, [[[0, 0, 0, 255], [7, 7, 7, 128], [255, 255, 255, 0]]])
    bits = Image.fromarray(np.array([[0, 255, 255, 0]], np.uint8)).convert("1")
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        np.testing.assert_array_equal(decode_image(encoded(bits, kind))[0, :, 0], [0, 255, 255, 0])
    rgba = np.dstack([PICTURE, np.array([[0, 1, 2], [128, 254, 255]], np.uint8)])
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        np.testing.assert_array_equal(decode_image(encoded(rgba, kind, **options)), rgba)
    keyed = decode_image(encoded(PICTURE, "PNG", transparency=GREEN))
    np.testing.assert_array_equal(keyed[..., :3], PICTURE)
    np.testing.assert_array_equal(keyed[..., 3], [[255, 0, 255], [255, 255, 255]])


def test_deep_grey():
    levels = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    for kind in ("PNG", "TIFF", "PPM"):
        np.testing.assert_array_equal(decode_image(encoded(levels, kind))[0, :, 1], [0, 1, 128, 255])
    clear = decode_image(encoded(Image.fromarray(levels), "PNG", transparency=257))
    np.testing.assert_array_equal(clear[0, :, 3], [255, 0, 255, 255])
    unit = np.array([[0, 0.5, 1.0, np.nan]], np.float32)
    np.testing.assert_array_equal(decode_image(encoded(unit, "TIFF"))[0, :, 2], [0, 128, 255, 0])
    wide = np.array([[0, 1000, 2000, 500]], np.float32)
    np.testing.assert_array_equal(decode_image(encoded(wide, "TIFF"))[0, :, 0], [0, 128, 255, 64])
    whole = np.array([[-100, 0, 100]], np.int32)
    np.testing.assert_array_equal(decode_image(encoded(whole, "TIFF"))[0, :, 0], [0, 128, 255])


def test_sixteen_bits_a_colour():
    rows = b"\0" + struct.pack(">6H", 65535, 0, 257, 4660, 22136, 39612)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    clear = struct.pack(">3H", 65535, 0, 257)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    begin, pixels = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows))
    opaque = decode_image(begin + pixels + chunk(b"IEND", b""))
    np.testing.assert_array_equal(opaque, [[[255, 0, 1], [0x12, 0x56, 0x9A]]])
    keyed = decode_image(begin + chunk(b"tRNS", clear) + pixels + chunk(b"IEND", b""))
    np.testing.assert_array_equal(keyed[0, :, 3], [0, 255])


def without_adobe(data: bytes) -> bytes:
    place = data.index(b"\xff\xee")
    (length,) = struct.unpack_from(">H", data, place + 2)
    return data[:place] + data[place + 2 + length :]


def test_cmyk():
    cmyk = np.zeros((8, 16, 4), np.uint8)
    cmyk[:, :8] = (0, 255, 255, 0)  # magenta and yellow ink: red
    cmyk[:, 8:] = (255, 0, 0, 128)  # cyan under half black
    image = Image.fromarray(cmyk, "CMYK")
    red, dark = (255, 0, 0), (0, 127, 127)
    for data in (encoded(image, "TIFF"), encoded(image, "JPEG", quality=100)):
        got = decode_image(data).astype(int)
        np.testing.assert_allclose(got[:, :8], np.broadcast_to(red, (8, 8, 3)), atol=3)
        np.testing.assert_allclose(got[:, 8:], np.broadcast_to(dark, (8, 8, 3)), atol=3)
    # Without Adobe's marker the stored numbers are ink: what Pillow wrote inverted then reads as the opposite.
    inverse = without_adobe(encoded(Image.fromarray(255 - cmyk, "CMYK"), "JPEG", quality=100))
    np.testing.assert_allclose(decode_image(inverse).astype(int)[:, :8], np.broadcast_to(red, (8, 8, 3)), atol=3)


def test_other_colour_spaces():
    ycbcr = Image.fromarray(PICTURE).convert("YCbCr")
    np.testing.assert_allclose(decode_image(encoded(ycbcr, "TIFF")).astype(int), PICTURE.astype(int), atol=3)
    lab = Image.new("LAB", (2, 2), (255, 128, 128))  # L = 100: white
    assert decode_image(encoded(lab, "TIFF")).min() > 250


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    upright = np.kron(np.array([[0, 60, 120], [180, 210, 255]], np.uint8), np.ones((16, 16), np.uint8))
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.T,
            6: np.rot90, 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1)}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(upright))).convert("RGB")
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    got = decode_image(encoded(stored, kind, exif=exif, **options))
    np.testing.assert_allclose(got[:, :, 0].astype(int), upright.astype(int), atol=8)


def test_damaged_exif_does_not_drop_the_picture():
    data = encoded(smooth(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    np.testing.assert_array_equal(decode_image(data), decode_image(encoded(smooth(), "JPEG")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_animations_show_their_first_frame(kind):
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, GREEN, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decode_image(data).astype(int)[:, :, :3], np.full((16, 16, 3), RED), atol=6)


def test_not_images():
    assert refused(b"", "empty file") == ""
    assert "<!DOCTYPE html>" in refused(b"<!DOCTYPE html><html><body>404</body></html>", "not an image")
    for data in (b"BMW, Porsche and Audi: a text\n" * 3, b"\0" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PN", b"RIFF"):
        refused(data, "not an image")


def test_bombs_are_refused_before_memory_is_taken():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = bytearray(encoded(PICTURE, "PNG"))
    data[16:29] = header
    data[29:33] = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    begin = time.perf_counter()
    refused(bytes(data), "image too large")
    assert time.perf_counter() - begin < 1
    assert refused(encoded(PICTURE, "PNG"), "image too large", max_pixels=5) == "3 x 2 pixels, more than 5"
    assert decode_image(encoded(PICTURE, "PNG"), max_pixels=6).shape == (2, 3, 3)
    refused(encoded(Image.new("1", (9_500, 9_500)), "PNG"), "image too large")  # where Pillow would only warn


WHOLE = {
    "PNG": encoded(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8), "PNG"),
    "JPEG": encoded(smooth(), "JPEG"),
    "WEBP": encoded(smooth(), "WEBP"),
    "GIF": encoded(smooth(), "GIF"),
    "BMP": encoded(smooth(), "BMP"),
    "TIFF": encoded(smooth(), "TIFF"),
    "AVIF": encoded(smooth(), "AVIF"),
    "JPEG2000": encoded(smooth(), "JPEG2000"),
    "ICO": encoded(smooth(), "ICO"),
    "PPM": encoded(smooth(), "PPM"),
}
TIFFS = [encoded(smooth(), "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")]


@pytest.mark.parametrize("share", [0.5, 0.3, 0.9])
@pytest.mark.parametrize("data", [*WHOLE.values(), *TIFFS], ids=[*WHOLE, "lzw", "deflate", "jpeg in TIFF"])
def test_a_download_that_broke_off_is_truncated(data, share):
    assert decode_image(data).shape[2] in (3, 4)
    refused(data[: int(share * len(data))], "truncated image")


def test_damage_in_the_middle_is_corrupt():
    data = bytearray(WHOLE["PNG"])
    middle = data.index(b"IDAT") + 200
    data[middle : middle + 50] = bytes(50)
    refused(bytes(data), "corrupt image")
    refused(WHOLE["WEBP"][:12] + b"nonsense" * (len(WHOLE["WEBP"]) // 8), "corrupt image")


def test_bad_example_travels_between_processes():
    error = pickle.loads(pickle.dumps(BadExample("truncated image", "PNG: …")))
    assert (error.reason, error.detail, str(error)) == ("truncated image", "PNG: …", "truncated image: PNG: …")


def test_threads_leave_the_warning_filters_as_they_were(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)  # Pillow warns of 32 x 32, which the tests make an error
    before = list(warnings.filters)

    def once(number: int) -> str:
        return str(decode_image([WHOLE["PNG"], WHOLE["JPEG"], WHOLE["GIF"]][number % 3]).shape)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(once, range(60)))
    assert found == ["(24, 24, 3)", "(32, 32, 3)", "(32, 32, 3)"] * 20
    assert warnings.filters == before


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A file with one to eight kinds of accident: bytes changed, cut out, doubled, zeroed, inserted; or cut short."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        # Headers are damaged as often as the rest.
        place = int(rng.integers(0, max(1, min(len(out), 64) if rng.random() < 0.5 else len(out))))
        count = int(rng.integers(1, 9))
        kind = rng.integers(0, 6)
        if kind == 0:
            out[place : place + count] = rng.integers(0, 256, len(out[place : place + count]), np.uint8).tobytes()
        elif kind == 1 and len(out) > place:
            out[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            del out[place : place + count]
        elif kind == 3:
            out[place:place] = out[place : place + count]
        elif kind == 4:
            out[place : place + count] = rng.choice([b"\xff", b"\0"]) * len(out[place : place + count])
        elif rng.random() < 0.3:
            del out[place + 8 :]
    return bytes(out)


def test_two_thousand_wrecks(capfd):
    """Whatever is broken: an array or a BadExample, and no word on stderr (but libtiff's, which speaks by itself)."""
    rng = np.random.default_rng(0)
    begin = [WHOLE[kind] for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")] + TIFFS
    reasons: dict[str, int] = {}
    for number in range(2_000):
        data = damaged(begin[number % len(begin)], rng)
        if number % len(begin) == 5:
            out, err = capfd.readouterr()
            assert not out and not err
        try:
            got = decode_image(data, max_pixels=2**20)
        except BadExample as error:
            reasons[error.reason] = reasons.get(error.reason, 0) + 1
        else:
            assert got.dtype == np.uint8 and got.ndim == 3 and got.shape[2] in (3, 4) and 0 not in got.shape
            reasons["none"] = reasons.get("none", 0) + 1
        if number % len(begin) == 8:
            capfd.readouterr()
    assert set(reasons) >= {"none", "truncated image", "corrupt image", "not an image", "image too large"}, reasons
    assert reasons["none"] > 100, reasons
