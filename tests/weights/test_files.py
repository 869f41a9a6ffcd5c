import json
import pathlib

import ml_dtypes
import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.weights import files


def test_write_then_read(tmp_path: pathlib.Path) -> None:
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
        "a": np.array(2.5, np.float32),
        "n": np.array(3, np.int64),
        "h": np.ones((2,), np.float16),
        "bf": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    }
    files.write_safetensors(tmp_path / "model.safetensors", tensors)
    read = files.open_tensors(tmp_path)
    assert read.keys() == ["a", "b", "bf", "h", "n"]
    for key, array in tensors.items():
        assert read.shape(key) == array.shape
        assert read.read(key).dtype == array.dtype and np.array_equal(read.read(key), array)


def test_shards_by_index(tmp_path: pathlib.Path) -> None:
    files.write_safetensors(tmp_path / "one.safetensors", {"a": np.zeros(2, np.float32)})
    files.write_safetensors(tmp_path / "two.safetensors", {"b": np.ones(3, np.float32)})
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / files.INDEX).write_text(json.dumps(index))
    read = files.open_tensors(tmp_path)
    assert read.keys() == ["a", "b"] and read.read("b").tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "missing.safetensors"}, "not there: missing.safetensors"),
        ({"a": "../secret.safetensors"}, "outside its folder"),
        ({}, "expected an object with a weight_map"),
    ],
)
def test_bad_index(weight_map: dict, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / files.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=message):
        files.open_tensors(tmp_path)


def test_no_weights(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="holds no weights"):
        files.open_tensors(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        files.open_tensors(tmp_path / "nowhere")


def test_several_weight_files_without_a_usual_name(tmp_path: pathlib.Path) -> None:
    for name in ("x", "y"):
        files.write_safetensors(tmp_path / f"{name}.safetensors", {"a": np.zeros(1)})
    with pytest.raises(UserError, match=r"several weight files.*x\.safetensors, y\.safetensors"):
        files.open_tensors(tmp_path)


def test_damaged_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        files.open_tensors(tmp_path)


def test_json_errors(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match="is missing"):
        files.read_json(path)
    path.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        files.read_json(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object, found list"):
        files.read_json(path)
