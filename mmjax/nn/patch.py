"""Images to patch tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from mmjax.core.errors import UserError
from mmjax.core.sharding import constrain, gathered
from mmjax.nn.dense import Initializer, partitioned, torch_uniform, zeros

AnyArray = Array | np.ndarray


def normalise(
    image: UInt8[AnyArray, "B Y X C"] | Float[AnyArray, "B Y X C"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "B Y X C"]:
    """`(image / 255 - mean) / std` for uint8; float images are taken as normalised already."""
    image = jnp.asarray(image)
    if image.dtype != jnp.uint8:
        return image
    scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32))
    shift = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return image.astype(jnp.float32) * scale[None, None, None] - shift[None, None, None]


class PatchEmbed(nn.Module):
    """A p×p convolution without padding, row-major: float[B, Y, X, C] -> float[B, P, D]. Kernel [p, p, C, D].

    With stride p (the default) it is a reshape and one matrix product, which CPUs run faster than a convolution.
    `crop_edge` leaves out the rows and columns beyond the last whole patch, as the convolution does.
    """

    patch: int
    width: int
    stride: int | None = None
    use_bias: bool = False
    kernel_init: Initializer = torch_uniform
    crop_edge: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B Y X C"]) -> Float[Array, "B P D"]:
        B, Y, X, C = image.shape
        p, stride = self.patch, self.stride or self.patch
        if stride == p and self.crop_edge:
            Y, X = Y // p * p, X // p * p
            image = image[:, :Y, :X]
        if stride == p and (Y % p or X % p):
            raise UserError(f"image of {Y}x{X} pixels does not divide into patches of {p}")
        axes = (None, None, None, "embed")
        kernel = self.param("kernel", partitioned(self.kernel_init, *axes), (p, p, C, self.width), jnp.float32)
        kernel = gathered(jnp.asarray(kernel, self.dtype), axes)
        image = image.astype(self.dtype)
        if stride == p:
            # Pixels of a row stay one axis with their colours: a TPU pads small last axes to whole tiles (8 times the
            # memory for patches of 32).
            patches = image.reshape(B, Y // p, p, X // p, p * C).transpose(0, 1, 3, 2, 4)  # [B, y, x, p, p·C]
            tokens = patches.reshape(-1, p * p * C) @ kernel.reshape(p * p * C, self.width)
        else:
            dims = ("NHWC", "HWIO", "NHWC")
            tokens = jax.lax.conv_general_dilated(image, kernel, (stride, stride), "VALID", dimension_numbers=dims)
        tokens = tokens.reshape(B, -1, self.width)
        if self.use_bias:
            bias = self.param("bias", zeros, (self.width,), jnp.float32).astype(self.dtype)
            tokens = tokens + bias[None, None]
        return constrain(tokens, "batch", None, None)
