import jax.numpy as jnp
import pytest

from mmjax.core.errors import UserError
from mmjax.core.precision import compute_dtype


def test_auto_depends_on_the_platform_and_names_do_not():
    assert compute_dtype("auto", "cpu") == jnp.float32
    assert compute_dtype("auto", "tpu") == compute_dtype("auto", "gpu") == jnp.bfloat16
    assert compute_dtype("bfloat16", "cpu") == jnp.bfloat16
    assert compute_dtype() == jnp.float32  # tests run on CPU
    with pytest.raises(UserError, match="'float16' is not one of 'auto', 'float32', 'bfloat16'"):
        compute_dtype("float16")
