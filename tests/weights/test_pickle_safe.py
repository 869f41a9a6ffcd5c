import io
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.weights import files
from mmjax.weights.pickle_safe import TorchArchive


class Named:
    """Pickles as a call of a global function that need not exist here."""

    def __init__(self, name: str, *args: object) -> None:
        self.name, self.args = name, args


class Storage:
    """Pickles as torch's reference to a storage."""

    def __init__(self, kind: str, key: str, count: int) -> None:
        self.pid = ("storage", Global(f"torch.{kind}"), key, "cpu", count)


class Global:
    """Pickles as a global name."""

    def __init__(self, name: str) -> None:
        self.name = name


class Writer(pickle._Pickler):
    """torch's pickles, made without torch."""

    def persistent_id(self, value: object) -> object:
        return value.pid if isinstance(value, Storage) else None

    def save(self, value: object, save_persistent_id: bool = True) -> None:
        if isinstance(value, Global):
            module, _, name = value.name.rpartition(".")
            self.write(b"c" + f"{module}\n{name}\n".encode())
        elif isinstance(value, Named):
            self.save(Global(value.name))
            self.save(value.args)
            self.write(b"R")
        else:
            super().save(value, save_persistent_id)


def tensor(key: str, count: int, shape: tuple, strides: tuple, offset: int = 0, kind: str = "FloatStorage") -> Named:
    hooks = Named("collections.OrderedDict")
    storage = Storage(kind, key, count)
    return Named("torch._utils._rebuild_tensor_v2", storage, offset, shape, strides, False, hooks)


def archive(path: pathlib.Path, content: object, **storages: np.ndarray) -> pathlib.Path:
    data = io.BytesIO()
    Writer(data, 2).dump(content)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("weights/data.pkl", data.getvalue())
        made.writestr("weights/byteorder", "little")
        for key, array in storages.items():
            made.writestr(f"weights/data/{key.removeprefix('s')}", array.tobytes())
    return path


VALUES = np.arange(6, dtype=np.float32)


def test_tensors_by_name(tmp_path: pathlib.Path) -> None:
    content = {
        "a": tensor("0", 6, (2, 3), (3, 1)),
        "transposed": tensor("0", 6, (3, 2), (1, 3)),
        "part": tensor("0", 6, (2,), (1,), offset=4),
        "scalar": tensor("1", 1, (), (), kind="LongStorage"),
        "parameter": Named("torch._utils._rebuild_parameter", tensor("0", 6, (6,), (1,)), True, {}),
        "half": tensor("2", 2, (2,), (1,), kind="HalfStorage"),
    }
    path = archive(tmp_path / "w.pt", content, s0=VALUES, s1=np.array([7]), s2=np.array([1.5, 2], np.float16))
    read = files.open_tensors(path)
    assert isinstance(read, TorchArchive) and read.keys() == sorted(content)
    assert read.shape("transposed") == (3, 2)
    assert read.read("a").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read.read("transposed").tolist() == [
        [0, 3],
        [1, 4],
        [2, 5],
    ]
    assert read.read("part").tolist() == [4, 5] and read.read("parameter").tolist() == VALUES.tolist()
    assert read.read("scalar").shape == () and read.read("scalar") == 7 and read.read("scalar").dtype == np.int64
    assert read.read("half").dtype == np.float16


def test_wrappings_are_taken_off(tmp_path: pathlib.Path) -> None:
    one = {"module.a": tensor("0", 6, (6,), (1,)), "module.b": tensor("0", 6, (6,), (1,))}
    path = archive(tmp_path / "w.bin", {"epoch": 3, "name": "x", "state_dict": one}, s0=VALUES)
    assert TorchArchive(path).keys() == ["a", "b"]


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "torch.load", "numpy.core.multiarray.scalar"])
def test_everything_else_is_refused_and_not_run(name: str, tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "mark"
    content = {"a": tensor("0", 6, (6,), (1,)), "evil": Named(name, f"touch {mark}")}
    path = archive(tmp_path / "w.pt", content, s0=VALUES)
    with pytest.raises(UserError, match=f"refused: it asks for {name}"):
        TorchArchive(path)
    assert not mark.exists()


def test_a_real_exploit_is_not_run(tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "mark"

    class Exploit:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {mark}",)

    path = archive(tmp_path / "w.pt", {"a": Exploit()})
    with pytest.raises(UserError, match=r"refused: it asks for (posix|nt)\.system"):
        TorchArchive(path)
    assert not mark.exists()


def test_known_functions_cannot_be_changed(tmp_path: pathlib.Path) -> None:
    # BUILD would set attributes of the function that makes tensors, for every archive read after this one.
    data = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}(X\x08\x00\x00\x00__call__NubN."
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("weights/data.pkl", data)
    with pytest.raises(UserError, match="state for a function"):
        TorchArchive(path)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"), [((7,), (1,), 0), ((6,), (1,), 1), ((2, 3), (4, 1), 0), ((2,), (-1,), 0)]
)
def test_tensors_stay_inside_their_storage(shape: tuple, strides: tuple, offset: int, tmp_path: pathlib.Path) -> None:
    path = archive(tmp_path / "w.pt", {"a": tensor("0", 6, shape, strides, offset)}, s0=VALUES)
    with pytest.raises(UserError, match="outside of its storage"):
        TorchArchive(path)


def test_storages_are_there_and_whole(tmp_path: pathlib.Path) -> None:
    content = {"a": tensor("0", 6, (6,), (1,))}
    with pytest.raises(UserError, match="data/0 of a is missing"):
        TorchArchive(archive(tmp_path / "w.pt", content)).read("a")
    with pytest.raises(UserError, match="20 bytes"):
        TorchArchive(archive(tmp_path / "v.pt", content, s0=VALUES[:5])).read("a")


def test_other_files(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "old.pt"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="no zip archive"):
        TorchArchive(path)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match="no archive of torch's"):
        TorchArchive(path)
    with pytest.raises(UserError, match="no tensors by name"):
        TorchArchive(archive(path, {"epoch": 3}))
