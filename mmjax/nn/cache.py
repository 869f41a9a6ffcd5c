"""Keys and values that attention keeps between decoding steps, in rows of fixed length.

They are variables of the collection "cache", one `k` and `v` float[B, S, K, H] for each attention (a leading layer axis
when blocks are scanned), so that a step is pure:

    logits, kept = system.apply({"params": p}, …, Slots(size=size), mutable=["cache"])          # the prompt
    logits, kept = system.apply({"params": p, **kept}, …, Slots(filled), mutable=["cache"])  # a token
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.errors import UserError

CACHE = "cache"
CONTEXT = "context"
"""Begins the names of what a cross-attention keeps: it is the same at every step, and for every beam of a row."""


@struct.dataclass
class Slots:
    """Where a call's T keys and values are kept; of `start` and `size` one is set.

    The token at place p of its row is kept in slot p mod S: a cache that is as long as the window holds all that its
    tokens see, however long the rows grow.

    Attributes:
      start: int32[B]: row b's tokens have the places start[b] … start[b] + T - 1; the cache is there. A context's is
        read.
      size: S. A new cache for tokens from place 0 on; queries see the call's own keys, under its own mask.
      length: int32[B], with `size`: tokens of each row, padding behind them; needed where S is below T.
      window: of a cache that is there, a token sees so many, itself included; None: all before it.
    """

    # Any: under jax's transformations the leaves are tracers, shapes or placeholders.
    start: Any = None
    length: Any = None
    size: int | None = struct.field(pytree_node=False, default=None)
    window: int | None = struct.field(pytree_node=False, default=None)

    @property
    def reads(self) -> bool:
        """Whether the call attends to what is kept."""
        return self.start is not None

    def positions(self, length: int) -> Integer[Array, "#B T"]:
        """The places of the call's T tokens in their rows."""
        steps = jnp.arange(length, dtype=jnp.int32)[None]
        return steps if self.start is None else self.start[:, None] + steps


def seen(slots: Slots, length: int, size: int) -> Bool[Array, "B 1 T S"]:
    """A token at place p sees the places up to p: causal, and blind to what an earlier call left in other slots.

    Raises:
      UserError: several tokens at once, for a cache that holds no more than the window: the first need what the last
        have replaced.
    """
    if slots.window == size and length > 1:
        raise UserError(f"a cache of the window's {size} tokens takes one token at a time, not {length}")
    own = slots.positions(length)[:, :, None]
    held = own[:, -1:] - (own[:, -1:] - jnp.arange(size)[None, None]) % size  # the place that a slot holds now
    mask = (held >= 0) & (held <= own)
    if slots.window is not None:
        mask = mask & (held > own - slots.window)
    return mask[:, None]


def begun(x: Float[Array, "B T K H"], slots: Slots) -> Float[Array, "B S K H"]:
    """A new cache: of each row its last tokens, as many as there are slots.

    Raises:
      UserError: they do not all fit, and nothing says where rows end.
    """
    T, size = x.shape[1], slots.size
    assert size is not None
    if size >= T:
        return jnp.pad(x, ((0, 0), (0, size - T), (0, 0), (0, 0)))
    if slots.length is None:
        raise UserError(f"a cache of {size} tokens for rows of {T}: which are the last ones is not said")
    last = slots.length[:, None] - 1
    held = jnp.clip(last - (last - jnp.arange(size)[None]) % size, 0, T - 1)
    return jnp.take_along_axis(x, held[:, :, None, None], axis=1)


def written(
    kept: Float[Array, "B S K H"], x: Float[Array, "B T K H"], start: Integer[Array, "B"]
) -> Float[Array, "B S K H"]:
    """The cache with row b's new keys or values, from place start[b] on."""
    return jax.vmap(lambda row, new, at: lax.dynamic_update_slice(row, new.astype(row.dtype), (at, 0, 0)))(
        kept, x, start % kept.shape[1]
    )
