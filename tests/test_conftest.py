"""The conditions that tests/conftest.py promises hold, in xdist's workers too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from mmjax.nn.patch import normalise


def test_shapes_and_dtypes_are_checked():
    mean = std = (0.5, 0.5, 0.5)
    assert normalise(jnp.zeros((1, 2, 2, 3)), mean, std).shape == (1, 2, 2, 3)
    with pytest.raises(TypeCheckError):
        normalise(jnp.zeros((2, 2, 3)), mean, std)
    with pytest.raises(TypeCheckError):
        normalise(jnp.zeros((1, 2, 2, 3), jnp.int32), mean, std)


def test_ranks_are_not_promoted():
    with pytest.raises(ValueError, match="rank"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_eight_devices(mesh8):
    assert jax.device_count() == 8 and jax.default_backend() == "cpu"
    spread = jax.sharding.NamedSharding(mesh8, jax.sharding.PartitionSpec("data"))
    assert len(jax.device_put(np.arange(8), spread).addressable_shards) == 8


def test_compilations_are_cached():
    assert jax.config.jax_compilation_cache_dir
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_folders(golden, tmp_workdir):
    assert golden.name == "golden" and golden.is_dir()
    assert list(tmp_workdir.iterdir()) == []
