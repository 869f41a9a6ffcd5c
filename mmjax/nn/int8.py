"""Maps whose kernels are whole numbers of 8 bits: a quarter of float32's memory, for weights that do not train."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.core.sharding import constrain, gathered
from mmjax.nn.dense import partitioned, product, zeros

MOST = 127


def _drawn(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.randint(key, shape, -MOST, MOST + 1, dtype)


class Int8Dense(nn.Module):
    """`(x kernel) · scale + bias`, float[..., D] -> float[..., F]: `Dense` with a rounded kernel (weights/int8.py).

    Parameters: kernel int8[D, F], scale float32[F], one for each column, bias float32[F]. Source: Dettmers et al. 2022
    ("LLM.int8()"), §2, of weights alone: what goes in stays as it is, so that outliers are no matter.
    """

    features: int
    axes: tuple[str | None, str | None] = ("embed", "mlp")
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        D, width = x.shape[-1], None if self.axes[1] == "embed" else self.axes[1]
        kernel = self.param("kernel", partitioned(_drawn, *self.axes), (D, self.features), jnp.int8)
        begin = nn.initializers.constant(D**-0.5 / MOST)
        scale = self.param("scale", partitioned(begin, width), (self.features,), jnp.float32)
        y = product(x.astype(self.dtype).reshape(-1, D), gathered(jnp.asarray(kernel, self.dtype), self.axes))
        y = y * scale.astype(self.dtype)[None, :]
        if self.use_bias:
            bias = self.param("bias", partitioned(zeros, width), (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)[None, :]
        y = y.reshape(*x.shape[:-1], self.features)
        return constrain(y, "batch", *(None,) * (y.ndim - 2), width)
