"""Whole files: written beside their place, then renamed; a reader finds the old content, the new, or no file."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmjax.core.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file whole or not at all: killed or out of space at any moment, what was there before stays.

    Raises:
      UserError: the system refuses it; the message says why and what helps.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else the name may reach the disk before the content does
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """`write_bytes` of a text in UTF-8; line ends are written as they are.

    Raises:
      UserError: see `write_bytes`.
    """
    write_bytes(path, text.encode("utf-8"))


def make_folder(path: str | os.PathLike) -> Path:
    """Makes a folder and those above it, and checks that files can be written there.

    Raises:
      UserError: a file is in its place, or the system refuses it.
    """
    path = Path(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return path


def check_folder(path: str | os.PathLike) -> None:
    """Raises UserError unless `make_folder` would work; makes nothing."""
    path = Path(path)
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    with writing(path):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns what the system says about a write to `path` into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(refusal(error, path)) from error


def refusal(error: OSError, path: str | os.PathLike) -> str:
    """What could not be written, why, and what helps."""
    why = error.strerror or str(error)
    if error.errno in FULL:
        return f"{path} could not be written: {why} ({_free(Path(path))}); {advice(error.errno)}"
    return f"{path} could not be written: {why}; {advice(error.errno)}"


def advice(number: int | None) -> str:
    """What helps against an error of the system."""
    if number in FULL:
        return "free or allow more space there, or name another place; what was finished before is kept"
    if number in CLOSED:
        return "name a place in which you may write"
    if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "a file stands where a folder is needed, or the other way round: name another place"
    return "name another place, or mend this one"


def number_in(text: str) -> int | None:
    """The number of the system's error that a library's message tells of: a full disk, or a place that is closed."""
    found = re.search(r"\[os_error_code='(\d+)'", text) or re.search(r"\[Errno (\d+)\]", text)
    if found:
        return int(found[1])
    return next((number for number in (*FULL, *CLOSED) if os.strerror(number) in text), None)


def _free(path: Path) -> str:
    place = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    try:
        return f"{shutil.disk_usage(place).free / 1e6:,.1f} MB are free"
    except OSError:
        return "free space unknown"
