"""What a source holds, before it is trained on: counts, captions, images, duplicates, what would be dropped."""

import dataclasses
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from PIL import Image

from mmjax.core.errors import BadExample
from mmjax.data import ledger
from mmjax.data.conversations import texts_of
from mmjax.data.decode import decode_image, stored_mode
from mmjax.data.image import composite
from mmjax.data.text import clean

THUMBNAIL = 144  # pixels, in the contact sheet
BANDS = 4  # of a 64-bit hash: two that differ in fewer bits than this agree in one of the bands
MOST_ALIKE = 300  # images with one band in common that are compared with each other; more are counted as skipped
COLOURS_APART = 12.0  # levels, on average over a 4 x 4 thumbnail: further apart is another picture

# Eight cells a row after differences: 9 x 8 grey levels.
_GREY, _COARSE = (9, 8), (4, 4)


@dataclasses.dataclass
class Item:
    """What is kept of one item."""

    index: int
    key: str
    texts: list[str]
    shapes: list[tuple[int, int]]  # width and height of each image
    modes: list[str]  # "JPEG CMYK", "PNG P", or "RGBA" for sources that keep no files
    digests: list[bytes]  # of the stored bytes, or of the pixels
    hashes: list[int]  # of the looks, 64 bits
    coarse: list[np.ndarray]  # uint8[4, 4, 3] each
    bad: ledger.Dropped | None = None
    thumbnail: Image.Image | None = None


@dataclasses.dataclass(frozen=True)
class Survey:
    """The findings; `as_dict` for JSON, `lines` for people."""

    source: str
    length: int
    read: int
    usable: int
    images: int
    dropped: dict[str, int]
    offenders: dict[str, list[str]]  # reason -> the first items
    captions: dict[str, Any]
    sizes: dict[str, Any]
    modes: dict[str, int]
    duplicates: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    def lines(self) -> Iterator[str]:
        """A table as text."""
        of = "" if self.read == self.length else f" (of {self.length:,}, spread evenly)"
        yield f"source      {self.source}"
        yield f"items       {self.read:,}{of}, {self.usable:,} usable, {self.images:,} images"
        yield f"dropped     {ledger.words(self.dropped) or 'none'}"
        for reason, items in self.offenders.items():
            yield from (f"            {reason}: {item}" for item in items)
        each = self.captions
        yield f"captions    {each['count']:,}, {each['per_item']:.2f} per item, {each['blank']:,} blank"
        for name in ("characters", "words"):
            values = each[name]
            yield f"  {name:<10} {_spelled(values)}, mean {values['mean']:.1f}"
        yield f"  repeated   {each['repeated']:,} captions ({each['repeated_share']:.1%}) read as another one does"
        yield from (f"            {count:,} x {text!r}" for text, count in each["most_frequent"])
        for name in ("width", "height"):
            yield f"{name:<12}{_spelled(self.sizes[name])}"
        yield f"modes       {', '.join(f'{count:,} {mode}' for mode, count in self.modes.items()) or 'none'}"
        twice = self.duplicates
        equal, alike = twice["equal_files"], twice["look_alike"]
        yield f"duplicates  {equal:,} images equal to an earlier one, {alike:,} that look like one"
        yield from (f"            {kind}: {a} and {b}" for kind, a, b in twice["pairs"])
        if twice["not_compared"]:
            yield f"            {twice['not_compared']:,} look too much like too many others to be compared with all"


def survey(
    source: Any, *, limit: int | None = None, workers: int = 4, shown: int = 48,
    tick: Callable[[int], None] = lambda done: None,
) -> tuple[Survey, list[Item]]:  # fmt: skip
    """Reads a source once and returns the findings, and the items (up to `shown`, spread evenly) for a contact sheet.

    Args:
      source: any source; one with `record` tells formats and modes as they are stored.
      limit: at most this many items, spread evenly over the source.
      workers: threads that read and decode.
      tick: called with the count of items read.
    """
    size, name = len(source), getattr(source, "name", "source")
    chosen = list(range(size)) if limit is None or limit >= size else _spread(size, limit)
    pictured = {chosen[i] for i in _spread(len(chosen), min(len(chosen), 2 * shown))}  # some may be bad
    items: list[Item] = []
    with futures.ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(chosen), 256):  # in blocks: what waits to be read takes memory
            block = chosen[start : start + 256]
            items += pool.map(lambda index: look(source, name, index, index in pictured), block)
            tick(len(items))
    good = [item for item in items if item.bad is None]
    pictures = [item for item in good if item.thumbnail is not None]
    return _summary(name, size, items, good), [pictures[i] for i in _spread(len(pictures), min(len(pictures), shown))]


