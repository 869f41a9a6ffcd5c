"""Hard negatives for image-text matching, drawn from the whole global batch (ALBEF, VLMo, BLIP)."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.errors import UserError
from mmjax.core.sharding import BATCH_AXES, constrain


def negative_weights(
    logits: Float[Array, "B B"], ids: Integer[Array, "B"] | None = None, floor: float = 0.0
) -> Float[Array, "B B"]:
    """`softmax(logits) + floor` over each row's candidates, 0 for its own pair and for pairs of the same id.

    Args:
      logits: float[B, B], scaled similarities; row i asks, column j is the candidate of pair j.
      ids: int[B]; pairs of equal id (captions of one image) are no negatives of each other.
      floor: BLIP adds 1e-4, so that no candidate is beyond reach.

    Source: Li et al. 2021 (ALBEF), §3.2.
    """
    probabilities = jax.nn.softmax(constrain(logits.astype(jnp.float32), "batch", None), axis=1)
    return jnp.where(_candidates(len(logits), ids), probabilities + floor, 0.0)


def draw_negatives(
    key: jax.Array, logits: Float[Array, "B B"], ids: Integer[Array, "B"] | None = None, floor: float = 0.0
) -> tuple[Integer[Array, "B"], Bool[Array, "B"]]:
    """One negative for every row, column j with probability proportional to `negative_weights`.

    The draw is a function of key and logits, on any mesh; no gradient flows through it. Probabilities that vanish in
    float32 beside the own pair's are compared as logarithms: such a row draws from its candidates as it should, where
    weights would all be zero.

    Returns:
      (int32[B] columns, bool[B] whether the row has a candidate at all: if all pairs have its id, the column is the
      row's own, and has to be left out of the loss).
    """
    scores = _perturbed(key, logits, ids, floor)
    possible = jnp.isfinite(scores).any(axis=1)
    return jnp.where(possible, jnp.argmax(scores, axis=1), jnp.arange(len(logits))).astype(jnp.int32), possible


def draw_two(
    key: jax.Array, logits: Float[Array, "B B"], ids: Integer[Array, "B"] | None = None
) -> tuple[Integer[Array, "B 2"], Bool[Array, "B 2"]]:
    """Two different negatives for every row, one after the other without replacement; see `draw_negatives`.

    The highest of the logarithms of the weights, each plus a Gumbel variate, are such a draw.

    Returns:
      (int32[B, 2] columns, bool[B, 2] whether there is a first and a second one; the row's own number where not).
    """
    scores = jnp.pad(_perturbed(key, logits, ids), ((0, 0), (0, 1)), constant_values=-jnp.inf)  # if there is one row
    best, drawn = lax.top_k(scores, 2)
    there = jnp.isfinite(best)
    return jnp.where(there, drawn, jnp.arange(len(logits))[:, None]).astype(jnp.int32), there


def _perturbed(
    key: jax.Array, logits: Float[Array, "B B"], ids: Integer[Array, "B"] | None, floor: float = 0.0
) -> Float[Array, "B B"]:
    """log of the weights plus a Gumbel variate each, -inf for what is no candidate."""
    logits = lax.stop_gradient(constrain(logits.astype(jnp.float32), "batch", None))
    log_weights = jax.nn.log_softmax(logits, axis=1)
    if floor:
        log_weights = jnp.logaddexp(log_weights, math.log(floor))
    noise = constrain(jax.random.gumbel(key, logits.shape), "batch", None)
    return jnp.where(_candidates(len(logits), ids), log_weights + noise, -jnp.inf)


def _candidates(batch: int, ids: Integer[Array, "B"] | None) -> Bool[Array, "B B"]:
    other = jnp.arange(batch)[:, None] != jnp.arange(batch)[None, :]
    return other if ids is None else other & (ids[:, None] != ids[None, :])


def take_rows(tree: Any, index: Integer[Array, "N"]) -> Any:
    """`x[index]` for every leaf [B, ...] of a tree whose rows are split over the devices; differentiable.

    The rows travel around the ring of devices, and each takes those that it asks for: a device holds twice its own
    part, where a gather would hold the whole batch (of image tokens, say). Without a mesh it is an index.

    Args:
      tree: arrays float[B, ...], the global batch.
      index: int[N], rows of the batch.

    Raises:
      UserError: B or N does not divide over the devices of the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    ways = 1 if mesh.empty else math.prod(mesh.shape.get(axis, 1) for axis in BATCH_AXES)
    if ways == 1:
        return jax.tree.map(lambda x: x[index], tree)
    sizes = {len(index), *(len(x) for x in jax.tree.leaves(tree))}
    if any(size % ways for size in sizes):
        raise UserError(f"rows {sorted(sizes)} do not divide over {ways} devices")
    by_batch = PartitionSpec(BATCH_AXES)
    hop = functools.partial(lax.ppermute, axis_name=BATCH_AXES, perm=[(i, (i + 1) % ways) for i in range(ways)])

    def local(x: Array, index: Array) -> Array:
        here, rows = lax.axis_index(BATCH_AXES), x.shape[0]

        def step(carry: tuple[Array, Array], hops: Array) -> tuple[tuple[Array, Array], None]:
            arrived, taken = carry
            at = index - (here - hops) % ways * rows  # what has come `hops` places was that device's
            found = arrived[jnp.clip(at, 0, rows - 1)]
            mine = ((at >= 0) & (at < rows)).reshape(-1, *(1,) * (x.ndim - 1))
            return (hop(arrived), jnp.where(mine, found, taken)), None

        start = lax.pcast(jnp.zeros((len(index), *x.shape[1:]), x.dtype), BATCH_AXES, to="varying")
        return lax.scan(step, (x, start), jnp.arange(ways))[0][1]

    ring = jax.shard_map(local, in_specs=(by_batch, by_batch), out_specs=by_batch, check_vma=True)
    return jax.tree.map(lambda x: ring(x, index), tree)
