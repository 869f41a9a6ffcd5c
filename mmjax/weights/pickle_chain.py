"""torch's files of before 1.6 (`.pth`, `.bin`), read as `pickle_safe` reads archives: nothing that they contain is run.

Such a file is a chain of pickles: a magic number, the protocol's number, what the writer's machine was, the object tree
in which tensors name their storages, and the storages' names in the order in which their bytes follow, each behind the
count of its values. There is no check sum.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.weights.pickle_safe import LEGACY, Storage, Tensor, TorchArchive, Unpickler, named_tensors, view
from mmjax.weights.transforms import Shape

PROTOCOL = 1001


def open_torch(path: pathlib.Path) -> "TorchArchive | TorchChain":
    """The tensors of a file of torch's, of either form.

    Raises:
      UserError: it is of neither, damaged, or asks for anything but tensors.
    """
    with path.open("rb") as file:
        begin = file.read(len(LEGACY))
    return TorchChain(path) if begin == LEGACY else TorchArchive(path)


class TorchChain:
    """The tensors of such a file, by name; a training script's wrapping (`state_dict`, `module.`) is taken off."""

    def __init__(self, path: pathlib.Path) -> None:
        """Reads names and shapes, not the tensors.

        Raises:
          UserError: the file is damaged, or a pickle asks for anything but tensors.
        """
        self._path = path
        with self._damage(), path.open("rb") as file:
            _, protocol, machine = (Unpickler(file).load() for _ in range(3))
            if protocol != PROTOCOL or not isinstance(machine, dict) or machine.get("little_endian") is not True:
                raise UserError(f"{path}: protocol {protocol!r} of torch, written on {machine!r:.80}: not supported")
            tree = Unpickler(file)
            content = tree.load()
            self._tensors = named_tensors(content, tree.shell, path)
            self._places = self._find(file, tree.storages, Unpickler(file).load())

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # whatever a malformed or hostile pickle leads to
            raise UserError(f"{self._path} is refused: {error}") from error

    def _find(self, file: Any, storages: dict[str, Storage], order: Any) -> dict[str, int]:
        """Where in the file the bytes of each storage begin."""
        if not isinstance(order, list) or sorted(map(str, order)) != sorted(storages):
            raise UserError(f"{self._path} does not hold the storages that its tensors name")
        places, at, size = {}, file.tell(), os.fstat(file.fileno()).st_size
        for name in map(str, order):
            file.seek(at)
            count = int.from_bytes(file.read(8), "little")
            if count != storages[name].length:
                raise UserError(f"{self._path}: a storage of {count} values, its tensors need {storages[name].length}")
            places[name] = at + 8
            at += 8 + count * np.dtype(storages[name].dtype).itemsize
        if at != size:
            raise UserError(f"{self._path} has {size} bytes, its tensors {at}: copy or download it again")
        return places

    def keys(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._tensors)

    def shape(self, key: str) -> Shape:
        """The shape of a tensor, without reading it."""
        return self._tensors[key].shape

    def read(self, key: str) -> np.ndarray:
        """The tensor as it is stored.

        Raises:
          UserError: the file has become shorter.
        """
        tensor: Tensor = self._tensors[key]
        storage = tensor.storage
        values = np.fromfile(self._path, np.dtype(storage.dtype), storage.length, offset=self._places[storage.name])
        if values.size != storage.length:
            raise UserError(f"{self._path} ends in the middle of {key}: copy or download it again")
        return view(tensor, values)
