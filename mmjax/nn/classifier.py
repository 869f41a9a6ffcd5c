"""The two-layer classifier on top of pooled states."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.nn.dense import Dense, normal
from mmjax.nn.mlp import activation
from mmjax.nn.norm import LayerNorm


class Classifier(nn.Module):
    """`fc2(gelu(norm(fc1 x)))`, before it a norm if `norm_in`: float[B, D] -> float32[B, classes].

    Attributes:
      hidden: width of fc1.
      std: of the kernels' start.

    Source: the heads for VQA and NLVR2 of VLMo and BEiT-3, as released.
    """

    hidden: int
    classes: int
    norm_in: bool = False
    eps: float = 1e-5
    std: float = 0.02
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
        if self.norm_in:
            x = LayerNorm(self.eps, self.dtype, name="norm_in")(x)
        h = Dense(self.hidden, ("embed", None), True, normal(self.std), dtype=self.dtype, name="fc1")(x)
        h = activation("gelu")(LayerNorm(self.eps, self.dtype, name="norm")(h))
        out = Dense(self.classes, ("embed", None), True, normal(self.std), dtype=self.dtype, name="fc2")
        return out(h).astype(jnp.float32)
