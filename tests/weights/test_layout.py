import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.weights.layout import Buffer, Row, Table
from mmjax.weights.transforms import LINEAR, QKV_BIAS

TABLE = Table(
    "toy",
    rows=(
        Row("layers.{i}.weight", "block_{i}/kernel", LINEAR),
        Row("layers.{i}.qkv", ("block_{i}/q", "block_{i}/k", "block_{i}/v"), QKV_BIAS),
        Row("mean", "norm/mean", collection="batch_stats"),
    ),
    buffers=(
        Buffer("size", "a size", np.array(2, np.int64), always=True),
        Buffer("steps", "a counter", np.array(0, np.int64), fixed=False, always=True),
        Buffer("ids", "counted", np.arange(3)),
    ),
    ranges={"i": 2},
)
SHAPES = {f"params/block_{i}/{name}": (4,) for i in (0, 1) for name in "qkv"}
SHAPES |= {f"params/block_{i}/kernel": (3, 2) for i in (0, 1)} | {"batch_stats/norm/mean": (5,)}


class Memory:
    """Tensors in memory."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = tensors

    def keys(self) -> list[str]:
        return sorted(self.tensors)

    def shape(self, key: str) -> tuple[int, ...]:
        return self.tensors[key].shape

    def read(self, key: str) -> np.ndarray:
        return self.tensors[key]


def checkpoint(**changes: np.ndarray | None) -> Memory:
    rng = np.random.default_rng(0)
    tensors = {f"layers.{i}.weight": rng.normal(size=(2, 3)).astype(np.float32) for i in (0, 1)}
    tensors |= {f"layers.{i}.qkv": rng.normal(size=12).astype(np.float16) for i in (0, 1)}
    tensors |= {"mean": rng.normal(size=5).astype(np.float32), "size": np.array(2), "steps": np.array(7)}
    tensors |= {key.replace("__", "."): value for key, value in changes.items()}
    return Memory({key: value for key, value in tensors.items() if value is not None})


def test_every_tensor_is_loaded_or_named() -> None:
    flat, account = TABLE.read(checkpoint(), SHAPES, "toy.safetensors")
    assert set(flat) == set(SHAPES) and all(array.dtype == np.float32 for array in flat.values())
    assert account.loaded["layers.1.qkv"] == ("params/block_1/q", "params/block_1/k", "params/block_1/v")
    assert account.ignored == {"size": "a size", "steps": "a counter"}
    assert account.stored["params/block_0/q"] == "float16"
    assert account.buffers == {"size": None, "steps": {"dtype": "int64", "value": 7}}
    assert "5 tensors -> 9 parameters (stored as float16, float32)" in account.summary()
    assert "steps: a counter" in account.summary() and "mean -> batch_stats/norm/mean" in account.table()


def test_there_and_back_in_the_stored_dtypes() -> None:
    source = checkpoint()
    flat, account = TABLE.read(source, SHAPES, "toy")
    back = TABLE.published(flat, account.stored) | TABLE.extra(account.buffers, same_layout=True)
    assert sorted(back) == source.keys()
    for key, array in back.items():
        assert array.dtype == source.read(key).dtype and array.tobytes() == source.read(key).tobytes(), key


def test_one_error_lists_everything() -> None:
    source = checkpoint(layers__0__weight=None, mean=np.zeros(6), other=np.zeros(1), size=np.array(3))
    with pytest.raises(UserError) as error:
        TABLE.read(source, SHAPES, "toy.safetensors")
    for part in (
        "toy.safetensors",
        "missing (1):\n    layers.0.weight",
        "not known to this layout (1):\n    other",
        "mean is [6], expected [5]",
        "size is 3, but the config says 2",
    ):
        assert part in str(error.value)


def test_tensors_are_placed_one_by_one() -> None:
    seen = []
    flat, _ = TABLE.read(checkpoint(), SHAPES, "toy", place=lambda path, array: seen.append((path, array.shape)))
    assert dict(seen) == SHAPES and set(flat.values()) == {None}


def test_a_table_that_does_not_fit_the_system() -> None:
    with pytest.raises(UserError, match=r"no place for: \['params/extra'\]"):
        TABLE.read(checkpoint(), SHAPES | {"params/extra": (1,)}, "toy")
    flat, _ = TABLE.read(checkpoint(), SHAPES, "toy")
    del flat["params/block_0/q"]
    with pytest.raises(UserError, match=r"does not have: \['params/block_0/q'\]"):
        TABLE.published(flat)


def test_gradients_need_no_other_collection() -> None:
    flat, _ = TABLE.read(checkpoint(), SHAPES, "toy")
    params = {path: array for path, array in flat.items() if path.startswith("params/")}
    assert sorted(TABLE.published(params)) == ["layers.0.qkv", "layers.0.weight", "layers.1.qkv", "layers.1.weight"]


def test_buffers_of_a_new_checkpoint() -> None:
    assert TABLE.extra({}, same_layout=False).keys() == {"size", "steps"}
    assert TABLE.extra({"ids": None}, same_layout=True).keys() == {"ids"}
    # A size that is no longer the configuration's is not written back.
    assert TABLE.extra({"size": {"dtype": "int32", "value": 3}}, same_layout=True)["size"] == 2
