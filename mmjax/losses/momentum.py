"""Contrastive loss against momentum features and a queue, with soft targets (ALBEF, BLIP)."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from mmjax.core.errors import UserError
from mmjax.core.sharding import constrain
from mmjax.core.types import Term
from mmjax.losses import tiles


def momentum_contrastive(
    img: Float[Array, "B D"],
    txt: Float[Array, "B D"],
    img_m: Float[Array, "B D"],
    txt_m: Float[Array, "B D"],
    temperature: Float[Array, ""] | float,
    alpha: Float[Array, ""] | float,
    *,
    img_queue: Float[Array, "Q D"] | None = None,
    txt_queue: Float[Array, "Q D"] | None = None,
    ids: Integer[Array, "B"] | None = None,
    queue_ids: Integer[Array, "Q"] | None = None,
) -> Term:
    """Cross-entropy of images among the texts of batch and queue, and of texts among the images, averaged.

        L = -1/2B Σ_i [y_i · log softmax(x_i·[T'; Q_T]ᵀ / τ) + z_i · log softmax(t_i·[X'; Q_X]ᵀ / τ)]
        y_i = α softmax(x'_i·[T'; Q_T]ᵀ / τ) + (1-α) h_i,  z_i likewise

    where x', t' are momentum features and h_i is even over the candidates with the id of pair i (over its own one alone
    without ids). Momentum features, queue and targets have no gradient: τ gets its from the first line alone.

    Args:
      img, txt: float[B, D], the global batch, rows of unit length.
      img_m, txt_m: the same from the momentum model.
      temperature: τ, a divisor.
      alpha: weight of the soft targets.
      img_queue, txt_queue: float[Q, D]; both or neither.
      ids, queue_ids: what pairs and rows of the queue show; equal ids are positives; negative ones belong to nobody.

    Returns:
      Term(sum over the batch, B, 1); nats.

    Raises:
      UserError: one queue without the other, or ids of the batch without those of the queue.

    Source: Li et al. 2021 (ALBEF), §3.2 and equation 6; ids: its released fine-tuning for retrieval.
    """
    if (img_queue is None) != (txt_queue is None) or (queue_ids is None) != (ids is None or img_queue is None):
        raise UserError(
            "contrastive loss with a queue: give both queues or neither, and ids for batch and queue or none"
        )
    temperature = jnp.asarray(temperature, jnp.float32)
    hard = hard_targets(len(img), img_queue, ids, queue_ids)
    total = jnp.zeros((), jnp.float32)
    for online, momentum, others, queue in ((img, img_m, txt_m, txt_queue), (txt, txt_m, img_m, img_queue)):
        found = candidates(others, queue)
        targets = soft_targets(momentum, found, temperature, alpha, hard)
        log_p = jax.nn.log_softmax(similarities(online, found) / temperature, axis=1)
        total = total - 0.5 * jnp.sum(targets * log_p)
    return Term(total, jnp.asarray(len(img), jnp.float32))


def candidates(batch: Float[Array, "B D"], queue: Float[Array, "Q D"] | None) -> Float[Array, "S D"]:
    """Momentum features of all devices, then the queue's; without gradient."""
    batch = lax.stop_gradient(constrain(batch.astype(jnp.float32), None, None))
    return batch if queue is None else jnp.concatenate([batch, lax.stop_gradient(queue.astype(jnp.float32))])


def soft_targets(
    momentum: Float[Array, "B D"],
    candidates: Float[Array, "S D"],
    temperature: Float[Array, ""],
    alpha: Float[Array, ""] | float,
    hard: Float[Array, "B S"],
) -> Float[Array, "B S"]:
    """`α softmax(momentum · candidates / τ) + (1-α) hard`, without gradient."""
    taught = jax.nn.softmax(similarities(momentum, candidates) / temperature, axis=1)
    return lax.stop_gradient(alpha * taught + (1 - alpha) * hard)


def similarities(rows: Float[Array, "B D"], candidates: Float[Array, "S D"]) -> Float[Array, "B S"]:
    """Products of each row with each candidate; every device computes its rows."""
    return constrain(tiles.products(constrain(rows.astype(jnp.float32), "batch", None), candidates), "batch", None)


def hard_targets(
    batch: int,
    queue: Array | None,
    ids: Integer[Array, "B"] | None = None,
    queue_ids: Integer[Array, "Q"] | None = None,
) -> Float[Array, "B S"]:
    """Even over the candidates of a pair's id, or its own one alone; rows sum to 1."""
    size = batch + (0 if queue is None else len(queue))
    own = jnp.arange(batch)[:, None] == jnp.arange(size)[None, :]
    if ids is not None:
        all_ids = ids if queue_ids is None else jnp.concatenate([ids, queue_ids])
        own = own | ((ids[:, None] == all_ids[None, :]) & (ids >= 0)[:, None])
    positives = constrain(own.astype(jnp.float32), "batch", None)
    return positives / positives.sum(axis=1, keepdims=True)