def _spread(size: int, count: int) -> list[int]:
    return np.linspace(0, size - 1, count).round().astype(int).tolist() if count else []


def look(source: Any, name: str, index: int, picture: bool = False) -> Item:
    """Reads one item; `picture`: a thumbnail, too."""
    item = Item(index, "", [], [], [], [], [], [])
    try:
        if hasattr(source, "record"):
            record = source.record(index)
            item.key, item.texts = record.key, list(record.texts)
            images = [decode_image(record.image)]
            item.digests, item.modes = [_digest(record.image)], [stored_mode(record.image)]
        else:
            example = source[index]
            talks = "turns" in example or "conversation" in example
            item.key, item.texts = example["key"], texts_of(example) if talks else list(example.get("texts") or ())
            images = list(example.get("pictures" if "turns" in example else "images") or ())
            images = images or ([example["image"]] if "image" in example else [])
            item.digests = [_digest(str(image.shape).encode() + image.tobytes()) for image in images]
            item.modes = ["RGBA" if image.shape[2] == 4 else "RGB" for image in images]
        if item.texts and not any(clean(text) for text in item.texts):
            raise BadExample("empty caption", f"{len(item.texts)} texts", item.key)
    except BadExample as error:
        item.bad = ledger.dropped(source, name, index, error)
        return item
    for image in images:
        item.shapes.append((image.shape[1], image.shape[0]))
        whole = Image.fromarray(composite(image))
        hashed, coarse = looks(whole)
        item.hashes.append(hashed)
        item.coarse.append(coarse)
    if picture and images:
        item.thumbnail = Image.fromarray(composite(images[0]))
        item.thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
    return item


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def looks(image: Image.Image) -> tuple[int, np.ndarray]:
    """What stays when a picture is scaled or compressed again: whether brightness rises from cell to cell, and colours.

    Returns:
      64 bits of the rows' differences in 9 x 8 cells of grey ("dHash"), and uint8[4, 4, 3].
    """
    small = image.resize((36, 32), Image.Resampling.BOX)
    grey = np.asarray(small.convert("L").resize(_GREY, Image.Resampling.BOX)).astype(np.int16)
    bits = np.packbits((grey[:, 1:] > grey[:, :-1]).ravel())
    return int.from_bytes(bits.tobytes(), "big"), np.asarray(small.resize(_COARSE, Image.Resampling.BOX))


def _summary(name: str, size: int, items: Sequence[Item], good: Sequence[Item]) -> Survey:
    bad = [item.bad for item in items if item.bad is not None]
    dropped = dict(Counter(each.reason for each in bad).most_common())
    first = {reason: [each for each in bad if each.reason == reason][:3] for reason in dropped}
    shapes = [shape for item in good for shape in item.shapes]
    return Survey(
        source=name,
        length=size,
        read=len(items),
        usable=len(good),
        images=len(shapes),
        dropped=dropped,
        offenders={reason: [_place(each) for each in found] for reason, found in first.items()},
        captions=_captions(good),
        sizes={"width": _range([w for w, _ in shapes]), "height": _range([h for _, h in shapes])},
        modes=dict(Counter(mode for item in good for mode in item.modes).most_common()),
        duplicates=_duplicates(good),
    )


def _place(item: ledger.Dropped) -> str:
    return f"[{item.index}]{' ' + item.key if item.key else ''}{': ' + item.detail if item.detail else ''}"


def _spelled(values: Mapping[str, Any]) -> str:
    return f"{values['least']:,} to {values['most']:,}, median {values['median']:,}"


