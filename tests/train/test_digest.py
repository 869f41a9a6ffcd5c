"""Digests find every change, and are the same wherever the array lives."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.train.digest import digests, form

MASK = 0xFFFFFFFF


def by_hand(words):
    """The sum of the module's docstring, number by number."""
    total = 0
    for i, word in enumerate(words):
        mixed = i * 0x9E3779B1 & MASK
        total += word * (2 * (mixed ^ mixed >> 15) + 1)
    return f"{total & MASK:08x}"


def test_the_sum():
    values = np.array([[1.5, -0.0, 3e38], [np.nan, 0.0, 7.0]], np.float32)
    assert digests({"a": {"b": values}}) == {"a/b": f"float32[2,3] {by_hand(values.view(np.uint32).ravel().tolist())}"}
    wide = np.array([1.0, -2.0])  # not cut to 32 bits
    assert digests([wide]) == {"0": f"float64[2] {by_hand(wide.view(np.uint32).tolist())}"}


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint32", "bfloat16", "float16", "uint8", "bool", "float64"])
def test_any_bit_anywhere(dtype):
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2, (3, 5)).astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    before = digests([values])["0"]
    for _ in range(40):
        changed = values.copy()
        raw = changed.reshape(-1).view(np.uint8)
        bit = 1 if dtype == "bool" else 1 << int(rng.integers(8))
        raw[int(rng.integers(len(raw)))] ^= bit
        assert digests([changed])["0"] != before
    assert digests([values[::-1]])["0"] != before and digests([values.copy()])["0"] == before
    assert digests([np.zeros((), values.dtype)])["0"].startswith(f"{dtype}[] ")


def test_any_mesh(mesh8):
    values = np.random.default_rng(0).normal(size=(16, 6, 4)).astype(np.float32)
    found = {digests([x])["0"] for x in (values, jnp.asarray(values))}
    for spec in (P("data"), P(), P(None, None, None)):
        found.add(digests([jax.device_put(values, NamedSharding(mesh8, spec))])["0"])
    assert len(found) == 1


def test_forms():
    assert form(digests({"a": np.zeros((2, 3), np.float32), "b": jnp.int32(1)})) == {
        "a": "float32[2,3]",
        "b": "int32[]",
    }
