"""`llava:` - conversations, about pictures or not, as LLaVA and ShareGPT publish them: a JSON array, or JSON lines."""

import json
import os
from builtins import open as builtin_open
from typing import Any

from mmjax.core.errors import UserError
from mmjax.data.conversations import parse
from mmjax.data.decode import decode_image
from mmjax.data.example import BadExample, Example
from mmjax.data.files.base import check_text, decode_text, read_named_image, spell
from mmjax.data.files.lines import Lines, scan_lines
from mmjax.data.files.paths import find_files, one_folder, unreadable


class Chats:
    """Use `open`. An example has `turns` [(question, answer), …], `pictures` (uint8[Y, X, C] each), `system`, `key`."""

    def __init__(self, name: str, files: tuple[str, ...], root: str | None) -> None:
        """Finds the rows of all files; those of an array are parsed, JSON lines when they are read.

        Raises:
          UserError: a file is neither, or has no rows.
        """
        self.name, self._root = name, root
        self._rows: list[tuple[str, Any]] | None = None
        self._lines: Lines | None = None
        arrays = [path for path in files if _is_array(path)]
        if arrays and len(arrays) < len(files):
            raise UserError(f"{name}: some files are JSON arrays and some JSON lines; give each kind by itself")
        if arrays:
            self._rows = [(os.path.dirname(path), row) for path in arrays for row in _array(path)]
            if not self._rows:
                raise UserError(f"{name}: {', '.join(arrays[:3])} has no conversations")
        else:
            self._lines = Lines("llava", files, scan_lines)

    def __len__(self) -> int:
        return len(self._rows) if self._rows is not None else len(self._lines or ())

    def __getitem__(self, index: int) -> Example:
        """The example at a position.

        Raises:
          BadExample: the row or one of its pictures cannot be used.
          IndexError: there is no such position.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)} in {self.name}")
        folder, row = self._row(index)
        if not isinstance(row, dict):
            raise BadExample("malformed record", f"not a JSON object but {str(row)[:40]!r}", f"row {index}")
        conversation, named = parse(row, f"row {index}")
        try:
            for turn in conversation.turns:
                check_text("".join(str(part) for part in turn))
            begin = folder if self._root is None else self._root
            pictures = [decode_image(read_named_image(os.path.join(begin, path), self._root)) for path in named]
        except BadExample as error:
            raise BadExample(error.reason, error.detail, conversation.key) from None
        example: dict[str, Any] = {"turns": list(conversation.turns), "pictures": pictures, "key": conversation.key}
        if conversation.system is not None:
            example["system"] = conversation.system
        return example  # type: ignore[return-value]

    def _row(self, index: int) -> tuple[str, Any]:
        """The folder that relative paths begin at, and the row."""
        if self._rows is not None:
            return self._rows[index]
        assert self._lines is not None
        try:
            return self._lines.folder(index), json.loads(decode_text(self._lines.read(index)))
        except (ValueError, RecursionError) as error:
            raise BadExample("malformed record", f"not JSON: {error}", f"row {index}") from None

    def __repr__(self) -> str:
        return f"<{self.name}, {len(self)} conversations>"


def _is_array(path: str) -> bool:
    try:
        with builtin_open(path, "rb") as file:
            return file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    except OSError as error:
        raise unreadable("llava", path, error) from None


def _array(path: str) -> list[Any]:
    try:
        with builtin_open(path, "rb") as file:
            return json.loads(file.read().removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except OSError as error:
        raise unreadable("llava", path, error) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"llava: {path} is not JSON: {error}") from None


def open(arg: str | None = None, *, root: str | None = None) -> Chats:
    """The source `llava:PATTERN[?root=DIR]`; see `data/conversations.py` for the forms of a row.

    Args:
      arg: a JSON file (an array, or lines), a folder of them, or a pattern.
      root: folder that the paths of pictures begin at; unless told, that of the file.

    Raises:
      UserError: no such file, not JSON, or no conversation in it.
    """
    files = find_files("llava", arg, (".json", ".jsonl"))
    folder = None if root is None else one_folder("llava", root, "root=")
    return Chats(spell("llava", arg, {"root": root}), files, folder)
