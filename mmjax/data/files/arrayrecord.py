"""`arrayrecord:` - records in ArrayRecord files, in the encoding that `mmjax data convert` writes.

A record is, in this order:

    4 bytes   b"MMJ1"
    4 bytes   N, the length of the header, unsigned, little-endian
    N bytes   the header: JSON in UTF-8, {"key": str, "texts": [str, …], "label": int or null, "extra": {…}}
    the rest  the image, encoded as it came (JPEG, PNG, WebP, …)
"""

import collections
import json
import struct
from collections.abc import Sequence
from typing import Any

from mmjax.core.errors import UserError
from mmjax.data.example import BadExample
from mmjax.data.files.base import FileSource, Record, captions, check_bytes, decode_text, spell
from mmjax.data.files.paths import find_files

MAGIC = b"MMJ1"
HEAD = struct.Struct("<4sI")
PROBE = 8  # records that are looked at when a source is opened


def encode_record(record: Record) -> bytes:
    """A record as the bytes that this module describes."""
    header = {"key": record.key, "texts": record.texts, "label": record.label, "extra": record.extra}
    data = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return HEAD.pack(MAGIC, len(data)) + data + record.image


def decode_record(data: bytes) -> Record:
    """The record that `encode_record` wrote; `image` may be any bytes but none.

    Raises:
      BadExample: the bytes are no such record, or cannot be used.

    Example:
      >>> decode_record(encode_record(Record("a", b"...", ["a cat"]))).texts
      ['a cat']
    """
    magic, size = HEAD.unpack_from(data) if len(data) >= HEAD.size else (b"", 0)
    start = HEAD.size + size
    if magic != MAGIC or start > len(data):
        raise BadExample("malformed record", f"{len(data)} bytes that begin with {data[:12]!r}")
    header = _header(decode_text(data[HEAD.size : start]))
    texts, label, extra = captions(header["texts"]), header.get("label"), header.get("extra") or {}
    if header.get("image", True) is None:  # written by a program that keeps items without images
        raise BadExample("missing file", f"{header['key']}: no image")
    if not (label is None or isinstance(label, int)) or not isinstance(extra, dict):
        raise BadExample("malformed record", f"label {label!r}, extra {type(extra).__name__}")
    return Record(header["key"], check_bytes(data[start:], header["key"]), texts, label, extra)


def _header(text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadExample("malformed record", f"the header is not JSON: {error}") from None
    if not isinstance(header, dict) or not isinstance(header.get("key"), str) or "texts" not in header:
        raise BadExample("malformed record", f"the header lacks key or texts: {text[:80]}")
    return header


class ArrayRecords(FileSource):
    """Use `open`. Items in the order of the files, then of the records in them."""

    def __init__(self, name: str, files: Sequence[str]):
        """Reads the files' own indexes, and the first records.

        Raises:
          UserError: a file is damaged or of another kind, has records of another encoding, or all are empty.
        """
        # Here and not at the top: the module defines command-line flags when it is imported.
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.name, self.files = name, tuple(files)
        try:
            self.records = ArrayRecordDataSource(list(files))
        except Exception as error:  # the library raises ValueError, RuntimeError or IndexError, by the damage
            raise UserError(f"arrayrecord: cannot read {_damaged(files)}: {_first_line(error)}") from None
        if not len(self):
            raise UserError(f"arrayrecord: {', '.join(self.files[:3])}: no records")
        begins = [self._bytes(place)[: HEAD.size] for place in range(min(PROBE, len(self)))]
        if not any(begin.startswith(MAGIC) for begin in begins):
            raise UserError(
                f"arrayrecord: the records of {self.files[0]} are not in mmjax's encoding: they begin with "
                f"{begins[0]!r}. Data sets of tensorflow-datasets are read as tfds:NAME; others can be rewritten "
                "with mmjax.data.files.arrayrecord.encode_record"
            )

    def __len__(self) -> int:
        return len(self.records)

    def _read(self, index: int) -> Record:
        return decode_record(self._bytes(index))

    def _bytes(self, index: int) -> bytes:
        try:
            return self.records[index]
        except (ValueError, RuntimeError, IndexError, OSError) as error:
            raise BadExample("malformed record", _first_line(error)) from None

    def class_names(self, lang: str | None = None) -> list[str]:
        """Names of the classes, by `label`, collected from all records on the first call.

        Raises:
          UserError: no record names its class, or two names have one label.
        """
        if not self.classes:
            names: dict[int, set[str]] = collections.defaultdict(set)
            for index in range(len(self)):
                try:
                    record = self.record(index)
                except BadExample:
                    continue
                for name in record.extra.get("labels", {}).values() if record.label is not None else ():
                    names[record.label or 0].add(name)
            self.classes = one_name_each(self.name, names)
        return super().class_names(lang)


def one_name_each(source: str, names: dict[int, set[str]]) -> tuple[str, ...]:
    """Names by label from those found for each; a class without examples is called by its number.

    Raises:
      UserError: two names for one label.
    """
    for label, found in names.items():
        if len(found) > 1:
            raise UserError(f"{source}: the class {label} has several names: {', '.join(sorted(found)[:4])}")
    return tuple(next(iter(names.get(label, {str(label)}))) for label in range(max(names, default=-1) + 1))


def _damaged(files: Sequence[str]) -> str:
    """The first file that cannot be opened by itself, to be named in an error."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    for path in files:
        try:
            ArrayRecordDataSource([path])
        except Exception:
            return path
    return files[0]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def open(arg: str | None = None) -> ArrayRecords:
    """The source `arrayrecord:PATTERN`.

    Args:
      arg: a file, a folder of *.arrayrecord or *.array_record, or a pattern with `*`, `{000..009}` or `{a,b}`.

    Raises:
      UserError: no such file, or one that cannot be read.
    """
    files = find_files("arrayrecord", arg, (".arrayrecord", ".array_record"))
    return ArrayRecords(spell("arrayrecord", arg, {}), files)
