"""What formats with rows and columns share: from a row to a record, and the names of the classes."""

import abc
import base64
import binascii
import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mmjax.data.example import BadExample
from mmjax.data.files.base import FileSource, Record, captions, check_bytes, check_text, decode_text, read_named_image
from mmjax.data.files.columns import Columns

Row = Mapping[str, Any]


class Table(FileSource):
    """Rows with columns. A format sets `columns` and `root`, and says how a row is read.

    Attributes:
      columns: which column is what.
      root: folder that relative paths of images begin at; None: that of the file that the row is in.
      inline: texts in the image column are base64 of the image's bytes, not paths.
    """

    columns: Columns
    root: str | None = None
    inline: bool = False

    @abc.abstractmethod
    def _row(self, index: int) -> Row:
        """The row at a position, at least the columns that are used; BadExample if it cannot be parsed."""

    @abc.abstractmethod
    def _folder(self, index: int) -> str:
        """The folder of the file that a row is in."""

    def _read(self, index: int) -> Record:
        record, cell = self._described(index)
        file = self._file_of(cell, index)
        return dataclasses.replace(
            record, image=self._image(cell) if file is None else read_named_image(file, self.root)
        )

    def image_file(self, index: int) -> tuple[str, str] | None:
        """See `FileSource`."""
        record, cell = self._described(index)
        file = self._file_of(cell, index)
        return None if file is None else (record.key, file)

    def _described(self, index: int) -> tuple[Record, Any]:
        """The record without its image, and the cell that says what that is."""
        row, columns = self._row(index), self.columns
        label, extra = self._label(row)
        if columns.texts:
            texts = captions(*(_cell(row, name) for name in columns.texts))
        else:
            texts = captions(extra.get("labels", {}).get("en", label))
        cell = _cell(row, columns.image)
        key = self._key(row, cell, index)
        return Record(key, b"", texts, label, extra | {name: plain(_cell(row, name)) for name in columns.extra}), cell

    def _key(self, row: Row, cell: Any, index: int) -> str:
        value = row.get(self.columns.key) if self.columns.key else None
        if value is None or value == "":
            path = cell.get("path") if isinstance(cell, Mapping) else cell
            return os.path.splitext(path)[0] if isinstance(path, str) and not self.inline and path else str(index)
        return decode_text(value) if isinstance(value, bytes) else check_text(str(value))

    def _label(self, row: Row) -> tuple[int | None, dict[str, Any]]:
        """Label and the extra that names it."""
        value = row.get(self.columns.label) if self.columns.label else None
        if value is None or value == "":
            return None, {}
        value = decode_text(value) if isinstance(value, bytes) else value
        number = as_label(value)
        if self.classes and isinstance(value, str):
            name = value.strip()
            if name in self._label_of:
                return self._named(name)
            number = None
        if number is None:
            raise BadExample("malformed record", f"label {str(value)[:80]!r} is neither a class nor a number from 0 on")
        if self.classes and number < len(self.classes):
            return self._named(self.classes[number])
        return number, {}

    def _file_of(self, cell: Any, index: int) -> str | None:
        """The path in a cell; None if the cell holds the image itself, or nothing that is a path."""
        cell = _content(cell)
        if not isinstance(cell, str) or not cell.strip() or self.inline or cell.startswith("data:image/"):
            return None
        folder = self._folder(index) if self.root is None else self.root
        return os.path.join(folder, check_text(cell).removeprefix("file://"))

    def _image(self, cell: Any) -> bytes:
        """Encoded bytes from a cell that holds them: bytes, base64, or {bytes, path} as Hugging Face data sets do."""
        cell = _content(cell)
        if isinstance(cell, bytes):
            return check_bytes(cell, "image column")
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise BadExample("missing file", "the image column is empty")
        if not isinstance(cell, str):
            raise BadExample("malformed record", f"an image of type {type(cell).__name__}: {str(cell)[:80]}")
        return check_bytes(_from_base64(cell), "image column")

    def _set_classes(self, labels: Iterable[Any]) -> None:
        """Names the classes, sorted, unless every label is a number from 0 on (or there is no label)."""
        found = {str(value).strip() for value in labels if value is not None and value == value}
        names = sorted(name for name in found if name)
        if any(as_label(name) is None for name in names):
            self.classes = tuple(names)


def _content(cell: Any) -> Any:
    """What a cell holds: its own content, or of {bytes, path} the bytes if there are some."""
    if not isinstance(cell, Mapping):
        return cell
    data = cell.get("bytes")
    return cell.get("path") if data is None else data


def _cell(row: Row, name: str) -> Any:
    if name not in row:
        raise BadExample("malformed record", f"no column {name!r}; it has {', '.join(map(str, row)) or 'none'}")
    return row[name]


def as_label(value: Any) -> int | None:
    """A class number from 0 on, from a number or its text; None if it is none."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | np.integer):
        return int(value) if value >= 0 else None
    if isinstance(value, float):
        return int(value) if value >= 0 and value.is_integer() else None
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _from_base64(text: str) -> bytes:
    """The bytes of base64, with or without `data:image/…;base64,` in front."""
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise BadExample("malformed record", f"an image as {head[:40]!r}, which is not base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadExample("malformed record", f"the image is not base64: {error}") from None


def plain(value: Any) -> Any:
    """A cell as JSON can hold it: arrays become lists, bytes become text."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return decode_text(value)
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float) else str(value)
