"""Gradient accumulation that keeps the negatives of the whole batch.

A contrastive loss is no sum over examples, so averaging the gradients of small batches trains on another loss. Instead
(Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup", §3): compute the features
of all chunks without keeping activations, differentiate the objective by the features of the whole batch, then compute
each chunk's features once more and pull their gradients back into the parameters.

On a mesh with `data` alone, every device adds up the gradients of its rows of all chunks, and they are reduced over the
devices once. Parameters that are split (`fsdp`, `tensor`) are gathered for every chunk anyway: there, and where
features draw random numbers, whose masks are those of the whole chunk, the gradient of each chunk is reduced by itself.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval
from jax.sharding import PartitionSpec as P

from mmjax.core.errors import UserError

DATA = "data"

Features = Callable[[Any, Any, jax.Array], Any]
Objective = Callable[[Any, Any], tuple[jax.Array, Any]]


def cached_value_and_grad(features_fn: Features, objective_fn: Objective, chunks: int) -> Callable[..., Any]:
    """As `jax.value_and_grad(..., has_aux=True)` of the objective on the whole batch, with a chunk's activations.

    Args:
        features_fn: (params, chunk, rng) -> tree of arrays [b, ...] with one row per example of the chunk. Rows must
            not depend on other rows. Integer and boolean leaves are passed on without gradient.
        objective_fn: (params, features) -> (float[], aux), on the features of the whole batch in the batch's order;
            parameters that it reads itself (a temperature) get their gradient, too.
        chunks: number of parts; the batch size must be a multiple.

    Returns:
        A function (params, batch, rng) -> ((value, aux), grads). Chunk c draws its randomness from `fold_in(rng, c)`,
        the same in both passes. Memory: the features and parameter gradients of the batch, the activations of a chunk.

    Raises:
        UserError: chunks < 1; from the returned function, a batch or features that do not fit the chunks.

    Example:
        >>> double = lambda w, x, rng: w * x
        >>> grad = cached_value_and_grad(double, lambda w, y: (jnp.sum(y) ** 2, None), chunks=2)
        >>> (value, _), slope = grad(jnp.float32(2.0), jnp.ones(4), jax.random.key(0))
        >>> float(value), float(slope)
        (64.0, 64.0)
    """
    if chunks < 1:
        raise UserError(f"gradient accumulation: chunks={chunks} must be at least 1")

    def value_and_grad(params: Any, batch: Any, rng: jax.Array) -> tuple[tuple[jax.Array, Any], Any]:
        size = _batch_size(batch, chunks)
        numbered = (jnp.arange(chunks), split_rows(batch, chunks))

        def chunk_features(params: Any, index: jax.Array, chunk: Any) -> Any:
            features = features_fn(params, chunk, jax.random.fold_in(rng, index))
            wrong = [x.shape for x in jax.tree.leaves(features) if x.ndim < 1 or x.shape[0] != size // chunks]
            if wrong:
                raise UserError(f"gradient accumulation: features of a chunk of {size // chunks} examples have shapes "
                                f"{wrong}: every leaf needs one row per example")  # fmt: skip
            return features

        cached = jax.lax.map(lambda xs: chunk_features(params, *xs), numbered)
        leaves, tree = jax.tree.flatten(join_rows(cached))

        def objective(params: Any, varying: list[jax.Array]) -> tuple[jax.Array, Any]:
            values = iter(varying)
            return objective_fn(params, jax.tree.unflatten(tree, [next(values) if _varies(x) else x for x in leaves]))

        varying = [x for x in leaves if _varies(x)]
        result, (grads, by_feature) = jax.value_and_grad(objective, (0, 1), has_aux=True)(params, varying)
        first = jax.tree.map(lambda x: x[0], numbered[1])
        if _alone_on(DATA, chunks, size) and not _draws(features_fn, params, first, rng):
            here = functools.partial(_pulled_here, features_fn, chunks)
            local = jax.shard_map(here, in_specs=(P(), P(DATA), P(DATA), P()), out_specs=P(), check_vma=True)
            return result, jax.tree.map(jnp.add, grads, local(params, batch, by_feature, rng))
        return result, _pulled(features_fn, chunks, params, batch, by_feature, rng, grads)

    return value_and_grad


def _pulled(
    features_fn: Features, chunks: int, params: Any, batch: Any, by_feature: list, rng: jax.Array, grads: Any
) -> Any:
    """`grads` and, chunk by chunk, the gradients of the features pulled back into the parameters."""

    def pull_back(grads: Any, xs: tuple[jax.Array, Any, list[jax.Array]]) -> tuple[Any, None]:
        index, chunk, by_feature = xs

        def varying_features(params: Any) -> list[jax.Array]:
            features = features_fn(params, chunk, jax.random.fold_in(rng, index))
            return [x for x in jax.tree.leaves(features) if _varies(x)]

        _, pull = jax.vjp(varying_features, params)
        return jax.tree.map(jnp.add, grads, pull(by_feature)[0]), None

    xs = (jnp.arange(chunks), split_rows(batch, chunks), split_rows(by_feature, chunks))
    return jax.lax.scan(pull_back, grads, xs)[0]


def _pulled_here(features_fn: Features, chunks: int, params: Any, batch: Any, by_feature: list, rng: jax.Array) -> Any:
    """Inside of a shard_map over DATA: of this device's rows, then summed over the devices."""
    # Parameters that count as different on every device have gradients that nothing sums on the way.
    params = jax.tree.map(lambda x: jax.lax.pcast(x, DATA, to="varying"), params)
    grads = _pulled(features_fn, chunks, params, batch, by_feature, rng, jax.tree.map(jnp.zeros_like, params))
    return jax.lax.psum(grads, DATA)


def _alone_on(axis: str, chunks: int, size: int) -> bool:
    """Whether the mesh in force has several devices, all of them along one axis, which divides the rows of a chunk."""
    shape = jax.sharding.get_abstract_mesh().shape
    ways = shape.get(axis, 1)
    return ways > 1 and math.prod(shape.values()) == ways and size % (chunks * ways) == 0


def _draws(features_fn: Features, params: Any, chunk: Any, rng: jax.Array) -> bool:
    """Whether the features depend on the random key."""
    traced = jax.make_jaxpr(lambda rng: features_fn(params, chunk, rng))(rng)
    _, used = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return any(used)


def split_rows(tree: Any, chunks: int) -> Any:
    """[B, ...] -> [chunks, B/chunks, ...] for every leaf: chunk c gets the rows c, c + chunks, c + 2·chunks, …

    Taken in strides, a chunk has rows of every device that the batch is sharded over, and no row moves to another
    device; consecutive rows would put a whole chunk on a few devices.
    """
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, chunks, *x.shape[1:]), 1, 0), tree)


def join_rows(tree: Any) -> Any:
    """[chunks, B/chunks, ...] -> [B, ...]: undoes `split_rows`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), tree)


def _varies(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _batch_size(batch: Any, chunks: int) -> int:
    shapes = [x.shape for x in jax.tree.leaves(batch)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or () in sizes:
        raise UserError(f"gradient accumulation: leaves of the batch have shapes {shapes}; all must be [B, ...]")
    size = shapes[0][0]
    if size % chunks:
        raise UserError(f"gradient accumulation: a batch of {size} does not divide into {chunks} chunks")
    return size
