"""The same pairs of image and caption in every form that mmjax reads, with named damage at known places.

    pairs = make_pairs(500, damage=spread(500))
    spec = WRITERS["jsonl"](pairs, folder)          # writes the files, returns the spec
    expected(pairs)                                 # {place: reason}

Import it as `from tests.data import own_data`.
"""

import dataclasses
import io
import json
import pathlib
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

COLOURS = {
    "red": (220, 40, 30), "green": (40, 160, 60), "blue": (40, 70, 210), "yellow": (240, 210, 40),
    "black": (10, 10, 10), "white": (245, 245, 245), "purple": (130, 50, 160), "orange": (240, 140, 30),
}  # fmt: skip
SHAPES = ("circle", "square", "cross", "stripes")


@dataclasses.dataclass(frozen=True)
class Pair:
    """One pair as it is written. `None` for a part that is not there at all."""

    key: str
    image: bytes | None
    text: bytes
    damage: str | None = None  # a key of DAMAGE or of ODD


def picture(place: int, size: int = 48) -> Image.Image:
    """A shape on a ground, RGB, from its place alone."""
    rng = np.random.default_rng([place, size])
    names = list(COLOURS)
    shape, ground = COLOURS[names[place % 8]], COLOURS[names[(place + 1 + place // 8) % 8]]
    y, x = np.mgrid[:size, :size] / size - 0.5
    kind = SHAPES[place // 8 % 4]
    inside = {
        "circle": x**2 + y**2 < 0.1,
        "square": (abs(x) < 0.3) & (abs(y) < 0.3),
        "cross": (abs(x) < 0.1) | (abs(y) < 0.1),
        "stripes": np.floor(x * 8) % 2 == 0,
    }[kind]
    pixels = np.where(inside[:, :, None], np.array(shape), np.array(ground)) + rng.integers(-8, 9, (size, size, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def caption(place: int) -> str:
    """What `picture` shows; some captions hold what CSV has to quote and what is not ASCII."""
    names = list(COLOURS)
    text = f"a {names[place % 8]} {SHAPES[place // 8 % 4]} on {names[(place + 1 + place // 8) % 8]}"
    ends = {3: ", ” “said” the Übermaler ✓", 5: ' with a "quoted, word"'}
    return text + ends.get(place % 7, "")


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A PNG of a few kilobytes that announces side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(bytes(10_000), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PAGE = b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>"

# name -> (reason of BadExample, what becomes of (image, text))
DAMAGE: dict[str, tuple[str, Callable[[bytes, bytes], tuple[bytes | None, bytes]]]] = {
    "truncated png": ("truncated image", lambda image, text: (image[: len(image) // 2], text)),
    "truncated jpeg": ("truncated image", lambda image, text: (_jpeg(image)[: len(_jpeg(image)) // 2], text)),
    "bomb": ("image too large", lambda image, text: (bomb(), text)),
    "web page": ("not an image", lambda image, text: (PAGE, text)),
    "missing file": ("missing file", lambda image, text: (None, text)),
    "empty file": ("empty file", lambda image, text: (b"", text)),
    "empty caption": ("empty caption", lambda image, text: (image, b"")),
    "blank caption": ("empty caption", lambda image, text: (image, b" \t ")),
    "bad utf-8": ("bad text encoding", lambda image, text: (image, b"caf\xe9 " + text)),
}


def _jpeg(image: bytes) -> bytes:
    return encode(Image.open(io.BytesIO(image)).convert("RGB"), "JPEG", quality=95)


def _sixteen_bits(image: Image.Image) -> bytes:
    return encode(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257))


def _with_alpha(image: Image.Image) -> bytes:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encode(image)


def _rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(image, "JPEG", quality=95, exif=exif)


# name -> the image in a mode that is unusual and has to be converted, not dropped
ODD: dict[str, Callable[[Image.Image], bytes]] = {
    "cmyk": lambda image: encode(image.convert("CMYK"), "JPEG", quality=95),
    "palette": lambda image: encode(image.quantize(16)),
    "16 bits": _sixteen_bits,
    "alpha": _with_alpha,
    "grey": lambda image: encode(image.convert("L")),
    "animated": lambda image: encode(image.quantize(16), "GIF", save_all=True, append_images=[image.quantize(4)]),
    "rotated": _rotated,
}


def make_pairs(count: int, damage: Mapping[int, str] = {}, size: int = 48) -> list[Pair]:
    """`count` pairs, keys "00000" and on; `damage` maps a place to a key of DAMAGE or of ODD."""
    pairs = []
    for place in range(count):
        image, text, kind = picture(place, size), caption(place).encode(), damage.get(place)
        data: bytes | None = ODD[kind](image) if kind in ODD else encode(image)
        if kind in DAMAGE:
            data, text = DAMAGE[kind][1](data, text)
        elif kind is not None and kind not in ODD:
            raise KeyError(f"no damage {kind!r}")
        pairs.append(Pair(f"{place:05}", data, text, kind))
    return pairs


def spread(count: int, share: float = 0.05) -> dict[int, str]:
    """Damage for `share` of the places, every kind in turn, evenly over them; and as many odd modes."""
    broken = max(len(DAMAGE), round(count * share))
    places = np.linspace(0, count - 1, broken + broken, endpoint=False).astype(int)
    if len(set(places)) < len(places):
        raise ValueError(f"{count} pairs are too few for {broken} damaged ones")
    kinds, odd = list(DAMAGE), list(ODD)
    damage = {int(place): kinds[i % len(kinds)] for i, place in enumerate(places[::2])}
    return damage | {int(place): odd[i % len(odd)] for i, place in enumerate(places[1::2])}


def expected(pairs: list[Pair]) -> dict[int, str]:
    """Place -> reason, for the damaged pairs."""
    return {place: DAMAGE[pair.damage][0] for place, pair in enumerate(pairs) if pair.damage in DAMAGE}


def write_images(pairs: list[Pair], folder: pathlib.Path) -> list[str]:
    """images/KEY.png for every pair that has an image (whatever its bytes are), and the paths relative to `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        if pair.image is not None:
            (folder / "images" / f"{pair.key}.png").write_bytes(pair.image)
    return [f"images/{pair.key}.png" for pair in pairs]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _json_text(text: bytes) -> bytes:
    """A JSON string of bytes that need not be UTF-8."""
    for plain, escaped in ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n"), (b"\t", b"\\t")):
        text = text.replace(plain, escaped)
    return b'"' + text + b'"'


def write_jsonl(pairs: list[Pair], folder: pathlib.Path) -> str:
    paths = write_images(pairs, folder)
    lines = [
        b'{"key": %s, "image": %s, "text": %s}\n' % (_json(pair.key), _json(path), _json_text(pair.text))
        for pair, path in zip(pairs, paths, strict=True)
    ]
    (folder / "pairs.jsonl").write_bytes(b"".join(lines))
    return f"jsonl:{folder / 'pairs.jsonl'}"


def write_csv(pairs: list[Pair], folder: pathlib.Path) -> str:
    paths = write_images(pairs, folder)
    lines = [b"key,image,text\r\n"]
    for pair, path in zip(pairs, paths, strict=True):
        quoted = any(mark in pair.text for mark in (b",", b'"', b"\n"))
        text = b'"' + pair.text.replace(b'"', b'""') + b'"' if quoted else pair.text
        lines.append(b"%s,%s,%s\r\n" % (pair.key.encode(), path.encode(), text))
    (folder / "pairs.csv").write_bytes(b"".join(lines))
    return f"csv:{folder / 'pairs.csv'}"


def write_folder(pairs: list[Pair], folder: pathlib.Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        if pair.image is not None:
            (folder / f"{pair.key}.png").write_bytes(pair.image)
        (folder / f"{pair.key}.txt").write_bytes(pair.text)
    return f"folder:{folder}"


def write_parquet(pairs: list[Pair], folder: pathlib.Path, row_group: int = 64) -> str:
    """Images inside, as Hugging Face data sets have them; those that are missing as a path to nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": pair.image, "path": f"images/{pair.key}.png"} for pair in pairs]
    texts = pa.array([pair.text for pair in pairs], pa.binary()).view(pa.string())  # not checked to be UTF-8
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"key": [pair.key for pair in pairs], "image": pa.array(images, kind), "text": texts})
    pq.write_table(table, folder / "pairs.parquet", row_group_size=row_group)
    return f"parquet:{folder / 'pairs.parquet'}"


def write_webdataset(pairs: list[Pair], folder: pathlib.Path, shards: int = 3) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(pairs) // shards)
    for shard in range(shards):
        with tarfile.open(folder / f"shard-{shard:03}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for pair in pairs[shard * size : (shard + 1) * size]:
                for end, data in (("png", pair.image), ("txt", pair.text)):
                    if data is not None:
                        member = tarfile.TarInfo(f"{pair.key}.{end}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
    return f"webdataset:{folder}/shard-{{000..{shards - 1:03}}}.tar"


def write_arrayrecord(pairs: list[Pair], folder: pathlib.Path, files: int = 2) -> str:
    """In mmjax's encoding, written by hand: `encode_record` makes no damaged ones."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(pairs) // files)
    for number in range(files):
        writer = ArrayRecordWriter(str(folder / f"pairs-{number}.arrayrecord"), "group_size:1")
        for pair in pairs[number * size : (number + 1) * size]:
            absent = b', "image": null' if pair.image is None else b""
            header = b'{"key": %s, "texts": [%s]%s}' % (_json(pair.key), _json_text(pair.text), absent)
            writer.write(b"MMJ1" + struct.pack("<I", len(header)) + header + (pair.image or b""))
        writer.close()
    return f"arrayrecord:{folder}/pairs-*.arrayrecord"


def write_coco(pairs: list[Pair], folder: pathlib.Path) -> str:
    write_images(pairs, folder)
    images = [{"id": 7 * place, "file_name": f"{pair.key}.png"} for place, pair in enumerate(pairs)]
    rows = [
        b'{"id": %d, "image_id": %d, "caption": %s}' % (place, 7 * place, _json_text(pair.text))
        for place, pair in enumerate(pairs)
    ]
    whole = b'{"images": %s, "annotations": [%s]}' % (_json(images), b", ".join(rows))
    (folder / "captions.json").write_bytes(whole)
    return f"coco:{folder / 'captions.json'}?root={folder / 'images'}"


def write_tfds(pairs: list[Pair], folder: pathlib.Path, inside: bool = False) -> str:
    """Images as paths: a feature for images has no form for one that is missing. Or inside, if none is."""
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    image = tfds.features.Image() if inside else text
    paths: list = [pair.image for pair in pairs] if inside else write_images(pairs, folder)
    rows = [
        {"key": pair.key, "image": path, "text": pair.text} for pair, path in zip(pairs, paths, strict=True)
    ]  # fmt: skip

    class Pairs(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
        """Without the base's look at its data, which takes TensorFlow."""

        def _split_generators(self, dl_manager):
            return {"train": enumerate(rows)}

    tfds.disable_progress_bar()
    builder = Pairs(
        name="pairs",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"key": text, "image": image, "text": text}),
        split_datasets={},
        data_dir=folder,
        file_format="array_record",
        disable_shuffling=True,
    )
    builder.download_and_prepare(file_format="array_record")
    return f"tfds:{builder.data_dir}?root={folder}"


def write_easy_vqa(pairs: list[Pair], folder: pathlib.Path) -> str:
    """Question and answer are the caption's words but the last, and the last."""
    write_images(pairs, folder / "train")
    rows = []
    for pair in pairs:
        question, _, answer = pair.text.rpartition(b" ") if pair.text.strip() else (b"", b"", b"")
        rows.append(b"[%s, %s, %s]" % (_json_text(question), _json_text(answer), _json(pair.key)))
    (folder / "train" / "questions.json").write_bytes(b"[" + b", ".join(rows) + b"]")
    return f"easy_vqa:train?root={folder}"


# form -> function (pairs, folder) -> spec
WRITERS: dict[str, Callable[[list[Pair], pathlib.Path], str]] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "parquet": write_parquet,
    "folder": write_folder,
    "webdataset": write_webdataset,
    "arrayrecord": write_arrayrecord,
    "tfds": write_tfds,
    "coco": write_coco,
    "easy_vqa": write_easy_vqa,
}
