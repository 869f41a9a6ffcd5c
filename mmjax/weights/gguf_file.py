"""Files of llama.cpp, GGUF: what they say, and their tensors, one at a time and without running anything in them.

The header is read here, so that nothing is mapped into memory; blocks of few bits are decoded by the package `gguf`,
which only they need. Source: ggml `docs/gguf.md`, versions 2 and 3.
"""

import math
import pathlib
import struct
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes  # noqa: F401  (gives numpy the name "bfloat16")
import numpy as np

from mmjax.core.errors import UserError
from mmjax.weights.transforms import Shape

GGUF = ".gguf"
_VERSIONS = (2, 3)
_PLAIN = {0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64", 30: "bfloat16"}
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_DIMENSIONS = 4
_AGAIN = "copy or download it again"


class _Place(NamedTuple):
    """Where a tensor lies in its file, in bytes from its beginning; `kind`: the number of its type."""

    kind: int
    shape: Shape
    start: int
    size: int


class GGUFTensors:
    """The tensors of a GGUF file, by name.

    Attributes:
      path: the file.
      facts: what it says besides its tensors: "general.architecture" -> "llama", ….
    """

    def __init__(self, path: pathlib.Path) -> None:
        """Reads the header, and checks that the file is as long as it says.

        Raises:
          UserError: damaged, incomplete, no GGUF, one of several parts, or with tensors that cannot be decoded.
        """
        self.path, total = path, path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(8)
            version = int.from_bytes(begin[4:], "little")
            if begin[:4] != b"GGUF":
                raise UserError(f"{path} ({total:,} bytes) is no GGUF file: it begins with {begin[:4]!r}")
            if version not in _VERSIONS:
                big = int.from_bytes(begin[4:], "big") in _VERSIONS
                what = "written for machines of the other byte order" if big else f"of version {version}"
                raise UserError(f"{path} is a GGUF file {what}; readable: versions 2 and 3, little-endian")
            try:
                self.facts, listed, end = _header(_Reader(file, total))
            except (_Damage, UnicodeDecodeError, struct.error) as error:
                raise UserError(f"{path} ({total:,} bytes) is damaged: {error}; {_AGAIN}") from None
        if (parts := self.facts.get("split.count", 0)) not in (0, 1):
            raise UserError(f"{path} is one of {parts} parts; join them first: llama-gguf-split --merge FIRST JOINED")
        self._places = {}
        for name, (kind, shape, offset) in listed.items():
            size = _size(kind, shape, f"{path}: {name}")
            if end + offset + size > total:
                raise UserError(f"{path} ({total:,} bytes) ends before {name} does: {_AGAIN}")
            self._places[name] = _Place(kind, shape, end + offset, size)

    def keys(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._places)

    def shape(self, key: str) -> Shape:
        """The shape of a tensor, from the header alone, its last axis the one of neighbours in the file."""
        return self._places[key].shape

    def read(self, key: str) -> np.ndarray:
        """The tensor as it is stored; what is stored in blocks of few bits as the float32 that they stand for.

        Raises:
          UserError: the file has become shorter.
        """
        place = self._places[key]
        data = np.fromfile(self.path, np.uint8, place.size, offset=place.start)
        if data.size != place.size:
            raise UserError(f"{self.path} ends in the middle of {key}: {_AGAIN}")
        if place.kind in _PLAIN:
            return data.view(np.dtype(_PLAIN[place.kind])).reshape(place.shape)
        package = _package(key)
        kind = package.GGMLQuantizationType(place.kind)
        rows = data.reshape(*place.shape[:-1], -1)
        with np.errstate(all="ignore"):  # a damaged scale may be anything
            return package.quants.dequantize(rows, kind).reshape(place.shape)


def _package(where: str) -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        raise UserError(f"{where} is stored in blocks that the package gguf decodes: pip install 'mmjax[gguf]'") from (
            error
        )
    return gguf


def _size(kind: int, shape: Shape, where: str) -> int:
    """Bytes of a tensor.

    Raises:
      UserError: its type is not known, or cannot be decoded, or its rows are no whole blocks.
    """
    count = math.prod(shape)
    if kind in _PLAIN:
        return count * np.dtype(_PLAIN[kind]).itemsize
    package = _package(where)
    try:
        known = package.GGMLQuantizationType(kind)
        block, size = package.GGML_QUANT_SIZES[known]
        package.quants.dequantize(np.zeros((1, size), np.uint8), known)
    except (ValueError, KeyError, NotImplementedError):
        name = next((each.name for each in package.GGMLQuantizationType if each == kind), f"type {kind}")
        raise UserError(
            f"{where} is stored as {name}, which gguf cannot decode; it decodes F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
            "Q5_0, Q5_1, Q2_K to Q6_K and IQ"
        ) from None
    if shape[-1] % block:
        raise UserError(f"{where} has rows of {shape[-1]} values, no whole blocks of {block}: {_AGAIN}")
    return count // block * size


# ---------------------------------------------------------------- the header


class _Damage(Exception):
    """The header says what cannot be."""


class _Reader:
    """Numbers and texts of a file, in order; never more than the file has."""

    def __init__(self, file: BinaryIO, total: int) -> None:
        self._file, self.left = file, total - file.tell()
        self.total = total

    def bytes(self, count: int) -> bytes:
        if count > self.left:
            raise _Damage(f"its header names {count:,} bytes where {self.left:,} are left")
        self.left -= count
        return self._file.read(count)

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))[0]

    def text(self) -> str:
        return self.bytes(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise _Damage(f"a value of type {kind}, which does not exist")
        of, count = self.number("I"), self.number("Q")
        if of in _NUMBERS:
            form = np.dtype(_NUMBERS[of]).newbyteorder("<")
            return np.frombuffer(self.bytes(count * form.itemsize), form).tolist()
        if of != _TEXT or 8 * count > self.left:
            raise _Damage(f"a list of {count:,} values of type {of}")
        return [self.raw() for _ in range(count)]

    def raw(self) -> str:
        """A text of a list: pieces of a vocabulary may be parts of characters."""
        return self.bytes(self.number("Q")).decode("utf-8", "surrogateescape")


def _header(file: _Reader) -> tuple[dict[str, Any], dict[str, tuple[int, Shape, int]], int]:
    """(facts, tensors: name -> (type, shape, offset), where the tensors begin)."""
    tensors, count = file.number("Q"), file.number("Q")
    facts: dict[str, Any] = {}
    for _ in range(count):
        name = file.text()
        if name in facts:
            raise _Damage(f"it says {name} twice")
        facts[name] = file.value(file.number("I"))
    found: dict[str, tuple[int, Shape, int]] = {}
    for _ in range(tensors):
        name, axes = file.text(), file.number("I")
        if name in found or not 0 < axes <= _DIMENSIONS:
            raise _Damage(f"the tensor {name} stands in it twice" if name in found else f"{name} has {axes} axes")
        shape = tuple(file.number("Q") for _ in range(axes))[::-1]
        if 0 in shape:
            raise _Damage(f"{name} is empty, of shape {list(shape)}")
        found[name] = file.number("I"), shape, file.number("Q")
    align = facts.get("general.alignment", 32)
    if not isinstance(align, int) or align < 1:
        raise _Damage(f"general.alignment = {align!r}")
    return facts, found, -(-(file.total - file.left) // align) * align
