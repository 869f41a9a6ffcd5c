"""Beam search, with the rules of transformers', so that equal logits give equal texts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Integer

from mmjax.decoders.sample import Cache, Step, Texts, limit
from mmjax.decoders.scores import restrict
from mmjax.decoders.settings import Settings
from mmjax.nn.cache import CONTEXT

LOWEST = -1e9
"""Score of what is no candidate; transformers' too. Sums with it order as they do there."""


@struct.dataclass
class Beams:
    """W running beams and the W best finished ones for each of B rows, best first.

    Attributes:
      ids, score: running: int32[B, W, L]; float32[B, W], sums of log probabilities.
      done_ids, done_score, done_length, done: finished: int32[B, W, L]; float32[B, W] with the length's penalty;
        int32[B, W]; bool[B, W], whether there is one.
      length: int32[B], of the running beams.
      going: bool[B], whether a row's finished beams may still change.
    """

    # Any: under jax's transformations the leaves are tracers, shapes or placeholders.
    ids: Any
    score: Any
    done_ids: Any
    done_score: Any
    done_length: Any
    done: Any
    length: Any
    going: Any


def repeat(cache: Cache, width: int) -> Cache:
    """Every row of the cache for each of its beams; leaves are [..., rows, S, K, H], a context's stay as they are."""
    return _rows(cache, lambda leaf: jnp.repeat(leaf, width, axis=-4))


def reorder(cache: Cache, rows: Integer[Array, "R"]) -> Cache:
    """Row r of the new cache is row rows[r] of the old one."""
    return _rows(cache, lambda leaf: jnp.take(leaf, rows, axis=-4))


def _rows(cache: Cache, change: Any) -> Cache:
    def one(path: tuple, leaf: Array) -> Array:
        return leaf if str(getattr(path[-1], "key", "")).startswith(CONTEXT) else change(leaf)

    return jax.tree_util.tree_map_with_path(one, cache)


def search(
    step: Step,
    cache: Cache,
    logits: Float[Array, "B V"],
    filled: Integer[Array, "B"],
    texts: Texts,
    how: Settings,
) -> Texts:
    """The `how.best` best texts of each row, as rows [B · best] in order.

    Arguments are those of `sample.sample`; `step` gets B · beams rows, a row's beams side by side.
    """
    B, W = len(texts.ids), how.beams
    room, before, ends = texts.ids.shape[1], filled - texts.length, limit(texts.prompt, texts.ids.shape[1], how)
    running = jnp.repeat(texts.ids[:, None], W, axis=1)
    score = jnp.where(jnp.arange(W)[None] == 0, 0.0, LOWEST) * jnp.ones((B, 1), jnp.float32)
    state = Beams(
        running,
        score,
        running,
        jnp.full((B, W), LOWEST, jnp.float32),
        jnp.repeat(texts.length[:, None], W, axis=1),
        jnp.zeros((B, W), bool),
        texts.length,
        texts.length < ends,
    )
    first = jnp.repeat(logits, W, axis=0)
    state, origin = grow(state, first, texts.prompt, ends, how)
    cache = reorder(repeat(cache, W), origin)

    def advance(carry: tuple[Cache, Beams]) -> tuple[Cache, Beams]:
        cache, state = carry
        at = jnp.minimum(state.length, room) - 1
        token = jnp.take_along_axis(state.ids, at[:, None, None], axis=2).reshape(B * W)
        logits, cache = step(cache, token, jnp.repeat(before + at, W))
        state, origin = grow(state, logits, texts.prompt, ends, how)
        return reorder(cache, origin), state

    cache, state = jax.lax.while_loop(lambda carry: carry[1].going.any(), advance, (cache, state))
    chosen = jax.tree.map(lambda x: x[:, : how.best].reshape(B * how.best, *x.shape[2:]),
                          (state.done_ids, state.done_length, state.done_score))  # fmt: skip
    prompt = jnp.repeat(texts.prompt, how.best)
    return Texts(chosen[0], chosen[1], prompt, chosen[2], jnp.ones(B * how.best, bool))


