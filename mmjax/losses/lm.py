"""Next-token loss; the shift between logits and labels is made here and nowhere else."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.types import Term
from mmjax.losses.mlm import token_losses


def next_token_sums(
    logits: Float[Array, "B T V"],
    ids: Integer[Array, "B T"],
    predicted: Bool[Array, "B T"],
    *,
    smoothing: float = 0.0,
    taught: Float[Array, "B T V"] | None = None,
    alpha: Float[Array, ""] | float = 0.0,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """(sum of the losses, number of predicted tokens) of each row; nats.

    Args:
      logits: float[B, T, V]; those at t are of the token at t+1.
      ids: int[B, T].
      predicted: True = this token is to be predicted, unshifted; the first one never is.
      smoothing, taught, alpha: see `mlm.token_losses`; the teacher's logits are shifted likewise.
    """
    taught = None if taught is None else taught[:, :-1]
    each = token_losses(logits[:, :-1], ids[:, 1:], smoothing=smoothing, taught=taught, alpha=alpha)
    counted = predicted[:, 1:].astype(jnp.float32)
    return jnp.sum(each * counted, axis=1), jnp.sum(counted, axis=1)


def next_token(
    logits: Float[Array, "B T V"],
    ids: Integer[Array, "B T"],
    predicted: Bool[Array, "B T"],
    *,
    smoothing: float = 0.0,
    taught: Float[Array, "B T V"] | None = None,
    alpha: Float[Array, ""] | float = 0.0,
) -> Term:
    """The mean over all predicted tokens of the batch; arguments as in `next_token_sums`."""
    sums, counts = next_token_sums(logits, ids, predicted, smoothing=smoothing, taught=taught, alpha=alpha)
    return Term(jnp.sum(sums), jnp.maximum(jnp.sum(counts), 1.0))
