"""Losses of classifiers: one class, or soft scores of many answers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from mmjax.core.types import Term


def cross_entropy(logits: Float[Array, "B C"], label: Integer[Array, "B"]) -> Term:
    """`-log softmax(logits)[label]`: Term(sum, rows, 1); nats."""
    at = jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32), axis=1), label[:, None], axis=1)
    return Term(-at.sum(), jnp.asarray(len(label), jnp.float32))


def soft_answers(logits: Float[Array, "B C"], target: Float[Array, "B C"]) -> Term:
    """Binary cross-entropy of every answer with its soft score, summed over the answers: Term(sum, rows, 1); nats.

    The mean over all logits times their number, as VQA models train it (Teney et al. 2018; VLMo, BEiT-3).
    """
    logits = logits.astype(jnp.float32)
    total = jnp.sum(jax.nn.softplus(logits) - target * logits)
    return Term(total, jnp.asarray(len(logits), jnp.float32))
