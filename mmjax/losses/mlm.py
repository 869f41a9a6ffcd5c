"""Masked language modelling: which tokens are hidden, and the loss of guessing them."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.sharding import constrain
from mmjax.core.types import Term


def mask_tokens(
    key: jax.Array,
    ids: Integer[Array, "B T"],
    eligible: Bool[Array, "B T"],
    *,
    vocab: int,
    mask_id: int,
    rate: float = 0.15,
    hidden: float = 0.8,
    swapped: float = 0.1,
) -> tuple[Integer[Array, "B T"], Bool[Array, "B T"]]:
    """(ids with some tokens hidden, which were selected), a function of key, ids and `eligible` on any mesh.

    Args:
      key: of the draw.
      ids: int[B, T].
      eligible: which tokens may be selected, each with probability `rate`.
      vocab: V; a swapped token is any of 0 … V-1, special ones included, as in the published code.
      mask_id: what stands in the place of a hidden token.
      hidden, swapped: shares of the selected tokens that become `mask_id` and a random token; the rest stays.

    Source: Devlin et al. 2019 (BERT), §3.1.
    """
    selected = jax.random.bernoulli(jax.random.fold_in(key, 0), rate, ids.shape) & eligible
    shown = hide_tokens(key, ids, selected, vocab=vocab, mask_id=mask_id, hidden=hidden, swapped=swapped)
    return shown, selected


def hide_tokens(
    key: jax.Array,
    ids: Integer[Array, "B T"],
    selected: Bool[Array, "B T"],
    *,
    vocab: int,
    mask_id: int,
    hidden: float = 0.8,
    swapped: float = 0.1,
    least: int = 0,
) -> Integer[Array, "B T"]:
    """The ids with the selected ones hidden, swapped or left; arguments as in `mask_tokens`.

    A swapped token is any of `least` … V-1.
    """
    kind, word = (jax.random.fold_in(key, place) for place in (1, 2))
    share = jax.random.uniform(kind, ids.shape)
    words = jax.random.randint(word, ids.shape, least, vocab, ids.dtype)
    shown = jnp.where(share < hidden, jnp.asarray(mask_id, ids.dtype), jnp.where(share < hidden + swapped, words, ids))
    return jnp.where(selected, shown, ids)


def masked_lm(
    logits: Float[Array, "B T V"],
    ids: Integer[Array, "B T"],
    selected: Bool[Array, "B T"],
    *,
    taught: Float[Array, "B T V"] | None = None,
    alpha: Float[Array, ""] | float = 0.0,
) -> Term:
    """Cross-entropy of the selected tokens, mixed with that of a teacher's distribution.

        L = mean over the selected of (1-α) (-log p[id]) + α (-Σ_v softmax(taught)_v log p_v)

    Args:
      logits: float[B, T, V], of each position's own token.
      ids: int[B, T], the tokens before some were hidden.
      selected: bool[B, T].
      taught: the teacher's logits, without gradient; None: no teacher, α = 0.
      alpha: α.

    Returns:
      Term(sum over the selected tokens, their number, at least 1); nats.

    Source: Li et al. 2021 (ALBEF), §3.2 and equation 7.
    """
    each = token_losses(logits, ids, taught=taught, alpha=alpha)
    counted = selected.astype(jnp.float32)
    return Term(jnp.sum(each * counted), jnp.maximum(jnp.sum(counted), 1.0))


def token_losses(
    logits: Float[Array, "B T V"],
    ids: Integer[Array, "B T"],
    *,
    smoothing: float = 0.0,
    taught: Float[Array, "B T V"] | None = None,
    alpha: Float[Array, ""] | float = 0.0,
) -> Float[Array, "B T"]:
    """`(1-α)` cross-entropy with the id `+ α` cross-entropy with softmax(taught), of each position; float32, nats.

    Args:
      logits, ids, taught, alpha: as in `masked_lm`.
      smoothing: ε of label smoothing: the id has 1-ε, and every word of the vocabulary ε/V besides.
    """
    log_p = jax.nn.log_softmax(constrain(logits.astype(jnp.float32), "batch", None, None), axis=-1)
    each = -jnp.take_along_axis(log_p, ids[:, :, None].astype(jnp.int32), axis=-1)[:, :, 0]
    if smoothing:
        each = (1 - smoothing) * each - smoothing * log_p.mean(axis=-1)
    if taught is not None:
        teacher = jax.nn.softmax(lax.stop_gradient(taught.astype(jnp.float32)), axis=-1)
        each = (1 - alpha) * each - alpha * jnp.sum(teacher * log_p, axis=-1)
    return each
