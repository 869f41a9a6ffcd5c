"""Linear maps and initialisers, with logical axis names for sharding."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from mmjax.core.sharding import constrain, gathered

Initializer = Callable[..., Any]  # (key, shape, dtype) -> array, or a box around one
zeros = nn.initializers.zeros_init()
normal = nn.initializers.normal
fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
"""N(0, 1 / inputs)."""
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(±inputs^-½): what torch gives the weights of Linear and Conv2d."""


def partitioned(init: Initializer, *names: str | None) -> Initializer:
    """An initialiser whose parameter carries logical axis names."""
    return nn.with_logical_partitioning(init, names)


@jax.custom_vjp
def product(x: Float[Array, "M D"], kernel: Float[Array, "D F"]) -> Float[Array, "M F"]:
    """`x @ kernel`, with a gradient of the kernel that CPUs compute fast.

    XLA's fast matrix products on CPUs do not take a left operand that is contracted over its rows, as it is in `xᵀ dy`,
    and the slower ones that do are slowest where the result has more rows than columns. There the smaller of the two
    operands is transposed beforehand, and for D > F the result behind (`(dyᵀ x)ᵀ`); the barriers keep XLA from undoing
    it. Elsewhere it is `xᵀ dy` as ever.

    The optimizer reads that result by columns, two or three times. In rows of a multiple of 1 kB, all entries of a
    column would share a few sets of the caches; with 64 bytes of zeros behind each row they do not (the update of a
    ViT-B/32's largest kernels took six times as long). Several devices would send the zeros along: they have none.
    """
    return x @ kernel


def _product(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _product_back(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = kept
    barrier = jax.lax.optimization_barrier

    def transposed(x: Array, dy: Array) -> Array:
        D, F = x.shape[1], dy.shape[1]
        if D <= F:
            return barrier(x.T) @ dy
        if D % 256 == 0 and math.prod(jax.sharding.get_abstract_mesh().shape.values()) == 1:
            x = barrier(jnp.pad(x, ((0, 0), (0, 16))))  # a row of the result is no multiple of 1 kB, see `product`
        return barrier(barrier(dy.T) @ x)[:, :D].T

    return dy @ kernel.T, jax.lax.platform_dependent(x, dy, cpu=transposed, default=lambda x, dy: x.T @ dy)


product.defvjp(_product, _product_back)


class Dense(nn.Module):
    """`x @ kernel + bias`, float[B, ..., inputs] -> float[B, ..., features].

    `axes` are the logical names of the kernel's axes. What comes out is split over them, too: a width named "heads" or
    "mlp" over the devices of `tensor`, which then hold the columns' biases; one named "embed" is whole on each.

    The product is taken over one merged leading axis: with two, XLA on CPU copies the operands of the weight gradient
    (8 % of a small ViT block).
    """

    features: int
    axes: tuple[str | None, str | None] = ("embed", "mlp")
    use_bias: bool = True
    kernel_init: Initializer = fan_in_normal
    bias_init: Initializer = zeros
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        shape = (x.shape[-1], self.features)
        width = None if self.axes[1] == "embed" else self.axes[1]
        kernel = self.param("kernel", partitioned(self.kernel_init, *self.axes), shape, jnp.float32)
        y = product(x.astype(self.dtype).reshape(-1, x.shape[-1]), gathered(jnp.asarray(kernel, self.dtype), self.axes))
        if self.use_bias:
            bias = self.param("bias", partitioned(self.bias_init, width), (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)[None, :]
        y = y.reshape(*x.shape[:-1], self.features)
        return constrain(y, "batch", *(None,) * (y.ndim - 2), width)


class Embed(nn.Module):
    """Rows of a table, int[B, ...] -> float[B, ..., features]; parameter `embedding` float[rows, features]."""

    rows: int
    features: int
    table_init: Initializer
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        shape = (self.rows, self.features)
        self.embedding = self.param("embedding", partitioned(self.table_init, "vocab", "embed"), shape, jnp.float32)

    def __call__(self, ids: Integer[Array, "*batch"]) -> Float[Array, "*batch F"]:
        x = jnp.take(constrain(jnp.asarray(self.embedding, self.dtype), "vocab", None), ids, axis=0)
        return constrain(x, "batch", *(None,) * (x.ndim - 1))

    def attend(self, x: Float[Array, "*batch F"]) -> Float[Array, "*batch V"]:
        """`x · tableᵀ`: the table as a tied output map."""
        table = constrain(jnp.asarray(self.embedding, self.dtype), "vocab", None)
        y = product(x.astype(self.dtype).reshape(-1, x.shape[-1]), table.T)
        return constrain(y.reshape(*x.shape[:-1], self.rows), "batch", *(None,) * (x.ndim - 2), "vocab")


@dataclasses.dataclass(frozen=True)
class BlockInit:
    """Initialisers of a transformer block's kernels and biases."""

    qkv: Initializer
    out: Initializer
    fc1: Initializer
    fc2: Initializer
    attn_bias: Initializer = zeros
    mlp_bias: Initializer = zeros


def normal_init(std: float = 0.02) -> BlockInit:
    """Every kernel N(0, std²) and every bias zero, as in BERT."""
    return BlockInit(*[normal(std)] * 4)


def clip_text_init(width: int, depth: int) -> BlockInit:
    """CLIP's text blocks: qkv W^-½, both outputs W^-½ (2L)^-½, first MLP layer (2W)^-½."""
    out = normal(width**-0.5 * (2 * depth) ** -0.5)
    return BlockInit(normal(width**-0.5), out, normal((2 * width) ** -0.5), out)


def torch_init() -> BlockInit:
    """What CLIP's vision blocks keep: torch's defaults.

    The fused [3D, D] qkv weight is Xavier-uniform, U(±√(6 / 4D)); the output map and the MLP are U(±inputs^-½), the
    attention biases are zero. The MLP biases, U(±inputs^-½) in torch, start at zero here: a bias initialiser does not
    see the inputs, and the weights already break the symmetry.
    """
    qkv = nn.initializers.variance_scaling(0.5, "fan_in", "uniform")
    return BlockInit(qkv, torch_uniform, torch_uniform, torch_uniform)
