"""torch's archives (`.pt`, `.pth`, `.bin`, TorchScript) read without torch and without running what they contain.

Such an archive is a zip file: `data.pkl`, a pickle of the object tree in which tensors name their storages, and one
file of raw bytes for each storage. A pickle may name any function and have it called. Here every name that is not one
of the few below, which only describe tensors and containers, is refused before anything is called; TorchScript's
classes become empty shells that keep their attributes, and its code is not looked at.
"""

import collections
import contextlib
import io
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (gives numpy the name "bfloat16")
import numpy as np

from mmjax.core.errors import UserError
from mmjax.weights.transforms import Shape

_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts keep the weights among other things
_MOST_BYTES = 2**28  # of data.pkl, which holds names and shapes alone
_CHUNK = 2**20
# A pickled number that begins torch's files of before 1.6 (pickle_chain.py).
LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")


class Storage(NamedTuple):
    """A storage's file in the archive, its dtype and how many values it must hold (`length`)."""

    name: str
    dtype: str
    length: int


class Tensor(NamedTuple):
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: Shape
    strides: tuple[int, ...]


class _Call:
    """A function that a pickle may call and cannot change."""

    __slots__ = ("_function",)
    _function: Callable

    def __init__(self, function: Callable) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("state for a function")

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("an attribute for a function")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    sizes, steps = tuple(map(int, shape)), tuple(map(int, strides))
    last = int(offset) + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if min((0, int(offset), *sizes, *steps)) < 0 or (0 not in sizes and last >= storage.length):
        raise pickle.UnpicklingError(f"a tensor of shape {sizes} outside of its storage {storage.name}")
    if math.prod(sizes) > storage.length:  # a small file could ask for any amount of memory
        raise pickle.UnpicklingError(f"a tensor of shape {sizes} that repeats its {storage.length} values")
    return Tensor(storage, int(offset), sizes, steps)


def _shell() -> type:
    """A class for TorchScript's modules, a new one for every archive, so that a pickle cannot leave marks on it."""

    class Module:
        attributes: Mapping[str, Any]

        def __setstate__(self, state: Any) -> None:
            self.attributes = state if isinstance(state, dict) else {}

    return Module


class Unpickler(pickle.Unpickler):
    """Knows tensors, containers and TorchScript's shells, and refuses everything else by its name."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__(file)
        self.shell = _shell()
        self.storages: dict[str, Storage] = {}  # that it has met, by name
        self._known: dict[str, Any] = {
            "collections.OrderedDict": _Call(collections.OrderedDict),
            "torch._utils._rebuild_tensor_v2": _Call(_tensor),
            "torch._utils._rebuild_parameter": _Call(lambda data, *_: data),
            "torch.Size": _Call(lambda sizes=(): tuple(sizes)),
            **{f"torch.jit._pickle.build_{kind}list": _Call(list) for kind in ("int", "double", "bool", "tensor")},
            "torch.jit._pickle.restore_type_tag": _Call(lambda value, _: value),
            **{f"torch.{name}": _Call(lambda *_: None) for name in _STORAGES},
        }
        self._dtypes = {id(self._known[f"torch.{name}"]): dtype for name, dtype in _STORAGES.items()}

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may name."""
        if module.split(".")[0] == "__torch__":
            return self.shell
        full = f"{module}.{name}"
        if full not in self._known:
            raise pickle.UnpicklingError(
                f"it asks for {full}, which is not part of a tensor; nothing was run (state dicts need none)"
            )
        return self._known[full]

    def persistent_load(self, pid: Any) -> Storage:
        """("storage", type, name, device, count), before torch 1.6 with a None behind -> where its bytes are."""
        known = isinstance(pid, tuple) and (len(pid) == 5 or (len(pid) == 6 and pid[5] is None))
        if not (known and pid[0] == "storage" and id(pid[1]) in self._dtypes):
            raise pickle.UnpicklingError(f"an unknown reference {pid!r:.80}")
        storage = Storage(str(pid[2]), self._dtypes[id(pid[1])], int(pid[4]))
        if self.storages.setdefault(storage.name, storage) != storage:
            raise pickle.UnpicklingError(f"two different storages of the name {storage.name}")
        return storage


