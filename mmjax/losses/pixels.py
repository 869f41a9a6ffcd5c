"""Masked images whose pixels are predicted, instead of codes."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.core.types import Term


def patch_pixels(image: Float[Array, "B Y X C"], patch: int, eps: float = 1e-6) -> Float[Array, "B P N"]:
    """The N = patch² · C values of each patch, row by row, with mean 0 and variance 1 within each; float32.

    Source: He et al. 2022 (MAE), §3 ("reconstruction target") and table 1d: normalised targets are the better ones.

    Example:
      >>> patch_pixels(jnp.arange(4.0).reshape(1, 2, 2, 1), 2)[0, 0].round(2).tolist()
      [-1.340000033378601, -0.44999998807907104, 0.44999998807907104, 1.340000033378601]
    """
    B, Y, X, C = image.shape
    x = image.astype(jnp.float32).reshape(B, Y // patch, patch, X // patch, patch, C)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(B, -1, patch * patch * C)
    x = x - x.mean(axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.square(x).mean(axis=-1, keepdims=True) + eps)


def masked_pixels(guess: Float[Array, "B P N"], pixels: Float[Array, "B P N"], masked: Bool[Array, "B P"]) -> Term:
    """Squared error of the masked patches' values.

    Returns:
      Term(sum over the masked patches of the mean over their values, number of masked patches, at least 1).

    Source: He et al. 2022 (MAE), §3.
    """
    each = jnp.square(guess.astype(jnp.float32) - pixels).mean(axis=-1)
    counted = masked.astype(jnp.float32)
    return Term(jnp.sum(each * counted), jnp.maximum(jnp.sum(counted), 1.0))
