"""`parquet:` - tables in Parquet files, images inside (as Hugging Face data sets have them) or as paths.

A row is read with the whole row group that it is in; the groups that were read last are kept. Reading in order is fast
with groups of any size. Reading in random order is fast where groups are small or the table holds only paths and
texts; other tables are best rewritten (`mmjax data convert`) before they are trained on.
"""

import collections
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.data.example import BadExample
from mmjax.data.files.base import spell
from mmjax.data.files.columns import pick_columns
from mmjax.data.files.paths import find_files, one_folder
from mmjax.data.files.table import Table

KEEP_BYTES = 256 * 2**20  # of row groups, in each process; the one in use is kept whatever its size
KEEP_FILES = 64


class Parquet(Table):
    """Use `open`."""

    def __init__(
        self, name: str, files: Sequence[str], *, root: str | None, inline: bool, options: dict[str, str | None]
    ):
        """Reads the files' metadata, and the column of labels if there is one.

        Raises:
          UserError: a file cannot be read or has other columns than the first, there are no rows, or a column is
            missing.
        """
        self.name, self.files, self.root, self.inline = name, tuple(files), root, inline
        self._begin()
        self.groups: list[tuple[int, int]] = []  # (file, row group), those without rows left out
        counts = []
        for number, path in enumerate(self.files):
            file = self._file(path)
            names = file.schema_arrow.names
            if not number:
                self.columns = pick_columns(names, path, **options)
            lacking = [column for column in self.columns.used if column not in names]
            if lacking:
                raise UserError(f"parquet: {path} has no column {lacking[0]!r}; columns: {', '.join(names)}")
            for group in range(file.num_row_groups):
                if rows := file.metadata.row_group(group).num_rows:
                    self.groups.append((number, group))
                    counts.append(rows)
        if not counts:
            raise UserError(f"parquet: {', '.join(self.files[:3])} has no rows")
        self.ends = np.cumsum(counts)
        if self.columns.label:
            self._set_classes(self._labels(self.columns.label))

    def _begin(self) -> None:
        self._files: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self._cache: collections.OrderedDict[int, dict[str, Any]] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value for key, value in self.__dict__.items() if key not in ("_files", "_cache", "_bytes", "_lock")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _group_of(self, index: int) -> tuple[int, int]:
        """The number of the row's group in `groups`, and the row's place in it."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        return number, index - (int(self.ends[number - 1]) if number else 0)

    def _folder(self, index: int) -> str:
        return os.path.dirname(self.files[self.groups[self._group_of(index)[0]][0]])

    def _row(self, index: int) -> dict[str, Any]:
        number, place = self._group_of(index)
        columns = self._columns(number)
        try:
            return {name: column[place].as_py() for name, column in columns.items()}
        except UnicodeDecodeError as error:
            raise BadExample("bad text encoding", str(error)) from None

    def _columns(self, number: int) -> dict[str, Any]:
        """The columns of a row group that are used, from the cache or the file."""
        with self._lock:  # a Parquet file is read by one thread at a time
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            file, group = self.groups[number]
            try:
                table = self._file(self.files[file]).read_row_group(
                    group, columns=self.columns.used, use_threads=False
                ).combine_chunks()  # fmt: skip
            except Exception as error:  # pyarrow's own kinds, and OSError
                raise BadExample("malformed record", f"{self.files[file]}, row group {group}: {error}") from None
            columns = {name: _one_chunk(table.column(name)) for name in table.column_names}
            self._cache[number] = columns
            self._bytes += table.nbytes
            while self._bytes > KEEP_BYTES and len(self._cache) > 1:
                _, dropped = self._cache.popitem(last=False)
                self._bytes -= sum(column.nbytes for column in dropped.values())
            return columns

    def _file(self, path: str) -> Any:
        """An open Parquet file; UserError if it cannot be opened."""
        if path in self._files:
            return self._files[path]
        try:
            import pyarrow.parquet as pq
        except ImportError:
            raise UserError("parquet: pyarrow is not installed: pip install 'mmjax[parquet]'") from None
        try:
            file = pq.ParquetFile(path, memory_map=True)
        except Exception as error:  # pyarrow's own kinds, and OSError
            raise UserError(f"parquet: cannot read {path}: {str(error).splitlines()[0]}") from None
        while len(self._files) >= KEEP_FILES:
            self._files.popitem(last=False)
        self._files[path] = file
        return file

    def _labels(self, column: str) -> set[Any]:
        """The distinct values of the column of labels; 0 stands for all whole numbers."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found: set[Any] = set()
        for path in self.files:
            values = self._file(path).read([column], use_threads=False).column(column)
            if pa.types.is_integer(values.type):
                found.add(0)
                continue
            if pa.types.is_binary(values.type) or pa.types.is_nested(values.type):
                raise UserError(f"parquet: the column {column!r} of labels in {path} is of type {values.type}")
            found |= set(pc.unique(values).to_pylist())
        return found


def _one_chunk(column: Any) -> Any:
    """A column as one array where it fits in one: access by row is faster."""
    return column.chunk(0) if column.num_chunks == 1 else column


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
) -> Parquet:
    """The source `parquet:PATTERN[?image=COLUMN&text=COLUMN&label=COLUMN&key=COLUMN&root=DIR…]`.

    Args:
      arg: a file, a folder of *.parquet, or a pattern with `*`, `{000..009}` or `{a,b}`.
      image: column with bytes, {bytes, path}, or a path. Unless told, the first of the usual names that is there.
      text, label, key, extra, root, base64: as for `jsonl`; a column of lists has several captions for an image.

    Raises:
      UserError: no such file, one without rows, a column that is not there, or pyarrow is not installed.
    """
    files = find_files("parquet", arg, (".parquet",))
    options = {"image": image, "text": text, "label": label, "key": key, "extra": extra}
    name = spell("parquet", arg, {**options, "root": root, "base64": base64})
    root = None if root is None else one_folder("parquet", root, "root=")
    return Parquet(name, files, root=root, inline=base64, options=options)