class TorchArchive:
    """The tensors of an archive, by name; a training script's wrapping (`state_dict`, `module.`) is taken off."""

    def __init__(self, path: pathlib.Path) -> None:
        """Reads names and shapes, not the tensors.

        Raises:
          UserError: no zip archive of torch's, or a pickle that asks for anything but tensors.
        """
        self._path = path
        self._kept: tuple[str, np.ndarray] | None = None  # the storage read last, if several tensors share it
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path} {_what_it_is(path)}; store it anew with torch.save, or as safetensors")
        with self._damage():
            self._open()

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        """Whatever a damaged archive leads to is said to be damage."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self._path} is damaged: {error}") from error

    def _open(self) -> None:
        path = self._path
        self._archive = zipfile.ZipFile(path)
        names = [name for name in self._archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(names) != 1:
            raise UserError(f"{path} is no archive of torch's: it holds {len(names)} files data.pkl")
        self._folder = names[0].removesuffix("data.pkl")
        order = f"{self._folder}byteorder"
        if order in self._archive.namelist() and self._archive.read(order).strip() != b"little":
            raise UserError(f"{path} was written on a big-endian machine, which is not supported")
        if self._archive.getinfo(names[0]).file_size > _MOST_BYTES:
            raise UserError(f"{path}: its data.pkl is larger than {_MOST_BYTES:,} bytes; it should hold no data")
        unpickler = Unpickler(io.BytesIO(self._archive.read(names[0])))
        try:
            content = unpickler.load()
        except Exception as error:  # whatever a malformed or hostile pickle leads to
            raise UserError(f"{path} is refused: {error}") from error
        self._tensors = named_tensors(content, unpickler.shell, path)

    def keys(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._tensors)

    def shape(self, key: str) -> Shape:
        """The shape of a tensor, without reading it."""
        return self._tensors[key].shape

    def read(self, key: str) -> np.ndarray:
        """The tensor as it is stored.

        Raises:
          UserError: its storage is missing or has another length.
        """
        tensor = self._tensors[key]
        with self._damage():
            values = self._storage(key, tensor.storage)
        if not _is_whole(tensor, values):
            self._kept = (tensor.storage.name, values)
        return view(tensor, values)

    def _storage(self, key: str, storage: Storage) -> np.ndarray:
        """A storage's values, read in pieces into their place; the archive's check sum is compared at the end."""
        if self._kept is not None and self._kept[0] == storage.name:
            return self._kept[1]
        self._kept = None
        name, dtype = f"{self._folder}data/{storage.name}", np.dtype(storage.dtype)
        try:
            entry = self._archive.getinfo(name)
        except KeyError as error:
            raise UserError(f"{self._path}: the storage {name} of {key} is missing") from error
        if entry.file_size != storage.length * dtype.itemsize:
            raise UserError(
                f"{self._path}: {name} has {entry.file_size} bytes, {key} needs {storage.length} values of "
                f"{dtype.itemsize}"
            )
        if entry.compress_type != zipfile.ZIP_STORED:  # torch never does; a small file could ask for any memory
            raise UserError(f"{self._path}: {name} is compressed: store it anew with torch.save, or as safetensors")
        values = np.empty(storage.length, dtype)
        target, done = values.view(np.uint8), 0
        with self._archive.open(entry) as file:
            while piece := file.read(_CHUNK):
                target[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done += len(piece)
        if done != entry.file_size:
            raise UserError(f"{self._path} ends in the middle of {name}: copy or download it again")
        return values


def view(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """A tensor of its storage's values: these themselves if it is all of them in order, or a copy."""
    if _is_whole(tensor, values):
        return values.reshape(tensor.shape)
    strides = tuple(step * values.itemsize for step in tensor.strides)
    part = values[tensor.offset :] if math.prod(tensor.shape) else values[:0]
    return np.lib.stride_tricks.as_strided(part, tensor.shape, strides, writeable=False).copy()


def _is_whole(tensor: Tensor, values: np.ndarray) -> bool:
    return tensor.offset == 0 and tensor.strides == _rows(tensor.shape) and math.prod(tensor.shape) == values.size


def _rows(shape: Shape) -> tuple[int, ...]:
    """The strides of an array without gaps, last axis fastest."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _what_it_is(path: pathlib.Path) -> str:
    """A file that is no zip archive, in words."""
    with path.open("rb") as file:
        start = file.read(512)
    if start[257:262] == b"ustar":
        return "is a tar archive, as torch wrote before 0.1.10"
    if start[:2] == b"\x1f\x8b":
        return "is compressed with gzip: unpack it first"
    if not start:
        return "is empty"
    return "is no zip archive, as torch writes since 1.6 (or only the beginning of one)"


def named_tensors(content: Any, shell: type, path: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of an unpickled object tree, by name, without a training script's wrapping.

    Raises:
      UserError: there are none.
    """
    tensors = dict(_named(_unwrap(content), "", shell))
    if not tensors:
        raise UserError(f"{path} holds no tensors by name")
    if all(key.startswith("module.") for key in tensors):  # written by a data-parallel wrapper
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _unwrap(content: Any) -> Any:
    """The weights among what else a training script keeps."""
    if isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        for name in _WRAPPERS:
            if isinstance(content.get(name), dict):
                return content[name]
    return content


def _named(value: Any, name: str, shell: type) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a state dict or of a tree of TorchScript modules, as `state_dict` would name them."""
    if isinstance(value, Tensor):
        yield name, value
    members = getattr(value, "attributes", {}) if isinstance(value, shell) else value if isinstance(value, dict) else {}
    for key, member in members.items():
        yield from _named(member, f"{name}.{key}" if name else str(key), shell)
