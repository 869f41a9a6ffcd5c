"""The position-wise feed-forward layer and its activations."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.core.errors import UserError
from mmjax.nn.dense import BlockInit, Dense, normal_init
from mmjax.nn.int8 import Int8Dense
from mmjax.nn.lora import Lora, LoraSpec
from mmjax.nn.norm import LayerNorm

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),  # exact (erf): ALBEF, BLIP, BEiT-3, open_clip
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),  # FlanT5 on its own, ChatGLM
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # OpenAI's CLIP
    "relu": jax.nn.relu,  # OPT
    "silu": jax.nn.silu,  # LLaMA's gate
}


def activation(name: str) -> Callable[[Array], Array]:
    """The activation of that name; for its gradient it keeps its input alone, from which the rest is cheap to get.

    Raises:
      UserError: no such activation.

    Example:
      >>> float(activation("relu")(jnp.float32(-1)))
      0.0
    """
    if name not in ACTIVATIONS:
        raise UserError(f"activation {name!r} does not exist; there are {', '.join(ACTIVATIONS)}")
    return jax.checkpoint(ACTIVATIONS[name])


class Mlp(nn.Module):
    """`fc2(act(fc1 x))`, or gated `fc2(act(gate x) · fc1 x)` (GEGLU, SwiGLU); float[..., D] -> float[..., D].

    Attributes:
      mlp_dim: inner width F.
      gated: adds the projection `gate` (Shazeer 2020; T5 v1.1, LLaMA).
      inner_eps: epsilon of a layer norm before fc2, `norm_inner` (sub-LN of BEiT-3); None: no norm.
      lora: adapters of the maps, `fc1_lora` … (nn/lora.py).
      int8: the maps' kernels are whole numbers (nn/int8.py).
    """

    mlp_dim: int
    act: str
    gated: bool = False
    use_bias: bool = True
    inner_eps: float | None = None
    dropout: float = 0.0
    inits: BlockInit = normal_init()
    dtype: DTypeLike = jnp.float32
    lora: LoraSpec | None = None
    int8: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"], *, train: bool = False) -> Float[Array, "*batch D"]:
        def dense(x: Array, features: int, axes: tuple[str, str], kernel_init: Callable, name: str) -> Array:
            if self.int8:
                y = Int8Dense(features, axes, self.use_bias, self.dtype, name=name)(x)
            else:
                y = Dense(features, axes, self.use_bias, kernel_init, self.inits.mlp_bias, self.dtype, name=name)(x)
            if self.lora is None or name not in self.lora.maps:
                return y
            return y + Lora(self.lora, features, axes, self.dtype, name=f"{name}_lora")(x, train=train)

        act = activation(self.act)
        h = dense(x, self.mlp_dim, ("embed", "mlp"), self.inits.fc1, "fc1")
        if self.gated:
            h = act(dense(x, self.mlp_dim, ("embed", "mlp"), self.inits.fc1, "gate")) * h
        else:
            h = act(h)
        if self.inner_eps is not None:
            h = LayerNorm(self.inner_eps, self.dtype, name="norm_inner")(h)
        h = nn.Dropout(self.dropout, name="drop_inner")(h, deterministic=not train)
        return dense(h, x.shape[-1], ("mlp", "embed"), self.inits.fc2, "fc2")
