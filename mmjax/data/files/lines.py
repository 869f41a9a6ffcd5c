"""Random access to the rows of text files: their places are found in one pass, then each is read by itself."""

import os
from collections.abc import Callable, Iterator

import numpy as np

from mmjax.core.errors import UserError
from mmjax.data.example import BadExample
from mmjax.data.files.paths import Handles, unreadable

CHUNK = 16 * 2**20
BOM = b"\xef\xbb\xbf"  # that some editors put in front of UTF-8

# path -> (offset, size) of every row, bytes, without the line break
Scan = Callable[[str], tuple[np.ndarray, np.ndarray]]


class Lines:
    """The rows of one or several files, laid end to end. Pickles with the places, 12 bytes for each row."""

    def __init__(self, kind: str, files: tuple[str, ...], scan: Scan) -> None:
        """Scans the files.

        Raises:
          UserError: a file cannot be read, or none has a row.
        """
        offsets, sizes, counts = [], [], []
        for path in files:
            try:
                starts, lengths = scan(path)
            except OSError as error:
                raise unreadable(kind, path, error) from None
            offsets.append(starts)
            sizes.append(lengths)
            counts.append(len(starts))
        self.files = files
        self.offsets, self.sizes = np.concatenate(offsets), np.concatenate(sizes).astype(np.uint32)
        self.ends = np.cumsum(counts)
        self.handles = Handles()
        if not len(self):
            raise UserError(f"{kind}: {', '.join(files[:3])} has no rows")

    def __len__(self) -> int:
        return len(self.offsets)

    def file(self, index: int) -> str:
        """The file that a row is in."""
        if len(self.files) == 1:
            return self.files[0]
        return self.files[int(np.searchsorted(self.ends, index, side="right"))]

    def folder(self, index: int) -> str:
        """The folder of that file."""
        return os.path.dirname(self.file(index))

    def read(self, index: int) -> bytes:
        """The bytes of a row; BadExample if the file has gone since it was opened."""
        try:
            return self.handles.read(self.file(index), int(self.offsets[index]), int(self.sizes[index]))
        except OSError as error:
            raise BadExample("malformed record", f"{self.file(index)}: {error.strerror}") from None


def scan_lines(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Places of the lines that are not blank: offsets int64[N], sizes int64[N] without the line break."""
    breaks = [np.zeros(0, np.int64)]
    with open(path, "rb") as file:
        skip = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(0)
        offset = 0
        while chunk := file.read(CHUNK):
            breaks.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + offset)
            offset += len(chunk)
        ends = np.concatenate([*breaks, np.array([offset], np.int64)])
        starts = np.concatenate([np.array([skip], np.int64), ends[:-1] + 1])
        sizes = ends - starts
        keep = sizes > 0
        # Lines of blanks are short: only those are read again.
        for place in np.flatnonzero(keep & (sizes <= 16)):
            file.seek(int(starts[place]))
            if not file.read(int(sizes[place])).strip():
                keep[place] = False
    return starts[keep], sizes[keep]


def iterate(path: str) -> Iterator[bytes]:
    """The physical lines of a file, with their breaks."""
    with open(path, "rb") as file:
        yield from file
