"""What is done to the scores of the next token before one is chosen; each function float[R, V] -> float[R, V]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from mmjax.decoders.settings import Settings

Scores = Float[Array, "R V"]


def penalise_repetition(
    scores: Scores, ids: Integer[Array, "R L"], valid: Bool[Array, "R L"], penalty: float
) -> Scores:
    """Scores of the tokens that a row holds: positive ones over `penalty`, negative ones times it."""
    rows = jnp.arange(len(ids))[:, None]
    held = jnp.zeros(scores.shape, bool).at[rows, ids].max(valid)
    return jnp.where(held, jnp.where(scores > 0, scores / penalty, scores * penalty), scores)


def forbid(scores: Scores, ids: tuple[int, ...], where: Bool[Array, "R"]) -> Scores:
    """-inf for some tokens, in the rows that `where` names."""
    token = jnp.isin(jnp.arange(scores.shape[1]), jnp.asarray(ids, jnp.int32))
    return jnp.where(where[:, None] & token[None], -jnp.inf, scores)


def keep_top_k(scores: Scores, k: int) -> Scores:
    """-inf for tokens that are not among the k most likely."""
    least = jax.lax.top_k(scores, min(k, scores.shape[1]))[0][:, -1:]
    return jnp.where(scores < least, -jnp.inf, scores)


def keep_nucleus(scores: Scores, p: float) -> Scores:
    """-inf outside the smallest set of most likely tokens whose probabilities reach p; one token always stays."""
    ascending = jnp.sort(scores, axis=1)
    below = jnp.cumsum(jax.nn.softmax(ascending, axis=1), axis=1)  # of a token and of all less likely ones
    out = jnp.minimum((below <= 1 - p).sum(axis=1), scores.shape[1] - 1)
    least = jnp.take_along_axis(ascending, out[:, None], axis=1)
    return jnp.where(scores < least, -jnp.inf, scores)


def restrict(
    scores: Scores, ids: Integer[Array, "R L"], length: Integer[Array, "R"], prompt: Integer[Array, "R"], how: Settings
) -> Scores:
    """The rules that hold for every kind of search: repetition, then the least length; in transformers' order."""
    if how.repetition_penalty != 1.0:
        valid = jnp.arange(ids.shape[1])[None] < length[:, None]
        scores = penalise_repetition(scores, ids, valid, how.repetition_penalty)
    if (how.min_length or how.min_new) and how.end_ids:
        scores = forbid(scores, how.end_ids, (length < how.min_length) | (length - prompt < how.min_new))
    return scores


def draw(scores: Scores, keys: Array, how: Settings) -> Integer[Array, "R"]:
    """The most likely token of each row, or one drawn with the row's own key."""
    if not how.sample:
        return jnp.argmax(scores, axis=1).astype(jnp.int32)
    scores = scores / how.temperature
    if how.top_k:
        scores = keep_top_k(scores, how.top_k)
    if how.top_p < 1:
        scores = keep_nucleus(scores, how.top_p)
    return jax.vmap(jax.random.categorical)(keys, scores).astype(jnp.int32)
