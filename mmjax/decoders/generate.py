"""Generation by any system that can decode: from a batch to texts in one compiled function, or token by token.

A system that writes has a field and three methods; the cache is the Linen collection of nn/cache.py:

```
end_ids: tuple[int, ...]                the tokens that end its texts
prompt(batch)                           (int32[B, T], bool[B, T]), padded on the right: what the text begins with, at
                                        least one token in each row
prefill(batch, ids, valid, room)        (logits float[B, V] of the token after each prompt, int32[B] filled slots):
                                        reads pictures and prompt; makes the cache, for texts of `room` tokens
decode(ids, filled)                     logits float[R, V] of the token after ids int32[R], which goes to slot filled
```

`filled` may exceed the prompt's tokens: a prefix of pictures takes slots, too. R is a multiple of B: beams of a row
stand side by side, and what depends on the row alone (its context) is kept once.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, UInt32

from mmjax.core.errors import UserError
from mmjax.core.types import Batch
from mmjax.decoders import beam
from mmjax.decoders.sample import Cache, Texts, begin, extend, last, sample
from mmjax.decoders.settings import Settings
from mmjax.nn.cache import CACHE


@runtime_checkable
class Writer(Protocol):
    """A Linen module with the methods above."""

    end_ids: tuple[int, ...]

    def prompt(self, batch: Batch) -> tuple[Array, Array]: ...

    def prefill(self, batch: Batch, ids: Array, valid: Array, room: int) -> tuple[Array, Array]: ...

    def decode(self, ids: Array, filled: Array) -> Array: ...


def generate(system: Any, variables: Mapping[str, Any], batch: Batch, how: Settings) -> Texts:
    """Texts of R = B · how.best rows, the texts of a row side by side. Pure; to be jitted with `system`, `how` static.

    A row's text follows from its own inputs, whatever stands beside it and however prompts are padded.

    Args:
      system: a `Writer`.
      variables: its variables.
      batch: what it reads; for sampling with `seed` uint32[B].
      how: the settings.

    Raises:
      UserError: sampling without seeds.
    """
    how = how if how.end_ids else dataclasses.replace(how, end_ids=tuple(system.end_ids))
    cache, logits, filled, texts = _start(system, variables, batch, how)

    def step(cache: Cache, ids: Array, filled: Array) -> tuple[Array, Cache]:
        return _decode(system, variables, cache, ids, filled)

    if how.beams > 1:
        return beam.search(step, cache, logits, filled, texts, how)
    seeds = _seeds(batch, len(logits), how)
    if how.best > 1:
        copies = functools.partial(jnp.repeat, repeats=how.best, axis=0)
        cache = beam.repeat(cache, how.best)
        logits, filled, texts = jax.tree.map(copies, (logits, filled, texts))
    return sample(step, cache, logits, filled, texts, seeds, how)


def _start(system: Any, variables: Mapping[str, Any], batch: Batch, how: Settings) -> tuple[Cache, Array, Array, Texts]:
    """The prompt is read. What of it is beyond the room is padding, or a text that ends where it begins."""
    ids, valid = system.apply(variables, batch, method="prompt")
    room = how.length(ids.shape[1])
    length = jnp.asarray(valid).sum(axis=1, dtype=jnp.int32)
    ids, valid, length = ids[:, :room], valid[:, :room], jnp.minimum(length, room)
    (logits, filled), kept = system.apply(variables, batch, ids, valid, room, method="prefill", mutable=[CACHE])
    return kept[CACHE], logits, filled, begin(jnp.asarray(ids), length, room, how)


def _decode(system: Any, variables: Mapping[str, Any], cache: Cache, ids: Array, filled: Array) -> tuple[Array, Cache]:
    logits, kept = system.apply({**variables, CACHE: cache}, ids, filled, method="decode", mutable=[CACHE])
    return logits, kept[CACHE]


def _seeds(batch: Batch, rows: int, how: Settings) -> UInt32[Array, "R"]:
    """A seed for every text; the first of a row has the row's own."""
    if not how.sample:
        return jnp.zeros(rows * how.best, jnp.uint32)
    if "seed" not in batch:
        raise UserError("generation: sampling needs batch['seed'], uint32[B]: a row's text follows from its own seed")
    seeds = jnp.asarray(batch["seed"], jnp.uint32)
    copies = jnp.arange(how.best)
    more = jax.vmap(lambda seed: jax.vmap(lambda copy: jax.random.bits(jax.random.fold_in(jax.random.key(seed), copy)))(
        copies))(seeds)  # fmt: skip
    return jnp.where(copies[None] == 0, seeds[:, None], more).reshape(-1)


