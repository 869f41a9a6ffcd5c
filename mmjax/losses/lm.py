"""Next-token loss; the shift between logits and labels is made here and nowhere else."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.errors import UserError
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


def next_token_sums_chunked(
    states: Float[Array, "B T D"],
    table: Float[Array, "V D"],
    bias: Float[Array, "V"] | None,
    ids: Integer[Array, "B T"],
    predicted: Bool[Array, "B T"],
    *,
    chunk: int,
    smoothing: float = 0.0,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """`next_token_sums(states · tableᵀ + bias, …)` for big vocabularies: logits of `chunk` positions exist at a time.

    They are computed again in the backward pass: memory B · chunk · V instead of several times B · T · V. Rows stay
    where they are on a mesh.

    Args:
      states: float[B, T, D], what the output map takes; those at t are of the token at t+1.
      table: float[V, D], the output map (a tied token embedding, or a transposed kernel).
      bias: float[V], or None.
      ids, predicted, smoothing: see `next_token_sums`.
      chunk: positions at a time; it need not divide T.

    Raises:
      UserError: chunk < 1.
    """
    if chunk < 1:
        raise UserError(f"next-token loss: chunk={chunk}; valid: at least 1")
    B, T = ids.shape
    count = -(-(T - 1) // chunk)
    behind = ((0, 0), (0, count * chunk - (T - 1)))

    def split(x: Array) -> Array:
        x = jnp.pad(x, (*behind, *((0, 0),) * (x.ndim - 2)))
        return x.reshape(B, count, chunk, *x.shape[2:]).swapaxes(0, 1)  # [count, B, chunk, ...]

    @jax.checkpoint
    def one(table: Array, bias: Array | None, part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        states, ids, counted = part
        logits = jnp.einsum("BTD,VD->BTV", states, table, preferred_element_type=jnp.float32)
        logits = logits if bias is None else logits + bias[None, None]
        return jnp.sum(token_losses(logits, ids, smoothing=smoothing) * counted, axis=1), jnp.sum(counted, axis=1)

    def step(carry: tuple[Array, Array], part: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        loss, number = one(table, bias, part)
        return (carry[0] + loss, carry[1] + number), None

    parts = split(states[:, :-1]), split(ids[:, 1:]), split(predicted[:, 1:].astype(jnp.float32))
    zero = jnp.zeros(B, jnp.float32)
    return lax.scan(step, (zero, zero), parts)[0]
