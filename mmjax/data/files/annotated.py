"""Annotations that are read whole when they are opened, and the pictures that their rows name."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.errors import UserError
from mmjax.data.decode import decode_image
from mmjax.data.files.base import FileSource, Record, captions, read_named_image
from mmjax.data.files.paths import one_folder, unreadable


class Annotated(FileSource):
    """Rows of an image's path, texts, and further fields, in the order of the file. Use the functions `open_…`."""

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]], root: str | None, classes: Sequence[str] = ()):
        self.name, self.rows, self.root, self.classes = name, rows, root, tuple(classes)
        if not rows:
            raise UserError(f"{name}: no row of it can be used for this task")

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self, index: int) -> Record:
        row = self.rows[index]
        extra = {k: v for k, v in row.items() if k not in ("key", "path", "texts", "label")}
        return Record(
            row["key"], read_named_image(row["path"], self.root), captions(row["texts"]), row.get("label"), extra
        )

    def image_file(self, index: int) -> tuple[str, str] | None:
        """See `FileSource`."""
        return self.rows[index]["key"], self.rows[index]["path"]


class Questions:
    """Rows with a question, about a picture or not: an example has its row's fields, and `image` where it names one."""

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]], root: str | None):
        self.name, self.rows, self.root = name, rows, root
        if not rows:
            raise UserError(f"{name}: no row of it can be used for this task")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The example at a position; BadExample if its picture cannot be read, IndexError beyond the end."""
        row = dict(self.rows[int(index)])
        path = row.pop("path", None)
        return row if path is None else {**row, "image": decode_image(read_named_image(path, self.root))}


def read_json(kind: str, path: str, lines: bool) -> Any:
    """The content of a JSON file, or of one with an object a line.

    Raises:
      UserError: it cannot be read, or is something else; of lines, the first that is.
    """
    number = 0
    try:
        with open(path, encoding="utf-8") as file:
            if not lines:
                return json.load(file)
            found = []
            for number, line in enumerate(file, 1):  # noqa: B007 - the error names it
                if line.strip():
                    found.append(json.loads(line))
            return found
    except OSError as error:
        raise unreadable(kind, path, error) from None
    except (ValueError, RecursionError) as error:
        where = f"{path}, line {number}," if lines else path
        raise UserError(f"{kind}: {where} is not JSON: {error}") from None


def json_rows(kind: str, path: str) -> list[Any]:
    """Rows of a JSON list, or of JSON lines, whichever the file is."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            listed = file.read(64).lstrip()[:1] == "["
    except OSError as error:
        raise unreadable(kind, path, error) from None
    return read_json(kind, path, lines=not listed)


def field(kind: str, row: Any, name: str, where: str) -> Any:
    """A row's field; UserError if it has none of that name."""
    if not isinstance(row, Mapping) or name not in row:
        has = sorted(row) if isinstance(row, Mapping) else type(row).__name__
        raise UserError(f"{kind}: {where} has no {name!r}; it has {has}")
    return row[name]


def text_field(kind: str, row: Any, name: str, where: str) -> str:
    """A row's field that is a text with words; UserError if it is something else."""
    value = field(kind, row, name, where)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{kind}: {where} has {name} = {str(value)[:60]!r}; valid: a text that is not empty")
    return value


def image_folder(kind: str, root: str | None, path: str) -> str:
    """The folder that images' names begin at: ROOT, or that of the file."""
    return os.path.dirname(path) if root is None else one_folder(kind, root, "root=")