def written(texts: Texts, end_ids: tuple[int, ...]) -> dict[str, Array]:
    """`ids` int32[R, L] and `valid` bool[R, L]: what stands after the prompt, without the end token."""
    L = texts.ids.shape[1]
    at = texts.prompt[:, None] + jnp.arange(L)[None]
    ids = jnp.take_along_axis(texts.ids, jnp.minimum(at, L - 1), axis=1)
    ends = jnp.isin(ids, jnp.asarray(end_ids, jnp.int32)) & (at == texts.length[:, None] - 1)
    return {"ids": ids, "valid": (at < texts.length[:, None]) & ~ends}


def write(module: Any, batch: Batch, how: Settings) -> dict[str, Array]:
    """The predict method `generate` of a system (evals/base.py), called from within it: `write(self, batch, how)`."""
    system, variables = module.unbind()
    return written(generate(system, variables, batch, how), how.end_ids or tuple(system.end_ids))


def stream(
    system: Any, variables: Mapping[str, Any], batch: Batch, how: Settings
) -> Iterator[tuple[Int32[np.ndarray, "B"], Bool[np.ndarray, "B"]]]:
    """The tokens of a text one by one, as they are chosen; the same as those of `generate`.

    Yields:
      (int32[B] tokens, bool[B] which rows got one), end tokens included, until every row has ended.

    Raises:
      UserError: beam search, whose texts are known at the end alone; several texts of one row.
    """
    if how.beams > 1 or how.best > 1:
        raise UserError(f"generation: beams={how.beams}, best={how.best} cannot be streamed; set both to 1")
    how = how if how.end_ids else dataclasses.replace(how, end_ids=tuple(system.end_ids))
    start, advance = _streaming(system, how)
    cache, texts, before, seeds = start(variables, dict(batch))
    length = np.asarray(texts.prompt)
    while True:
        now, ended = np.asarray(texts.length), bool(np.asarray(texts.ended).all())
        if not (now > length).any():
            return
        yield np.asarray(last(texts)), now > length
        if ended:
            return
        length = now
        cache, texts = advance(variables, cache, texts, before, seeds)


@functools.lru_cache(maxsize=32)
def _streaming(system: Any, how: Settings) -> tuple[Any, Any]:
    """The two compiled functions of `stream`."""

    def start(variables: Mapping[str, Any], batch: Batch) -> tuple[Cache, Texts, Array, Array]:
        cache, logits, filled, texts = _start(system, variables, batch, how)
        seeds = _seeds(batch, len(logits), how)
        return cache, extend(texts, logits, seeds, how), filled - texts.length, seeds

    def advance(
        variables: Mapping[str, Any], cache: Cache, texts: Texts, before: Array, seeds: Array
    ) -> tuple[Cache, Texts]:
        logits, cache = _decode(system, variables, cache, last(texts), before + texts.length - 1)
        return cache, extend(texts, logits, seeds, how)

    return jax.jit(start), jax.jit(advance, donate_argnums=1)


BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Lengths of prompts for which a system is compiled."""


def bucketed(
    ids: Int32[np.ndarray, "B T"], valid: Bool[np.ndarray, "B T"], most: int
) -> tuple[Int32[np.ndarray, "B U"], Bool[np.ndarray, "B U"]]:
    """Prompts cut or padded to the next bucket, at most `most`: so that few lengths are compiled.

    Raises:
      UserError: a prompt longer than `most`, or an empty one.
    """
    length = valid.sum(axis=1)
    if length.max(initial=0) > most or not length.all():
        raise UserError(f"prompts of {length.min()} to {length.max()} tokens; valid: 1 to {most}")
    width = next(size for size in (*BUCKETS, most) if length.max() <= size)
    width = min(width, most)
    grow = ((0, 0), (0, max(0, width - ids.shape[1])))
    return np.pad(ids, grow)[:, :width], np.pad(valid, grow)[:, :width]
