"""Images among words: states of patches in the places that a text keeps for them; shapes are static."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from mmjax.core.sharding import constrain
from mmjax.nn.dense import Dense, Initializer, torch_uniform
from mmjax.nn.mlp import activation


def splice(
    tokens: Float[Array, "B T D"], features: Float[Array, "B F D"], slot: Integer[Array, "B T"]
) -> Float[Array, "B T D"]:
    """`features[slot]` where slot >= 0, elsewhere the tokens; each row reads its own features.

    Whoever makes `slot` has counted: a number beyond the features is an error there (data/rows.py).
    """
    states = jnp.take_along_axis(features.astype(tokens.dtype), jnp.maximum(slot, 0)[:, :, None], axis=1)
    return constrain(jnp.where((slot >= 0)[:, :, None], states, tokens), "batch", None, None)


class Projector(nn.Module):
    """Linear maps with an activation between them, `layer_{i}`: float[..., E] -> float[..., D]; they begin as torch's.

    One layer is LLaVA's, two are LLaVA-1.5's (`mlp2x_gelu`). Source: Liu et al. 2023, §4.1; Liu et al. 2024, §3.2.
    """

    layers: int
    features: int
    act: str = "gelu"
    use_bias: bool = True
    kernel_init: Initializer = torch_uniform
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch E"]) -> Float[Array, "*batch D"]:
        for i in range(self.layers):
            x = activation(self.act)(x) if i else x
            axes = ("embed", "mlp") if i + 1 < self.layers else ("mlp", "embed")
            x = Dense(self.features, axes, self.use_bias, self.kernel_init, dtype=self.dtype, name=f"layer_{i}")(x)
        return x
