"""torch's files of before 1.6: read rightly, and refused where they are damaged or ask for more than tensors."""

import pathlib
import pickle

import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.weights import files
from mmjax.weights.pickle_safe import LEGACY
from tests.torch_files import chain

TENSORS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(4, 6),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "scale": np.array(2.5, np.float32),
    "count": np.arange(3),
}


@pytest.mark.parametrize("under", ["", "model"])
def test_every_tensor_is_read(under: str, tmp_path: pathlib.Path) -> None:
    chain(tmp_path / "old.pth", TENSORS, under)
    assert (tmp_path / "old.pth").read_bytes().startswith(LEGACY)
    opened = files.open_tensors(tmp_path)
    assert opened.keys() == sorted(TENSORS)
    for key, array in TENSORS.items():
        stored = opened.read(key)
        assert stored.dtype == array.dtype and opened.shape(key) == array.shape
        np.testing.assert_array_equal(stored, array)


def test_damage_is_refused(tmp_path: pathlib.Path) -> None:
    """There is no check sum: what lies in the bytes of the tensors themselves cannot be told."""
    path = tmp_path / "old.pth"
    chain(path, {"a": np.arange(24, dtype=np.float32), "b": np.ones(3, np.float16)})
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    values = len(whole) - 24 * 4 - 3 * 2 - 2 * 8
    for number in range(200):
        at = int(rng.integers(len(whole)))
        cut = whole[:at] if number % 2 else whole[:at] + rng.bytes(3) + whole[at:]
        path.write_bytes(cut)
        with pytest.raises(UserError) as caught:
            files.open_tensors(path)
        assert str(path) in str(caught.value) and len(str(caught.value)) < 2000
    changed = bytearray(whole)
    changed[values] ^= 1  # the count of the first storage
    path.write_bytes(bytes(changed))
    with pytest.raises(UserError, match=r"a storage of 2 values, its tensors need 3"):
        files.open_tensors(path)


def test_nothing_is_run(tmp_path: pathlib.Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return (print, ("run",))

    def head(little: bool) -> bytes:
        values = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little})
        return b"".join(pickle.dumps(value, protocol=2) for value in values)

    (tmp_path / "bad.bin").write_bytes(head(True) + pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(UserError, match=r"bad\.bin is refused: it asks for (__builtin__|builtins)\.print"):
        files.open_tensors(tmp_path / "bad.bin")
    (tmp_path / "big.bin").write_bytes(head(False))
    with pytest.raises(UserError, match=r"written on .*False.*: not supported"):
        files.open_tensors(tmp_path / "big.bin")
