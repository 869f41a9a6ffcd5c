"""Layer norm and RMS norm. The epsilon has no default: published models use 1e-5, 1e-6 and 1e-12."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.core.errors import UserError


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def standardise(x: Float[Array, "*batch D"], eps: float, centre: bool) -> Float[Array, "*batch D"]:
    """`(x - mean) / √(var + eps)` over the last axis (without `centre`: `x / √(mean(x²) + eps)`), float32.

    The gradient is written out, `(g - mean g - y · mean(g y)) / √(var + eps)`: derived operation by operation it takes
    twice as many passes over the activations, which an XLA for CPUs does not merge.
    """
    return _standardise(x, eps, centre)[0]


def _standardise(x: Array, eps: float, centre: bool) -> tuple[Array, tuple[Array, Array]]:
    if centre:
        x = x - x.mean(-1, keepdims=True)
    rate = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps)
    y = x * rate
    return y, (y, rate)


def _standardise_back(eps: float, centre: bool, kept: tuple[Array, Array], g: Array) -> tuple[Array]:
    y, rate = kept
    back = g - y * (g * y).mean(-1, keepdims=True)
    return ((back - g.mean(-1, keepdims=True) if centre else back) * rate,)


standardise.defvjp(_standardise, _standardise_back)


class LayerNorm(nn.Module):
    """`scale · (x - mean) / √(var + eps) + bias` over the last axis, float[..., D] -> float[..., D].

    Statistics are float32 whatever comes in; what goes out has `dtype`. Source: Ba et al. 2016.
    """

    eps: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        shape = (1,) * (x.ndim - 1) + (-1,)
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],), jnp.float32)
        x = standardise(x.astype(jnp.float32), self.eps, True)
        return (x * scale.reshape(shape) + bias.reshape(shape)).astype(self.dtype)


class RMSNorm(nn.Module):
    """`scale · x / √(mean(x²) + eps)` over the last axis, without mean or bias; float[..., D] -> float[..., D].

    Statistics are float32. Source: Zhang and Sennrich 2019; T5, LLaMA.
    """

    eps: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],), jnp.float32)
        x = standardise(x.astype(jnp.float32), self.eps, False)
        return (x * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype)


def unit(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """`x / |x|` over the last axis."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


NORMS: dict[str, type[LayerNorm] | type[RMSNorm]] = {"layer": LayerNorm, "rms": RMSNorm}


def norm(kind: str) -> type[LayerNorm] | type[RMSNorm]:
    """The norm of that name.

    Raises:
      UserError: no such norm.
    """
    if kind not in NORMS:
        raise UserError(f"norm {kind!r} does not exist; there are {', '.join(NORMS)}")
    return NORMS[kind]
