"""Reading and writing tensor files: one tensor at a time, and without running anything that a file contains."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import ml_dtypes  # noqa: F401  (gives numpy the name "bfloat16")
import numpy as np
import safetensors
import safetensors.numpy

from mmjax.core.errors import UserError
from mmjax.core.files import write_text
from mmjax.weights.pickle_safe import TorchArchive
from mmjax.weights.transforms import Shape

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
PARTIAL = (".incomplete", ".part", ".partial", ".crdownload", ".download")  # of hubs, curl, browsers
PICKLED = (".pt", ".pth", ".bin")


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


class SafeTensors:
    """The tensors of one or several safetensors files, by name."""

    def __init__(self, paths: list[pathlib.Path]) -> None:
        self._files = [_open(path) for path in paths]
        self._where: dict[str, Any] = {}  # name -> its open file
        for path, file in zip(paths, self._files, strict=True):
            for key in file.keys():  # noqa: SIM118 (no mapping)
                if key in self._where:
                    raise UserError(f"{path}: the tensor {key} also stands in another file of the checkpoint")
                self._where[key] = file

    def keys(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._where)

    def shape(self, key: str) -> Shape:
        """The shape of a tensor, from the header alone."""
        return tuple(self._where[key].get_slice(key).get_shape())

    def read(self, key: str) -> np.ndarray:
        """The tensor as it is stored; bfloat16 included."""
        return self._where[key].get_tensor(key)


def _open(path: pathlib.Path):
    _check_download(path)
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (OSError, safetensors.SafetensorError) as error:
        hint = ""
        if "Incomplete" in str(error) or "TooShort" in str(error) or "header" in str(error).lower():
            hint = "; was its download interrupted? Fetch the file again"
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read as safetensors: {error}{hint}"
        ) from error


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
    for name in (WEIGHTS, INDEX, OPEN_CLIP_WEIGHTS):
        if (path / name).is_file():
            return path / name
    for suffixes in ((".safetensors",), PICKLED):
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
        f"{path} holds no weights: looked for {WEIGHTS}, {INDEX}, one *.safetensors or one *.pt, *.pth, *.bin"
    )


def open_tensors(path: str | pathlib.Path) -> Tensors:
    """Opens the weights of a checkpoint folder or file for reading by name.

    Raises:
      UserError: no weights, or not readable.
    """
    path = find_weights(pathlib.Path(path))
    if path.name.endswith(".index.json"):
        return SafeTensors(_shards(path))
    if path.suffix in PICKLED:
        _check_download(path)
        return TorchArchive(path)
    return SafeTensors([path])


def _shards(index: pathlib.Path) -> list[pathlib.Path]:
    """The files that an index names.

    Raises:
      UserError: the index is malformed, or a file is missing or outside the folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: expected an object with a weight_map: tensor name -> file name")
    names = sorted(set(weight_map.values()))
    bad = [name for name in names if pathlib.PurePath(name).name != name]
    if bad:
        raise UserError(f"{index}: weight_map points outside its folder: {bad}")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"{index} names files that are not there: {', '.join(missing)}")
    return [index.parent / name for name in names]


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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def write_json(path: pathlib.Path, content: Mapping) -> None:
    """Writes a JSON object."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_safetensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors under sorted names, marked as torch's (`{"format": "pt"}`), as other libraries expect."""
    ready = {}
    for key in sorted(tensors):
        array = np.asarray(tensors[key])
        ready[key] = np.ascontiguousarray(array).reshape(array.shape)  # the writer copies memory, whatever the strides
    safetensors.numpy.save_file(ready, path, metadata={"format": "pt"})