def grow(
    state: Beams, logits: Float[Array, "R V"], prompt: Integer[Array, "B"], ends: Integer[Array, "B"], how: Settings
) -> tuple[Beams, Integer[Array, "R"]]:
    """One token more for every running beam of the rows that still go.

    Returns:
      (beams, int32[B · W]: the row of the cache that each running beam continues).
    """
    B, W, L = state.ids.shape
    V, length = logits.shape[1], state.length
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=1)
    log_p = restrict(log_p, state.ids.reshape(B * W, L), jnp.repeat(length, W), jnp.repeat(prompt, W), how)
    total = (log_p.reshape(B, W, V) + state.score[:, :, None]).reshape(B, W * V)
    # As many candidates as leave W that do not end, whatever ends.
    score, place = jax.lax.top_k(total, min(max(2, 1 + len(how.end_ids)) * W, W * V))
    beam, token = place // V, (place % V).astype(jnp.int32)  # [B, C]
    ids = jnp.take_along_axis(state.ids, beam[:, :, None], axis=1)
    here = jnp.arange(L)[None, None] == length[:, None, None]
    ids = jnp.where(here, token[:, :, None], ids)
    hits = jnp.isin(token, jnp.asarray(how.end_ids, jnp.int32)) | (length + 1 >= ends)[:, None]

    open_score = score + jnp.where(hits, LOWEST, 0.0)
    running = jax.lax.top_k(open_score, W)[1]
    new = Beams(
        _pick(ids, running), _pick(open_score, running), *_finished(state, ids, score, hits, prompt, how),
        length + 1, state.going,
    )  # fmt: skip
    going = state.going & (length + 1 < ends) & _improvable(new, prompt, ends, how)
    if how.early_stopping is True:
        going &= ~new.done.all(axis=1)
    kept = jax.tree.map(lambda a, b: jnp.where(state.going.reshape(B, *(1,) * (a.ndim - 1)), a, b), new, state)
    origin = jnp.arange(B)[:, None] * W + _pick(beam, running)
    return dataclasses.replace(kept, going=going), origin.reshape(B * W)


def _finished(
    state: Beams, ids: Array, score: Array, hits: Array, prompt: Array, how: Settings
) -> tuple[Array, Array, Array, Array]:
    """The W best of the finished beams and of the candidates that have just ended, the W best candidates only."""
    W, C = state.ids.shape[1], ids.shape[1]
    ended = hits & (jnp.arange(C) < W)[None]
    new = (state.length + 1 - prompt).astype(jnp.float32)[:, None]
    final = score / new**how.length_penalty + jnp.where(ended, 0.0, LOWEST)
    best_score, best = jax.lax.top_k(jnp.concatenate([state.done_score, final], axis=1), W)
    lengths = jnp.broadcast_to(state.length[:, None] + 1, (len(ids), C))
    return (
        _pick(jnp.concatenate([state.done_ids, ids], axis=1), best),
        best_score,
        _pick(jnp.concatenate([state.done_length, lengths], axis=1), best),
        _pick(jnp.concatenate([state.done, ended], axis=1), best),
    )


def _improvable(state: Beams, prompt: Array, ends: Array, how: Settings) -> Bool[Array, "B"]:
    """Whether the best running beam may still beat the worst finished one (see `Settings.early_stopping`)."""
    far = how.early_stopping == "never" and how.length_penalty > 0
    new = ((ends if far else state.length) - prompt).astype(jnp.float32)
    possible = state.score[:, 0] / new**how.length_penalty
    worst = jnp.where(state.done, state.done_score.min(axis=1, keepdims=True), LOWEST)
    return (possible[:, None] > worst).any(axis=1)


def _pick(x: Array, beams: Integer[Array, "B W"]) -> Array:
    return jnp.take_along_axis(x, beams.reshape(*beams.shape, *(1,) * (x.ndim - 2)), axis=1)
