"""Reading and writing tensor files: one tensor at a time, and without running anything that a file contains.

Nothing is mapped into memory: what a process holds of a checkpoint is the tensor that it is reading.
"""

import contextlib
import json
import math
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import ml_dtypes  # noqa: F401  (gives numpy the name "bfloat16")
import numpy as np
import safetensors
import safetensors.numpy

from mmjax.core.errors import UserError
from mmjax.core.files import write_text
from mmjax.weights.gguf_file import GGUF, GGUFTensors
from mmjax.weights.pickle_chain import open_torch
from mmjax.weights.transforms import Shape

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PARTIAL = (".incomplete", ".part", ".partial", ".crdownload", ".download")  # of hubs, curl, browsers
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
PICKLED = (".pt", ".pth", ".bin")
NPZ, NPY = ".npz", ".npy"


@runtime_checkable
class Tensors(Protocol):
    """Tensors by name, read one at a time."""

    def keys(self) -> list[str]:
        """The names, sorted."""
        ...

    def shape(self, key: str) -> Shape:
        """The shape of a tensor, without reading it."""
        ...

    def read(self, key: str) -> np.ndarray:
        """The tensor as it is stored."""
        ...


_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


class _Place(NamedTuple):
    """Where a tensor lies in its file: `start` counts from the beginning of the file, in bytes."""

    dtype: str
    shape: Shape
    start: int


class SafeTensors:
    """The tensors of a safetensors file, by name."""

    def __init__(self, path: pathlib.Path) -> None:
        """Reads the header.

        Raises:
          UserError: the file is damaged, incomplete or no safetensors.
        """
        self._path, self._places = path, _header(path)

    def keys(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._places)

    def shape(self, key: str) -> Shape:
        """The shape of a tensor, from the header alone."""
        return self._places[key].shape

    def read(self, key: str) -> np.ndarray:
        """The tensor as it is stored; bfloat16 included.

        Raises:
          UserError: a type of number that numpy lacks, or the file has become shorter.
        """
        place = self._places[key]
        if place.dtype not in _DTYPES:
            raise UserError(f"{self._path}: {key} is stored as {place.dtype}; readable: {', '.join(_DTYPES)}")
        count = math.prod(place.shape)
        values = np.fromfile(self._path, np.dtype(_DTYPES[place.dtype]), count, offset=place.start)
        if values.size != count:
            raise UserError(f"{self._path} ends in the middle of {key}: copy or download it again")
        return values.reshape(place.shape)


def _header(path: pathlib.Path) -> dict[str, _Place]:
    """The places of a file's tensors, after its own library has checked that they fill the file."""
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {
            key: _Place(about["dtype"], tuple(about["shape"]), 8 + length + about["data_offsets"][0])
            for key, about in header.items()
        }
    except Exception as error:  # whatever a damaged header leads to
        hint = ""
        if "Incomplete" in str(error) or "TooShort" in str(error) or "header" in str(error).lower():
            hint = "; was its download interrupted? Fetch the file again"
        size = path.stat().st_size
        raise UserError(f"{path} ({size:,} bytes) cannot be read as safetensors: {error}{hint}") from error


class NumpyArchive:
    """The arrays of an `.npz` file, by name; nothing in it is unpickled."""

    def __init__(self, path: pathlib.Path) -> None:
        """Reads names and shapes, not the arrays.

        Raises:
          UserError: the file is damaged or no `.npz`.
        """
        self._path = path
        with self._damage(), zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(NPY)]
            self._shapes = {entry.filename.removesuffix(NPY): _npy_shape(archive, entry) for entry in entries}
        if not self._shapes:
            raise UserError(f"{path} holds no arrays")

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a damaged archive leads to
            raise UserError(f"{self._path} cannot be read as an .npz file: {error}") from error

    def keys(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._shapes)

    def shape(self, key: str) -> Shape:
        """The shape of an array, from its header alone."""
        return self._shapes[key]

    def read(self, key: str) -> np.ndarray:
        """The array as it is stored.

        Raises:
          UserError: it is damaged.
        """
        with self._damage(), np.load(self._path, allow_pickle=False) as archive:
            return archive[key]


