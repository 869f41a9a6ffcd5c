"""Attention masks: bool[B or 1, 1, T, S], True where query t may attend to key s."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Bool, Integer

Mask = Bool[Array, "#B #N #T S"]


def causal(length: int, window: int | None = None) -> Bool[Array, "1 1 T T"]:
    """Query t sees keys s <= t; with a window W only t - W < s <= t (Mistral's sliding window).

    Example:
      >>> causal(3)[0, 0].astype(int).tolist()
      [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    t, s = jnp.arange(length)[:, None], jnp.arange(length)[None, :]
    mask = s <= t
    if window is not None:
        mask = mask & (s > t - window)
    return mask[None, None]


def padding(valid: Bool[Array, "B S"]) -> Bool[Array, "B 1 1 S"]:
    """No query sees a padded key; `valid` is True for real tokens."""
    return valid[:, None, None, :]


def blocks(mask_ar: Bool[Array, "B S"] | Integer[Array, "B S"]) -> Bool[Array, "B 1 S S"]:
    """Blocks of tokens that see each other and all earlier blocks; a 1 in `mask_ar` opens a new block.

        0 0 0 0   one block: bidirectional          1 1 1 1   every token its own: causal
        0 0 1 1   a bidirectional prefix, then causal   0 0 1 0   two blocks, the first blind to the second

    Example:
      >>> blocks(jnp.array([[0, 0, 1]]))[0, 0].astype(int).tolist()
      [[1, 1, 0], [1, 1, 0], [1, 1, 1]]

    Source: the convention of PaliGemma (Beyer et al. 2024).
    """
    block = jnp.cumsum(mask_ar.astype(jnp.int32), axis=1)
    return block[:, None, None, :] <= block[:, None, :, None]


def segments(number: Integer[Array, "B S"]) -> Bool[Array, "B 1 S S"]:
    """Tokens see those of their own sample alone, where several samples stand in one row; `number` counts them.

    Example:
      >>> segments(jnp.array([[0, 0, 1]]))[0, 0].astype(int).tolist()
      [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    return (number[:, :, None] == number[:, None, :])[:, None]


def combine(*masks: Mask | None) -> Mask | None:
    """The conjunction of masks that broadcast against each other; None means no restriction."""
    given = [m for m in masks if m is not None]
    return functools.reduce(jnp.logical_and, given) if given else None
