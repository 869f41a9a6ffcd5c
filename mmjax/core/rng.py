"""Named random streams: every use of randomness is a pure function of (seed, name, step)."""

import zlib

import jax

Key = jax.Array


def stream(key: Key, name: str, step: jax.Array | int | None = None) -> Key:
    """The key of a named stream, folded with a step if given.

    Streams of different names are independent, and adding one leaves the others as they were.
    """
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return key if step is None else jax.random.fold_in(key, step)


def streams(key: Key, names: tuple[str, ...], step: jax.Array | int | None = None) -> dict[str, Key]:
    """A dictionary of named keys, as Linen's `rngs` wants it."""
    return {name: stream(key, name, step) for name in names}
