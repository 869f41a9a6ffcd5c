"""`csv:` - rows under a line of column names; cells may be quoted, and then hold separators and line breaks."""

import collections
import csv
import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.data.example import BadExample
from mmjax.data.files.base import decode_text, spell
from mmjax.data.files.columns import pick_columns
from mmjax.data.files.lines import BOM, Lines, iterate
from mmjax.data.files.paths import Handles, find_files, one_folder, unreadable
from mmjax.data.files.table import Table

LONGEST = 2**20  # bytes of a row: a quote that is open for longer was never meant to begin a cell
SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}

csv.field_size_limit(max(csv.field_size_limit(), LONGEST))


class Csv(Table):
    """Use `open`."""

    def __init__(
        self, name: str, files: tuple[str, ...], *, sep: bytes, root: str | None, inline: bool,
        options: dict[str, str | None],
    ):  # fmt: skip
        """Reads the places of all rows, and the first row of each file: the names of the columns.

        Raises:
          UserError: a file without rows or with other columns than the first, or a column that is missing.
        """
        self.name, self.root, self.inline, self.sep = name, root, inline, sep
        self.header = _header(files[0], sep)
        for path in files[1:]:
            if (other := _header(path, sep)) != self.header:
                raise UserError(f"csv: {path} has the columns {', '.join(other)}, {files[0]} {', '.join(self.header)}")
        self.columns = pick_columns(self.header, files[0], **options)
        self.lines = Lines("csv", files, _Scan(sep))
        if self.columns.label:
            self._set_classes(self._labels())

    def __len__(self) -> int:
        return len(self.lines)

    def _row(self, index: int) -> dict[str, str]:
        cells = split_row(decode_text(self.lines.read(index)), self.sep.decode())
        if len(cells) != len(self.header):
            raise BadExample("malformed record", f"{len(cells)} cells, and {len(self.header)} columns")
        return dict(zip(self.header, cells, strict=True))

    def _folder(self, index: int) -> str:
        return self.lines.folder(index)

    def _labels(self) -> Iterator[Any]:
        for index in range(len(self)):
            try:
                yield self._row(index)[self.columns.label or ""]
            except BadExample:
                continue


def split_row(text: str, sep: str) -> list[str]:
    """The cells of one row, quotes resolved; BadExample if a quoted cell does not end."""
    if '"' not in text:  # as most rows, and several times faster
        return text.rstrip("\r").split(sep)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=sep, strict=True))
    except csv.Error as error:
        raise BadExample("malformed record", f"not a row of CSV: {error}") from None
    if len(rows) != 1:
        raise BadExample("malformed record", f"not one row of CSV but {len(rows)}")
    return rows[0]


class _Scan:
    """Finds the rows of a file, without the first."""

    def __init__(self, sep: bytes) -> None:
        self.sep = sep

    def __call__(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Offsets and sizes in bytes, int64[N] each, of the rows that are not blank."""
        places = itertools.chain.from_iterable(itertools.islice(rows_of(path, self.sep), 1, None))
        table = np.fromiter(places, np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]


def rows_of(path: str, sep: bytes) -> Iterator[tuple[int, int]]:
    """(offset, size) of the rows of a file, bytes, blank ones left out; the line break does not belong to them.

    A quoted cell that ends at no separator or line break, or runs past `LONGEST`, has lost its end: its row is then
    the line in which it begins, so that one damaged row does not take the following ones with it.
    """
    lines = _Ahead(iterate(path))
    offset = 0
    for line in lines:
        if offset == 0 and line.startswith(BOM):
            line, offset = line[len(BOM) :], len(BOM)
        row = line
        if b'"' in line and complete(line, sep) is False:
            row = lines.extend(line, sep)
        size = len(row.rstrip(b"\r\n"))
        if row.strip():
            yield offset, size
        offset += len(row)


class _Ahead:
    """Lines, of which some are looked at before they are taken."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self.lines, self.ahead = lines, collections.deque[bytes]()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            if self.ahead:
                yield self.ahead.popleft()
            elif (line := next(self.lines, None)) is not None:
                yield line
            else:
                return

    def extend(self, line: bytes, sep: bytes) -> bytes:
        """The row that begins with an incomplete line: with the lines that it needs, or the line alone."""
        row, taken = line, 0
        while len(row) <= LONGEST:
            if taken == len(self.ahead):
                more = next(self.lines, None)
                if more is None:
                    return line
                self.ahead.append(more)
            row += self.ahead[taken]
            taken += 1
            if b'"' not in self.ahead[taken - 1]:
                continue
            state = complete(row, sep)
            if state:
                for _ in range(taken):
                    self.ahead.popleft()
                return row
            if state is None:
                return line
        return line


def complete(row: bytes, sep: bytes) -> bool | None:
    """Whether every quoted cell of a row ends; None if one ends where no cell may, so that more lines cannot help."""
    place = 0
    while True:
        if row[place : place + 1] == b'"':
            end = place + 1
            while True:
                end = row.find(b'"', end)
                if end < 0:
                    return False
                if row[end + 1 : end + 2] != b'"':
                    break
                end += 2
            after = row[end + 1 : end + 2]
            if after not in (sep, b"\n", b"\r", b""):
                return None
            place = end + 1
        place = row.find(sep, place)
        if place < 0:
            return True
        place += 1


def _header(path: str, sep: bytes) -> list[str]:
    """The names of the columns."""
    try:
        place = next(rows_of(path, sep), None)
        if place is None:
            raise UserError(f"csv: {path} is empty; its first line should name the columns")
        data = Handles().read(path, *place)
    except OSError as error:
        raise unreadable("csv", path, error) from None
    try:
        names = [name.strip() for name in split_row(decode_text(data), sep.decode())]
    except BadExample as error:
        raise UserError(f"csv: the first line of {path} should name the columns: {error}") from None
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"csv: {path} has two columns {twice[0]!r}; its first line should name each column once")
    return names


def open(
    arg: str | None = None,
    *,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
    key: str | None = None,
    extra: str | None = None,
    root: str | None = None,
    sep: str | None = None,
    base64: bool = False,
) -> Csv:
    """The source `csv:PATTERN[?image=COLUMN&text=COLUMN&label=COLUMN&key=COLUMN&root=DIR&sep=,…]`.

    Args:
      arg: a file, a folder of *.csv or *.tsv, or a pattern with `*`, `{0..9}` or `{a,b}`. The first line of each file
        names the columns.
      image, text, label, key, extra, root, base64: as for `jsonl`; a cell holds one caption.
      sep: separator, one character or `tab`; unless told, a tab for *.tsv and a comma for others.

    Raises:
      UserError: no such file, one without rows, or a column that is not there.
    """
    files = find_files("csv", arg, (".csv", ".tsv"))
    options = {"image": image, "text": text, "label": label, "key": key, "extra": extra}
    name = spell("csv", arg, {**options, "root": root, "sep": sep, "base64": base64})
    separator = SEPARATORS.get(sep, sep) if sep else "\t" if files[0].lower().endswith(".tsv") else ","
    if len(separator.encode()) != 1 or separator in '"\r\n':
        raise UserError(f"csv: sep={sep}; valid: one character, or {', '.join(SEPARATORS)}")
    root = None if root is None else one_folder("csv", root, "root=")
    return Csv(name, files, sep=separator.encode(), root=root, inline=base64, options=options)
