"""The index of a tar shard: which samples it has and where their members lie. Built once and kept in a file.

The file is beside the shard as SHARD.mmjax-index or, where that folder cannot be written, in the user's cache folder
($XDG_CACHE_HOME or ~/.cache, in mmjax/webdataset). It holds for the size and the time of change that the shard had; a
shard that has changed is read again. Its first line is a JSON header, then each line a sample: [key, {end: [offset,
size]}], offsets in bytes from the shard's begin.
"""

import contextlib
import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator

import numpy as np
from absl import logging

from mmjax.core.errors import UserError
from mmjax.data.files.paths import unreadable

VERSION = 1
SUFFIX = ".mmjax-index"

Members = dict[str, tuple[int, int]]  # ending, without dot -> (offset, size) in bytes


class ShardIndex:
    """The samples of one shard, kept as the lines of the index file."""

    def __init__(self, data: bytes) -> None:
        """Args: data: the lines of an index file, without its header."""
        self.data = data
        self.ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self.ends)

    def sample(self, place: int) -> tuple[str, Members]:
        """Key and members of a sample."""
        start = int(self.ends[place - 1]) + 1 if place else 0
        key, members = json.loads(self.data[start : int(self.ends[place])])
        return key, {end: (offset, size) for end, (offset, size) in members.items()}


def shard_index(path: str) -> ShardIndex:
    """The index of a shard: read from its file, or built and kept there.

    Raises:
      UserError: the shard cannot be read, is compressed, or is cut short.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreadable("webdataset", path, error) from None
    header = {"version": VERSION, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    places = (path + SUFFIX, _cached(path))
    for place in places:
        if (data := _read(place, header)) is not None:
            return ShardIndex(data)
    data = b"".join(_line(key, members) for key, members in scan_shard(path))
    for place in places:
        if _write(place, header, data):
            break
    else:
        logging.warning("webdataset: the index of %s can be kept nowhere; it is built again at every start", path)
    return ShardIndex(data)


def _cached(path: str) -> str:
    """Where the index of a shard in a read-only folder is kept."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = hashlib.sha256(os.path.realpath(path).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return os.path.join(root, "mmjax", "webdataset", name + SUFFIX)


def _line(key: str, members: Members) -> bytes:
    return json.dumps([key, members], separators=(",", ":")).encode() + b"\n"


def _read(place: str, header: dict[str, int]) -> bytes | None:
    """The lines of an index file, None if there is none or it is for another shard or damaged."""
    try:
        with open(place, "rb") as file:
            found = json.loads(file.readline())
            data = file.read()
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found != header | {"bytes": len(data), "digest": _digest(data)}:
        return None
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _write(place: str, header: dict[str, int], data: bytes) -> bool:
    """Writes an index file whole or not at all, so that several processes may build the same one."""
    folder = os.path.dirname(place)
    try:
        if place.startswith(os.path.dirname(_cached(place))):
            os.makedirs(folder, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=".", suffix=SUFFIX, dir=folder or ".")
    except OSError:
        return False
    try:
        with os.fdopen(number, "wb") as file:
            first = json.dumps(header | {"bytes": len(data), "digest": _digest(data)})
            file.write(first.encode() + b"\n" + data)
        os.chmod(name, 0o644)  # mkstemp makes files that others cannot read
        os.replace(name, place)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        return False
    return True


def scan_shard(path: str) -> Iterator[tuple[str, Members]]:
    """Samples of a shard in order: neighbouring files with the same path up to the first dot of the name.

    Raises:
      UserError: the shard cannot be read, is compressed, or is cut short.
    """
    key, members = None, Members()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header
                if not member.isfile():
                    continue
                folder, name = os.path.split(member.name)
                stem, _, end = name.partition(".")
                if not stem or not end:  # hidden files, files without an ending
                    continue
                found = f"{folder}/{stem}" if folder else stem
                found = found.removeprefix("./")
                if found != key:
                    if key is not None:
                        yield key, members
                    key, members = found, {}
                members.setdefault(end.lower(), (member.offset_data, member.size))
            last = tar.offset
    except tarfile.TarError as error:
        raise UserError(_why(path, error)) from None
    except OSError as error:
        raise unreadable("webdataset", path, error) from None
    # tarfile ends in silence at a header that is damaged or cut short; an archive ends with blocks of zeros.
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(last)
        block = file.read(tarfile.BLOCKSIZE)
    if last > size or any(offset + length > size for offset, length in members.values()):
        raise UserError(f"webdataset: {path} is cut short: its last file is longer than the rest of the shard")
    if block != bytes(tarfile.BLOCKSIZE):
        raise UserError(f"webdataset: {path} is damaged or cut short: at byte {last} there is no header of a file")
    if key is not None:
        yield key, members


def _why(path: str, error: Exception) -> str:
    with open(path, "rb") as file:
        begin = file.read(6)
    kinds = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"(\xb5/\xfd": "zstd"}
    for signature, kind in kinds.items():
        if begin.startswith(signature):
            return f"webdataset: {path} is compressed ({kind}); samples are read by position: unpack it to a plain tar"
    return f"webdataset: {path} is no tar file, or a damaged one: {error}"