def _range(values: Sequence[int]) -> dict[str, Any]:
    if not values:
        return {"least": 0, "median": 0, "most": 0, "mean": 0.0}
    ordered = sorted(values)
    middle, mean = ordered[(len(ordered) - 1) // 2], float(np.mean(ordered))
    return {"least": int(ordered[0]), "median": int(middle), "most": int(ordered[-1]), "mean": mean}


def _captions(good: Sequence[Item]) -> dict[str, Any]:
    texts = [clean(text) for item in good for text in item.texts]
    filled = [text for text in texts if text]
    counts = Counter(filled)
    repeated = len(filled) - len(counts)
    return {
        "count": len(texts),
        "per_item": len(texts) / max(len(good), 1),
        "blank": len(texts) - len(filled),
        "characters": _range([len(text) for text in filled]),
        "words": _range([len(text.split()) for text in filled]),
        "repeated": repeated,
        "repeated_share": repeated / max(len(filled), 1),
        "most_frequent": [(text, count) for text, count in counts.most_common(3) if count > 1],
    }


def _duplicates(good: Sequence[Item]) -> dict[str, Any]:
    """Images that equal an earlier one by their bytes, and those that look like an earlier one."""
    names = [f"[{item.index}] {item.key}" for item in good for _ in item.digests]
    digests = [digest for item in good for digest in item.digests]
    hashes = [hashed for item in good for hashed in item.hashes]
    colours = [coarse for item in good for coarse in item.coarse]
    first: dict[bytes, int] = {}
    equal: list[tuple[int, int]] = []
    alone: list[int] = []
    for place, digest in enumerate(digests):
        known = first.setdefault(digest, place)
        if known == place:
            alone.append(place)
        else:
            equal.append((known, place))
    alike, skipped = _alike(alone, hashes, colours)
    pairs = [("equal", names[a], names[b]) for a, b in equal[:3]]
    pairs += [("alike", names[a], names[b]) for a, b in alike[:3]]
    return {"equal_files": len(equal), "look_alike": len(alike), "not_compared": skipped, "pairs": pairs}


def _alike(
    places: Sequence[int], hashes: Sequence[int], colours: Sequence[np.ndarray]
) -> tuple[list[tuple[int, int]], int]:
    """(earlier, later) for every image that looks like an earlier one, and how many were not compared with all."""
    bands: dict[tuple[int, int], list[int]] = {}
    found: list[tuple[int, int]] = []
    skipped = 0
    for place in places:
        keys = [(band, hashes[place] >> (16 * band) & 0xFFFF) for band in range(BANDS)]
        before = [bands.setdefault(key, []) for key in keys]
        near = sorted({one for band in before for one in band})
        match = next((one for one in near if _same_looks(one, place, hashes, colours)), None)
        if match is not None:
            found.append((match, place))
        skipped += any(len(band) >= MOST_ALIKE for band in before)
        for band in before:
            if len(band) < MOST_ALIKE:
                band.append(place)
    return found, skipped


def _same_looks(a: int, b: int, hashes: Sequence[int], colours: Sequence[np.ndarray]) -> bool:
    if (hashes[a] ^ hashes[b]).bit_count() >= BANDS:
        return False
    return float(np.abs(colours[a].astype(np.int16) - colours[b]).mean()) < COLOURS_APART


def contact_sheet(items: Sequence[Item], columns: int = 8) -> bytes:
    """A PNG with the thumbnails of items, their places and the beginnings of their first captions."""
    import matplotlib
    from PIL import ImageDraw, ImageFont

    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 10)
    columns, pad, words = max(1, min(columns, len(items))), 8, 28
    rows = max(1, -(-len(items) // columns))
    cell = THUMBNAIL + pad
    sheet = Image.new("RGB", (columns * cell + pad, rows * (cell + words) + pad), (245, 247, 250))
    draw = ImageDraw.Draw(sheet)
    for number, item in enumerate(items):
        assert item.thumbnail is not None
        left, top = pad + number % columns * cell, pad + number // columns * (cell + words)
        w, h = item.thumbnail.size
        sheet.paste(item.thumbnail, (left + (THUMBNAIL - w) // 2, top + (THUMBNAIL - h) // 2))
        draw.text((left, top + THUMBNAIL + 1), _fit(f"[{item.index}] {item.key}", font), (107, 118, 134), font)
        caption = next((clean(text) for text in item.texts if clean(text)), "")
        draw.text((left, top + THUMBNAIL + 14), _fit(caption, font), (28, 36, 48), font)
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _fit(text: str, font: Any) -> str:
    """As much of a text as a cell has room for."""
    text = text[:80]
    while text and font.getlength(text) > THUMBNAIL:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    return text
