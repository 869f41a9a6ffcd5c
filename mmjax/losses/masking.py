"""Which words and patches masked data modelling hides.

All draws are functions of a key with static shapes, on the device.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool


def words_inside(valid: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
    """The real tokens less the first and the last of each row, its begin and end."""
    after = jnp.pad(valid[:, 1:], ((0, 0), (0, 1)))
    return valid & after & (jnp.arange(valid.shape[1]) > 0)[None]


def choose_tokens(
    key: jax.Array,
    candidates: Bool[Array, "B T"],
    rate: float,
    begins: Bool[Array, "B T"] | None = None,
) -> Bool[Array, "B T"]:
    """Of each row `round(rate · candidates)` tokens, at least one where there are any; True = chosen.

    Args:
      candidates: what may be chosen.
      rate: share.
      begins: True where a token begins a word. Words are then chosen whole, in random order while the number allows
        (a word that is longer than what is left is passed over; the first one is taken however long it is).

    Source: Devlin et al. 2019 (BERT), §3.1, and its whole-word masking; VLMo §3.2.
    """
    B, T = candidates.shape
    count = candidates.sum(1)
    wanted = jnp.where(count > 0, jnp.maximum(jnp.round(rate * count), 1), 0)[:, None]
    first = candidates if begins is None else begins & candidates
    word = jnp.clip(jnp.cumsum(first, axis=1) - 1, 0)  # [B, T], the word of each token
    member = (word[:, None, :] == jnp.arange(T)[None, :, None]) & candidates[:, None, :]  # [B, words, T]
    sizes = member.sum(2)
    score = jnp.where(sizes > 0, jax.random.uniform(key, (B, T)), 2.0)
    order = jnp.argsort(score, axis=1)

    def take(total: Array, size: Array) -> tuple[Array, Array]:
        fits = (size > 0) & ((total + size <= wanted[:, 0]) | ((total == 0) & (wanted[:, 0] > 0)))
        return total + jnp.where(fits, size, 0), fits

    ordered = jnp.take_along_axis(sizes, order, axis=1).T  # [words, B]
    _, taken = jax.lax.scan(take, jnp.zeros(B, sizes.dtype), ordered)
    chosen_words = jnp.zeros((B, T), bool).at[jnp.arange(B)[:, None], order].set(taken.T)
    return (chosen_words[:, :, None] & member).any(axis=1)


def choose_blocks(
    key: jax.Array, batch: int, side: int, count: int, *, least: int = 16, attempts: int = 40
) -> Bool[Array, "B P"]:
    """Exactly `count` of `side`² patches of each image, most of them in rectangles; True = masked.

    Rectangles are drawn one after another: an area from `least` to what is still wanted, a height-to-width ratio from
    0.3 to 1/0.3 (log-uniform), a place; one that does not fit, adds nothing or too much is passed over. What is
    missing after `attempts` is filled up with single patches.

    Source: Bao et al. 2021 (BEiT), algorithm 1; the exact count: Peng et al. 2022 (BEiT v2).
    """
    least = min(least, count)
    rows, columns = jnp.divmod(jnp.arange(side * side), side)

    def one(key: jax.Array) -> Array:
        draws, fill = jax.random.split(key)
        u = jax.random.uniform(draws, (attempts, 4))

        def add(masked: Array, u: Array) -> tuple[Array, None]:
            left = count - masked.sum()
            area = least + u[0] * jnp.maximum(left - least, 0)
            ratio = jnp.exp((2 * u[1] - 1) * np.log(1 / 0.3))
            height = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
            width = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
            top = (u[2] * (side - height + 1)).astype(jnp.int32)
            start = (u[3] * (side - width + 1)).astype(jnp.int32)
            inside = (rows >= top) & (rows < top + height) & (columns >= start) & (columns < start + width)
            new = masked | inside
            fits = (height >= 1) & (width >= 1) & (height <= side) & (width <= side) & (new.sum() <= count)
            return jnp.where(fits, new, masked), None

        masked, _ = jax.lax.scan(add, jnp.zeros(side * side, bool), u)
        # The masked ones first, then the others in random order.
        order = jnp.argsort(jnp.where(masked, -1.0, jax.random.uniform(fill, (side * side,))))
        return jnp.zeros(side * side, bool).at[order[:count]].set(True)

    return jax.vmap(one)(jax.random.split(key, batch))
