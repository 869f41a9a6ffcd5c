import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses import mlm
from mmjax.losses.masking import choose_blocks, choose_tokens, words_inside

KEYS = jax.random.split(jax.random.key(0), 50)
VALID = jnp.arange(9)[None] < jnp.array([9, 6, 2, 1])[:, None]


def test_begin_and_end_are_no_candidates():
    inside = words_inside(VALID)
    assert inside.astype(int).tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0, 0, 0, 0], [0] * 9, [0] * 9
    ]  # fmt: skip


@pytest.mark.parametrize("rate", [0.15, 0.5, 0.9])
def test_single_tokens_are_chosen_exactly_and_evenly(rate):
    inside = words_inside(VALID)
    chosen = jax.vmap(lambda key: choose_tokens(key, inside, rate))(KEYS)
    assert not (chosen & ~inside[None]).any()
    assert chosen.sum(2)[0].tolist() == [max(1, round(rate * 7)), max(1, round(rate * 4)), 0, 0]
    assert (chosen.sum(2) == chosen.sum(2)[:1]).all()
    assert chosen.any(0)[0].sum() == 7 and chosen.any(0)[1].sum() == 4


def test_words_are_chosen_whole():
    """Words of 1, 3, 1 and 2 tokens."""
    begins = jnp.array([[1, 1, 1, 0, 0, 1, 1, 0, 1]], bool)
    inside = words_inside(jnp.ones((1, 9), bool))
    words = [{1}, {2, 3, 4}, {5}, {6, 7}]
    seen = set()
    for key in KEYS:
        chosen = set(np.flatnonzero(choose_tokens(key, inside, 0.45, begins)[0]).tolist())
        taken = [word for word in words if word <= chosen]
        assert set().union(*taken) == chosen and 2 <= len(chosen) <= 3  # of round(0.45 * 7) = 3
        seen.add(frozenset(chosen))
    assert frozenset({2, 3, 4}) in seen and len(seen) > 3


def test_hiding_replaces_80_10_10_and_leaves_the_rest():
    ids = jnp.full((400, 50), 7)
    selected = jnp.arange(50)[None] < jnp.full((400, 1), 25)
    shown = mlm.hide_tokens(KEYS[0], ids, selected, vocab=1000, mask_id=4, least=10)
    assert (shown[:, 25:] == 7).all()
    share = lambda mask: float(mask.mean())  # noqa: E731
    assert share(shown[:, :25] == 4) == pytest.approx(0.8, abs=0.02)
    assert share(shown[:, :25] == 7) == pytest.approx(0.1, abs=0.02)
    assert share(shown[:, :25] >= 10) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(("side", "count", "least"), [(14, 78, 16), (4, 6, 2), (4, 16, 16), (3, 1, 16)])
def test_blocks_have_the_exact_count_and_hang_together(side, count, least):
    masked = jax.jit(lambda key: choose_blocks(key, 300, side, count, least=least))(KEYS[1])
    assert masked.shape == (300, side * side) and (masked.sum(1) == count).all()
    if side == 14:
        assert not (masked[0] == masked[1]).all()
        grid = np.pad(np.asarray(masked).reshape(300, side, side), ((0, 0), (1, 1), (1, 1)))
        beside = sum(np.roll(grid, shift, axis) for axis in (1, 2) for shift in (1, -1))[:, 1:-1, 1:-1]
        # A random patch of 78 in 196 has 1.5 masked neighbours; one inside a rectangle 3 to 4.
        assert beside[grid[:, 1:-1, 1:-1]].mean() > 2.6
        assert masked.mean(0).min() > 0  # nowhere never
