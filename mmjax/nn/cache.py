"""Keys and values that attention keeps between decoding steps, in rows of fixed length.

They are variables of the collection "cache", one `k` and `v` float[B, S, K, H] for each attention (a leading layer axis
when blocks are scanned), so that a step is pure:

    logits, kept = system.apply({"params": p}, …, Slots(None, size), mutable=["cache"])          # the prompt
    logits, kept = system.apply({"params": p, **kept}, …, Slots(filled, None), mutable=["cache"])  # a token
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

CACHE = "cache"
CONTEXT = "context"
"""Begins the names of what a cross-attention keeps: it is the same at every step, and for every beam of a row."""


@struct.dataclass
class Slots:
    """Where a call's T keys and values are kept; of the two fields one is set.

    Attributes:
      start: int32[B]: row b's go to slots start[b] … start[b] + T - 1 of a cache that is there. A context's are read.
      size: S. A new cache, filled from slot 0 on; queries see the call's own keys, under its own mask.
      window: of a cache that is there, a token sees so many slots, its own included; None: all before it.
    """

    # Any: under jax's transformations the leaves are tracers, shapes or placeholders.
    start: Any = None
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
    """A token at slot p sees the slots up to p: causal, and blind to what an earlier call left behind its row's end."""
    slot, own = jnp.arange(size)[None, None], slots.positions(length)[:, :, None]
    mask = slot <= own
    if slots.window is not None:
        mask = mask & (slot > own - slots.window)
    return mask[:, None]


def padded(x: Float[Array, "B T K H"], size: int) -> Float[Array, "B S K H"]:
    """The first slots of a new cache."""
    return jnp.pad(x, ((0, 0), (0, size - x.shape[1]), (0, 0), (0, 0)))


def written(
    kept: Float[Array, "B S K H"], x: Float[Array, "B T K H"], start: Integer[Array, "B"]
) -> Float[Array, "B S K H"]:
    """The cache with row b's new keys or values from slot start[b] on."""
    return jax.vmap(lambda row, new, at: lax.dynamic_update_slice(row, new.astype(row.dtype), (at, 0, 0)))(
        kept, x, start
    )
