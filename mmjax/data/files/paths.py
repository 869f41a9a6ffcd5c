"""From a pattern to the files that it names, and reading parts of files from many threads and processes."""

import difflib
import glob
import itertools
import os
import re
from collections.abc import Callable, Sequence

from mmjax.core.errors import UserError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(pattern: str) -> list[str]:
    """`{a,b}` and `{000..012}` spelled out, the rightmost fastest; zeros in front are kept.

    Raises:
      UserError: a range that runs backwards, or braces that do not match.

    Example:
      >>> expand_braces("s-{08..10}.tar")
      ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    parts = _BRACES.split(pattern)  # text, inside, text, inside, …, text
    if any("{" in text or "}" in text for text in parts[::2]):
        raise UserError(f"pattern {pattern!r}: braces do not match; valid: {{000..009}} and {{a,b}}, not nested")
    choices: list[list[str]] = []
    for number, part in enumerate(parts):
        match = _RANGE.fullmatch(part) if number % 2 else None
        if match is None:
            choices.append(part.split(",") if number % 2 else [part])
            continue
        first, last = match.groups()
        if int(first) > int(last):
            raise UserError(f"pattern {pattern!r}: the range {{{part}}} runs backwards")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        choices.append([str(value).zfill(width) for value in range(int(first), int(last) + 1)])
    return ["".join(combination) for combination in itertools.product(*choices)]


def find_files(kind: str, pattern: str | None, suffixes: Sequence[str]) -> tuple[str, ...]:
    """The files of a source: of a path, of a pattern with braces and `*`, or those in a folder.

    Args:
      kind: the source's name, for errors.
      pattern: as in the spec. A pattern with `*` gives its matches sorted; braces keep their order.
      suffixes: of the files that count in a folder, as ".tar".

    Raises:
      UserError: nothing is there; it says what was looked for, and what there is.
    """
    if not pattern:
        raise UserError(f"the source {kind} needs a file: {kind}:PATH, with *, {{000..009}} or {{a,b}} for several")
    pattern = os.path.expanduser(pattern)
    if os.path.isdir(pattern):
        names = sorted(name for name in os.listdir(pattern) if name.lower().endswith(tuple(suffixes)))
        files = tuple(os.path.join(pattern, name) for name in names if not name.startswith("."))
        if not files:
            raise UserError(f"{kind}:{pattern}: the folder has no file *{', *'.join(suffixes)}{_listing(pattern)}")
        return files
    if os.path.exists(pattern):
        return (pattern,)
    files, missing = (), []
    for one in expand_braces(pattern):
        if glob.has_magic(one):
            matches = sorted(glob.glob(one, recursive=True))
            if not matches:
                raise UserError(f"{kind}:{pattern}: no file matches {one}{_listing(os.path.dirname(one))}")
            files += tuple(matches)
        elif os.path.exists(one):
            files += (one,)
        else:
            missing.append(one)
    if missing:
        more = f" and {len(missing) - 1} more of the pattern {pattern}" if len(missing) > 1 else ""
        raise UserError(f"{kind}: there is no file {missing[0]}{more}{_listing(*os.path.split(missing[0]))}")
    return files


def one_file(kind: str, path: str | None, form: str = "PATH") -> str:
    """A path that is a file, with `~` resolved.

    Raises:
      UserError: it is not; the message lists what its folder has.
    """
    if not path:
        raise UserError(f"the source {kind} needs a file: {kind}:{form}")
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        raise UserError(f"{kind}:{path} is a folder, not a file{_listing(path)}")
    if not os.path.exists(path):
        raise UserError(f"{kind}: there is no file {path}{_listing(*os.path.split(path))}")
    return path


def one_folder(kind: str, path: str | None, what: str = "") -> str:
    """A path that is a folder, with `~` resolved.

    Raises:
      UserError: it is not; the message lists what is beside it.
    """
    if not path:
        raise UserError(f"the source {kind} needs a folder: {kind}:PATH")
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        raise UserError(f"{kind}: {what}{path} is a file, not a folder")
    if not os.path.isdir(path):
        raise UserError(f"{kind}: there is no folder {what}{path}{_listing(*os.path.split(path.rstrip('/')))}")
    return path


def _listing(folder: str, name: str = "") -> str:
    """'; the folder has …', to end an error with."""
    folder = folder or "."
    try:
        names = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
    except OSError as error:
        return f"; nor can the folder {folder} be listed: {error.strerror}"
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    some = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"; {folder} has {some or 'nothing'}{hint}"


def unreadable(kind: str, path: str, error: Exception) -> UserError:
    """The error for a file that cannot be read."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(f"{kind}: cannot read {path}: {why}")


class _File:
    """A file descriptor that is closed with the last reference to it."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if "number" in self.__dict__:  # it was opened
            close(self.number)


class Handles:
    """Files kept open for reading at offsets, at most `limit` of them, opened when first read.

    Safe from many threads and after a fork: reads carry their offset (pread), and a file that is dropped from here is
    closed by the last thread that still uses it.
    """

    def __init__(self, limit: int = 64) -> None:
        self.limit = limit
        self._open: dict[str, _File] = {}

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer where the file ends.

        Raises:
          OSError: the file cannot be read any more.
        """
        file = self._open.get(path)
        if file is None:
            file = _File(path)
            while len(self._open) >= self.limit:
                self._open.pop(next(iter(self._open)), None)
            self._open[path] = file
        return os.pread(file.number, size, offset)

    def __getstate__(self) -> dict[str, int]:
        return {"limit": self.limit}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(state["limit"])  # type: ignore[misc]
