"""One token after the other: greedy, or drawn. A whole text is one compiled loop; a single step serves streaming."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Integer, UInt32

from mmjax.decoders.scores import draw, restrict
from mmjax.decoders.settings import Settings

Cache = Any
Step = Callable[[Cache, Integer[Array, "R"], Integer[Array, "R"]], tuple[Float[Array, "R V"], Cache]]
"""(cache, the last token, slots filled so far) -> (logits of the next token, cache with that token): pure."""


@struct.dataclass
class Texts:
    """What is written.

    Attributes:
      ids: int32[R, L], the prompt first; what stands behind a row's end has no meaning.
      length: int32[R], tokens of a row, prompt and end token included.
      prompt: int32[R], tokens of the prompt.
      score: float32[R], sum of the log probabilities of the new tokens (beam search: over their length's penalty).
      ended: bool[R], by an end token or for want of room.
    """

    # Any: under jax's transformations the leaves are tracers, shapes or placeholders.
    ids: Any
    length: Any
    prompt: Any
    score: Any
    ended: Any


def begin(ids: Integer[Array, "R T"], length: Integer[Array, "R"], room: int, how: Settings) -> Texts:
    """Prompts, padded on the right, in rows of `room` tokens; those without room for another one have ended."""
    rows = jnp.pad(ids, ((0, 0), (0, room - ids.shape[1]))).astype(jnp.int32)
    length = length.astype(jnp.int32)
    ended = length >= limit(length, room, how)
    return Texts(rows, length, length, jnp.zeros(len(ids), jnp.float32), ended)


def limit(prompt: Integer[Array, "R"], room: int, how: Settings) -> Integer[Array, "R"]:
    """Where each row ends at last, in rows of `room` tokens."""
    ends = jnp.full(prompt.shape, room if how.max_length is None else min(room, how.max_length), jnp.int32)
    return ends if how.max_new is None else jnp.minimum(ends, prompt + how.max_new)


def extend(texts: Texts, logits: Float[Array, "R V"], seeds: UInt32[Array, "R"], how: Settings) -> Texts:
    """Every row that has not ended with one more token.

    A row's draw follows from its seed, its length and its logits alone: not from the rows beside it.
    """
    rows = jnp.arange(len(texts.ids))
    scores = restrict(logits.astype(jnp.float32), texts.ids, texts.length, texts.prompt, how)
    keys = jax.vmap(lambda seed, step: jax.random.fold_in(jax.random.key(seed), step))(seeds, texts.length)
    token = draw(scores, keys, how)
    gain = jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32), axis=1), token[:, None], axis=1)[:, 0]
    at = jnp.where(texts.ended, texts.ids.shape[1], texts.length)  # beyond the row: dropped
    ids = texts.ids.at[rows, at].set(token, mode="drop")
    length = texts.length + ~texts.ended
    ends = jnp.isin(token, jnp.asarray(how.end_ids, jnp.int32)) | (
        length >= limit(texts.prompt, texts.ids.shape[1], how)
    )
    score = texts.score + jnp.where(texts.ended, 0.0, gain)
    return Texts(ids, length, texts.prompt, score, texts.ended | ends)


def last(texts: Texts) -> Integer[Array, "R"]:
    """The last token of each row."""
    return jnp.take_along_axis(texts.ids, texts.length[:, None] - 1, axis=1)[:, 0]


def sample(
    step: Step,
    cache: Cache,
    logits: Float[Array, "R V"],
    filled: Integer[Array, "R"],
    texts: Texts,
    seeds: UInt32[Array, "R"],
    how: Settings,
) -> Texts:
    """Writes until every row has ended.

    Args:
      step: see `Step`.
      cache: after the prompt.
      logits: of the token after the prompt.
      filled: slots of the cache that hold a row's prompt, and what stands before it (a picture's states, say).
      texts: the prompts.
      seeds: of each row; read in sampling alone.
      how: greedy or sampling.
    """
    before = filled - texts.length

    def more(state: tuple[Cache, Texts]) -> Array:
        return ~state[1].ended.all()

    def advance(state: tuple[Cache, Texts]) -> tuple[Cache, Texts]:
        cache, texts = state
        logits, cache = step(cache, last(texts), before + texts.length - 1)
        return cache, extend(texts, logits, seeds, how)

    return jax.lax.while_loop(more, advance, (cache, extend(texts, logits, seeds, how)))[1]