def _npy_shape(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Shape:
    """Of one array; what it says must fill its entry."""
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"{entry.filename} has a header of version {version}")
        shape, _, dtype = read(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or entry.file_size - file.tell() != size:
            raise ValueError(f"{entry.filename} holds {entry.file_size} bytes, its header says {size} of {dtype}")
        return tuple(shape)


class Parts:
    """A checkpoint in several files."""

    def __init__(self, parts: Mapping[pathlib.Path, Tensors]) -> None:
        """Joins them.

        Raises:
          UserError: a tensor stands in two of them.
        """
        self._where: dict[str, Tensors] = {}
        for path, part in parts.items():
            for key in part.keys():  # noqa: SIM118 (no mapping)
                if key in self._where:
                    raise UserError(f"{path}: the tensor {key} also stands in another file of the checkpoint")
                self._where[key] = part

    def keys(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._where)

    def shape(self, key: str) -> Shape:
        """The shape of a tensor, without reading it."""
        return self._where[key].shape(key)

    def read(self, key: str) -> np.ndarray:
        """The tensor as it is stored."""
        return self._where[key].read(key)


def _check_download(path: pathlib.Path) -> None:
    """Raises UserError for what stands in the place of weights when a download went wrong."""
    with path.open("rb") as file:
        begin = file.read(512).lstrip()
    again = "fetch the weights again"
    if not begin:
        raise UserError(f"{path} is empty: {again}")
    if begin.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of Git LFS, not the weights: run `git lfs pull` where it was cloned")
    if begin[:64].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise UserError(f"{path} is a web page, not weights (an error page or a login, perhaps): {again}")


def find_weights(path: pathlib.Path) -> pathlib.Path:
    """The weight file (or the index of its parts) of a checkpoint folder; a file stands for itself.

    Raises:
      UserError: none, or several and no usual name among them.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path} does not exist; a checkpoint is a folder with a config and weights, or a weight file")
    for name in (WEIGHTS, INDEX, OPEN_CLIP_WEIGHTS[0], BIN, BIN_INDEX, *OPEN_CLIP_WEIGHTS[1:]):
        if (path / name).is_file():
            return path / name
    for suffixes in ((".safetensors",), PICKLED, (NPZ,), (GGUF,)):
        found = sorted(p for p in path.iterdir() if p.suffix in suffixes and p.is_file())
        found = [p for p in found if p.name != "io.safetensors"]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{path} holds several weight files, name one: {', '.join(p.name for p in found)}")
    partial = sorted(p.name for p in path.iterdir() if p.suffix in PARTIAL)
    if partial:
        raise UserError(f"{path} holds no weights but an interrupted download, {', '.join(partial)}: finish it")
    raise UserError(
        f"{path} holds no weights: looked for {WEIGHTS}, {INDEX}, {BIN_INDEX}, one *.safetensors or one *.pt, *.pth, "
        "*.bin, *.npz, *.gguf"
    )


def open_tensors(path: str | pathlib.Path) -> Tensors:
    """Opens the weights of a checkpoint folder or file for reading by name.

    Raises:
      UserError: no weights, or not readable.
    """
    path = find_weights(pathlib.Path(path))
    return _open_parts(path) if path.name.endswith(".index.json") else _open(path)


def _open(path: pathlib.Path) -> Tensors:
    _check_download(path)
    if path.suffix == NPZ:
        return NumpyArchive(path)
    if path.suffix == GGUF:
        return GGUFTensors(path)
    return open_torch(path) if path.suffix in PICKLED else SafeTensors(path)


def _open_parts(index: pathlib.Path) -> Tensors:
    """The files that an index names.

    Raises:
      UserError: the index is malformed, or a file is missing, outside the folder or without a tensor that it should
        hold.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: expected an object with a weight_map: tensor name -> file name")
    if not all(isinstance(name, str) and name for name in weight_map.values()):
        raise UserError(f"{index}: weight_map must give a file name for every tensor")
    names = sorted(set(weight_map.values()))
    bad = [name for name in names if pathlib.PurePath(name).name != name or "\0" in name]
    if bad:
        raise UserError(f"{index}: weight_map points outside its folder: {bad}")
    missing = [name for name in names if not _is_file(index.parent / name)]
    if missing:
        raise UserError(f"{index} names files that are not there: {', '.join(missing)}")
    parts = {index.parent / name: _open(index.parent / name) for name in names}
    held = {path.name: set(part.keys()) for path, part in parts.items()}
    absent = [f"{key} in {name}" for key, name in weight_map.items() if key not in held[name]]
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise UserError(f"{index} names tensors that are not in their files: {', '.join(absent[:3])}{more}")
    return Parts(parts)


def _is_file(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file system takes
        return False


def read_json(path: pathlib.Path) -> dict:
    """A JSON object.

    Raises:
      UserError: missing, not JSON, or not an object.
    """
    content = _parse(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_json_list(path: pathlib.Path) -> list:
    """A JSON array.

    Raises:
      UserError: missing, not JSON, or not an array.
    """
    content = _parse(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a JSON array, found {type(content).__name__}")
    return content


def _parse(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def write_json(path: pathlib.Path, content: Mapping | list) -> None:
    """Writes a JSON object or array."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_safetensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors under sorted names, marked as torch's (`{"format": "pt"}`), as other libraries expect."""
    ready = {}
    for key in sorted(tensors):
        array = np.asarray(tensors[key])
        ready[key] = np.ascontiguousarray(array).reshape(array.shape)  # the writer copies memory, whatever the strides
    safetensors.numpy.save_file(ready, path, metadata={"format": "pt"})
