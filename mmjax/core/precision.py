"""Number formats: parameters are float32 everywhere; what is computed in depends on the machine."""

import jax
import jax.numpy as jnp

from mmjax.core.errors import UserError

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(name: str = "auto", platform: str | None = None) -> jnp.dtype:
    """The dtype of matrix products and activations.

    "auto" is float32 on CPU, where bfloat16 is emulated and slower, and bfloat16 on accelerators. Softmax, norm
    statistics, logits and losses are float32 whatever this says.

    Args:
      name: "auto", "float32" or "bfloat16".
      platform: "cpu", "gpu", "tpu"; the default backend if None.

    Raises:
      UserError: another name.

    Example:
      >>> compute_dtype("auto", platform="cpu").name
      'float32'
    """
    if name == "auto":
        name = "float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"
    if name not in DTYPES:
        raise UserError(f"dtype {name!r} is not one of 'auto', {', '.join(map(repr, DTYPES))}")
    return jnp.dtype(DTYPES[name])
