"""`jsonl:` - one JSON object on each line, as `{"image": "images/1.jpg", "text": "a cat"}`."""

import json
from collections.abc import Iterator
from typing import Any

from mmjax.core.errors import UserError
from mmjax.data.example import BadExample
from mmjax.data.files.base import decode_text, spell
from mmjax.data.files.columns import pick_columns
from mmjax.data.files.lines import Lines, scan_lines
from mmjax.data.files.paths import find_files, one_folder
from mmjax.data.files.table import Table

PROBE = 100  # rows from which the columns are read


class JsonLines(Table):
    """Use `open`."""

    def __init__(self, name: str, lines: Lines, *, root: str | None, inline: bool, options: dict[str, str | None]):
        """Reads the places of all lines, and the columns of the first ones.

        Raises:
          UserError: no line of the first `PROBE` is a JSON object, or a column is missing.
        """
        self.name, self.lines, self.root, self.inline = name, lines, root, inline
        self.columns = pick_columns(self._probe(), lines.files[0], **options)
        if self.columns.label:
            self._set_classes(self._labels())

    def __len__(self) -> int:
        return len(self.lines)

    def _row(self, index: int) -> dict[str, Any]:
        text = decode_text(self.lines.read(index))
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadExample("malformed record", f"not JSON: {error}") from None
        if not isinstance(row, dict):
            raise BadExample("malformed record", f"not a JSON object but {text[:40]!r}")
        return row

    def _folder(self, index: int) -> str:
        return self.lines.folder(index)

    def _probe(self) -> list[str]:
        """The columns of the first rows, in the order in which they appear."""
        found: dict[str, None] = {}
        rows = 0
        for index in range(min(PROBE, len(self))):
            try:
                found.update(dict.fromkeys(self._row(index)))
                rows += 1
            except BadExample:
                continue  # counted when it is read
        if not rows:
            begin = self.lines.read(0)[:40]
            hint = "; a JSON array is not JSON lines: write each element on a line" if begin[:1] == b"[" else ""
            raise UserError(
                f"{self.lines.files[0]}: none of its first {min(PROBE, len(self))} lines is a JSON object; it begins "
                f"with {begin!r}{hint}"
            )
        return list(found)

    def _labels(self) -> Iterator[Any]:
        for index in range(len(self)):
            try:
                yield self._row(index).get(self.columns.label or "")
            except BadExample:
                continue


def open(
    arg: str | None = None,
    *,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
    key: str | None = None,
    extra: str | None = None,
    root: str | None = None,
    base64: bool = False,
) -> JsonLines:
    """The source `jsonl:PATTERN[?image=COLUMN&text=COLUMN&label=COLUMN&key=COLUMN&root=DIR…]`.

    Args:
      arg: a file, a folder of *.jsonl, or a pattern with `*`, `{0..9}` or `{a,b}`.
      image: column with the image's path (or a `data:` URI). Unless told, the first of the usual names that is there.
      text: column with the caption, or a list of captions; several columns with commas.
      label: column with the class: a number, or a name.
      key: column with the item's name; unless there is one, the image's path without suffix.
      extra: columns to carry into the example, with commas.
      root: folder that relative paths begin at, seen from the working directory; unless told, that of the file.
      base64: the image column holds the image itself.

    Raises:
      UserError: no such file, an empty one, or a column that is not there.
    """
    files = find_files("jsonl", arg, (".jsonl", ".ndjson"))
    options = {"image": image, "text": text, "label": label, "key": key, "extra": extra}
    name = spell("jsonl", arg, {**options, "root": root, "base64": base64})
    root = None if root is None else one_folder("jsonl", root, "root=")
    return JsonLines(name, Lines("jsonl", files, scan_lines), root=root, inline=base64, options=options)
