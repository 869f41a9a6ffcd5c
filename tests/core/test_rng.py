"""Named streams of randomness."""

import jax
import numpy as np

from mmjax.core import rng


def words(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_streams_are_functions_of_seed_name_and_step():
    key = jax.random.key(3)
    assert words(rng.stream(key, "dropout", 5)) == words(rng.stream(jax.random.key(3), "dropout", 5))
    keys = [rng.stream(k, name, step) for k in (key, jax.random.key(4)) for name in "ab" for step in (None, 0, 1)]
    assert len({words(k) for k in keys}) == len(keys)


def test_a_traced_step_gives_the_same_key():
    traced = jax.jit(lambda key, step: rng.stream(key, "dropout", step))(jax.random.key(0), 7)
    assert words(traced) == words(rng.stream(jax.random.key(0), "dropout", 7))


def test_another_stream_changes_none():
    key = jax.random.key(0)
    one, two = rng.streams(key, ("dropout",), 2), rng.streams(key, ("noise", "dropout"), 2)
    assert words(one["dropout"]) == words(two["dropout"]) == words(rng.stream(key, "dropout", 2))
    assert words(two["noise"]) != words(two["dropout"])
