"""Ranks of the right answers among a gallery, without holding the whole similarity matrix."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

_SCORES_AT_ONCE = 1 << 25  # similarities held at a time: 128 MiB
_MAX_BLOCK = 1024


def group_pairs(pairs: Int[np.ndarray, "K 2"], size: int) -> tuple[Int[np.ndarray, "N P"], Int[np.ndarray, " N"]]:
    """Right answers of each left item: (indices padded with -1, count), from (left, right) pairs.

    Repeated pairs count once. Items without an answer get count 0.
    """
    pairs = np.unique(pairs, axis=0)  # sorted by left, then right
    count = np.bincount(pairs[:, 0], minlength=size)
    position = np.arange(len(pairs)) - np.repeat(np.cumsum(count) - count, count)
    grouped = np.full((size, max(1, int(count.max(initial=0)))), -1, np.int64)
    grouped[pairs[:, 0], position] = pairs[:, 1]
    return grouped, count


def best_ranks(
    queries: Float[np.ndarray, "Q E"],
    gallery: Float[np.ndarray, "G E"],
    positives: Int[np.ndarray, "Q P"],
    *,
    block: int | None = None,
) -> Int[np.ndarray, " Q"]:
    """Rank (from 1) of each query's best right answer by inner product.

    rank_q = 1 + #{wrong answers g : s(q, g) >= max over right answers p of s(q, p)}

    Right answers never stand in each other's way. A tie with a wrong answer counts against the query, so a collapsed
    model, which gives everything one score, gets the last rank instead of the first.

    Args:
      queries: float[Q, E].
      gallery: float[G, E].
      positives: int[Q, P], the distinct indices of the right answers in the gallery, padded with -1.
      block: queries at a time; by default bounded so that the similarities take 128 MiB.

    Raises:
      ValueError: a query without an answer, an index outside the gallery, or features that are not finite.
    """
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise ValueError("features that are not finite cannot be ranked")
    if not (positives >= 0).any(axis=1).all() or positives.max(initial=-1) >= len(gallery):
        raise ValueError(f"every query needs an answer, and answers lie in 0 … {len(gallery) - 1}")
    block = min(block or max(1, min(_MAX_BLOCK, _SCORES_AT_ONCE // len(gallery))), len(queries))
    on_device = jnp.asarray(gallery, jnp.float32)
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), block):
        # The last block is moved back instead of padded: some rows are ranked twice, and one shape compiles.
        begin = min(start, len(queries) - block)
        window = slice(begin, begin + block)
        answer = jnp.asarray(np.maximum(positives[window], 0), jnp.int32)
        scores = _block_ranks(jnp.asarray(queries[window], jnp.float32), on_device, answer, positives[window] >= 0)
        ranks[window] = np.asarray(scores)
    return ranks


@jax.jit
def _block_ranks(
    queries: Float[Array, "Q E"],
    gallery: Float[Array, "G E"],
    positives: Int32[Array, "Q P"],
    valid: Bool[Array | np.ndarray, "Q P"],
) -> Int32[Array, " Q"]:
    # HIGHEST: the default precision of an accelerator (bf16 products) would make ties of near neighbours.
    scores = jnp.einsum("QE,GE->QG", queries, gallery, precision=jax.lax.Precision.HIGHEST)
    right = jnp.where(valid, jnp.take_along_axis(scores, positives, axis=1), -jnp.inf)
    best = right.max(axis=1, keepdims=True)
    ahead = (scores >= best).sum(axis=1) - (right >= best).sum(axis=1)
    return (1 + ahead).astype(jnp.int32)


def chance_recall(count: Int[np.ndarray, " Q"], gallery: int, k: int) -> float:
    """Expected R@k of a random order, for queries that have `count` right answers each in a gallery.

    1 - C(G - p, k) / C(G, k), averaged over queries.
    """
    steps = np.arange(min(k, gallery))
    miss = np.clip((gallery - count[:, None] - steps[None, :]) / (gallery - steps[None, :]), 0, 1).prod(axis=1)
    return float((1 - miss).mean())
