"""What a file source gives: a record (key, encoded image, texts, label), and the example that is decoded from it."""

import abc
import dataclasses
import os
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from mmjax.core.errors import UserError
from mmjax.data.decode import decode_image
from mmjax.data.example import NO_PICTURE, BadExample, Example

MAX_BYTES = 256 * 2**20  # of one encoded image: what is larger is not read
# A pipe is not waited for. Not every system has all of these.
_OPEN = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK"))


@dataclasses.dataclass(frozen=True)
class Record:
    """One item as it is stored, the image still encoded: what `mmjax data convert` copies.

    Attributes:
      key: the item's name, as the data give it.
      image: bytes of an image file, at least one.
      texts: captions without white space around them, none of them empty.
      label: class, or None.
      extra: further columns, plain values; `labels` has the class's name as {language: name}.
    """

    key: str
    image: bytes
    texts: list[str]
    label: int | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


class FileSource(abc.ABC):
    """Random access to items in files (the Source protocol). Item i is the i-th of the files, damaged ones included.

    Pickles without open files; each process opens them when it first reads.

    Attributes:
      name: the spec.
      classes: names of the classes by label, if the data name them.
    """

    name: str
    classes: tuple[str, ...] = ()

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def _read(self, index: int) -> Record:
        """The record at a position that is known to exist."""

    def record(self, index: int) -> Record:
        """The item at a position, image not decoded.

        Raises:
          BadExample: the item cannot be used.
          IndexError: there is no such position.
        """
        place = int(index)
        if not 0 <= place < len(self):
            raise IndexError(f"item {place} of {len(self)} in {self.name}")
        return self._read(place)

    def image_file(self, index: int) -> tuple[str, str] | None:
        """(key, path) of an item whose image is a file of its own, which is not read; None: the data hold the image.

        Raises:
          BadExample: the item cannot be used, whatever the file holds.
        """
        return None

    def __getitem__(self, index: int) -> Example:
        """The example at a position: `image` uint8[Y, X, C], `texts`, `key`, and what else the record has.

        Raises:
          BadExample: the item cannot be used.
          IndexError: there is no such position.
        """
        record = self.record(index)
        return cast(Example, {**_told(record), "image": decode_image(record.image)})

    def without_image(self, index: int) -> dict[str, Any]:
        """The example at a position, its `image` NO_PICTURE and not decoded: one that cannot be decoded is not noticed.

        Raises:
          BadExample: the item cannot be used, whatever its image is.
          IndexError: there is no such position.
        """
        return {**_told(self.record(index)), "image": NO_PICTURE}

    def class_names(self, lang: str | None = None) -> list[str]:
        """Names of the classes, by `label`; the data have them in one language only, whatever `lang` is.

        Raises:
          UserError: the data do not name their classes.
        """
        if not self.classes:
            raise UserError(f"the source {self.name} does not name its classes: give a file with their names")
        return list(self.classes)

    def _named(self, name: str) -> tuple[int, dict[str, Any]]:
        """Label and `extra` of the class of that name."""
        return self._label_of[name], {"labels": {"en": name}}

    @property
    def _label_of(self) -> dict[str, int]:
        if "_labels" not in self.__dict__:
            self.__dict__["_labels"] = {name: label for label, name in enumerate(self.classes)}
        return self.__dict__["_labels"]

    def __repr__(self) -> str:
        return f"<{self.name}, {len(self)} items>"


def read_image(path: str) -> bytes:
    """The bytes of an image file.

    Raises:
      BadExample: the file is missing, empty or larger than `MAX_BYTES`.
    """
    try:
        file = os.open(path, _OPEN)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadExample("missing file", f"{path}: {reason}") from None
    try:
        size = os.fstat(file).st_size
        if size > MAX_BYTES:
            raise BadExample("image too large", f"{path}: {size} bytes, more than {MAX_BYTES}")
        data = os.read(file, size)
        while len(data) < size and (more := os.read(file, size - len(data))):
            data += more
    except OSError as error:
        raise BadExample("missing file", f"{path}: {error.strerror}") from None
    finally:
        os.close(file)
    return check_bytes(data, path)


def read_named_image(path: str, root: str | None) -> bytes:
    """The bytes of an image file that a row or an annotation names; `root`: where relative names begin, if it was said.

    Raises:
      BadExample: see `read_image`; of a missing file it says where it was looked for, and how else that is said.
    """
    try:
        return read_image(path)
    except BadExample as error:
        if error.reason != "missing file":
            raise
        beside = "the folder of the file that names them"
        begin = f"{beside}; ?root=DIR gives another" if root is None else f"root={root}; without ?root, at {beside}"
        looked = f"looked for at {os.path.abspath(path)}" if "\0" not in path else "no path"
        raise BadExample("missing file", f"{error.detail}; {looked}; relative paths begin at {begin}") from None


def check_bytes(data: bytes | None, where: str) -> bytes:
    """Encoded bytes of an image, if there are any.

    Raises:
      BadExample: there are none, or more than `MAX_BYTES`.
    """
    if data is None:
        raise BadExample("missing file", f"{where}: no image")
    if not data:
        raise BadExample("empty file", where)
    if len(data) > MAX_BYTES:
        raise BadExample("image too large", f"{where}: {len(data)} bytes, more than {MAX_BYTES}")
    return data


def captions(*values: Any) -> list[str]:
    """The captions in cells of any kind: texts, UTF-8 bytes, numbers, lists of these, nothing.

    Raises:
      BadExample: a text is not UTF-8, is of another kind, or nothing is left after white space is removed.

    Example:
      >>> captions(" a cat\\n", ["two cats", None])
      ['a cat', 'two cats']
    """
    found: list[str] = []
    for value in values:
        for item in value if isinstance(value, list | tuple | np.ndarray) else (value,):
            text = _caption(item)
            if text:
                found.append(text)
    if not found:
        raise BadExample("empty caption")
    return found


def _caption(value: Any) -> str:
    if isinstance(value, str):
        return check_text(value).strip()
    if isinstance(value, bytes):
        return decode_text(value).strip()
    if value is None or (isinstance(value, float) and value != value):  # NaN: a table's empty cell
        return ""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return str(value)
    raise BadExample("malformed record", f"a caption of type {type(value).__name__}: {str(value)[:80]}")


def _told(record: Record) -> dict[str, Any]:
    label = {} if record.label is None else {"label": record.label}
    return {**record.extra, "texts": record.texts, "key": record.key, **label}


def decode_text(data: bytes) -> str:
    """UTF-8 as text; BadExample if it is not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadExample("bad text encoding", str(error)) from None


def check_text(text: str) -> str:
    """A text that UTF-8 can express; BadExample if it holds half of a surrogate pair, as JSON allows."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadExample("bad text encoding", str(error)) from None
    return text


def spell(kind: str, arg: str | None, options: Mapping[str, Any]) -> str:
    """The spec of a source: options that are None or False are left out."""
    given = "&".join(
        f"{name}={str(value).lower() if value is True else value}"
        for name, value in options.items()
        if value not in (None, False)
    )
    return kind + (f":{arg}" if arg else "") + (f"?{given}" if given else "")
