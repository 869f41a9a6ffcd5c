import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.core.interpolate import bicubic_resize
from mmjax.nn import position


def test_sincos_by_hand():
    table = position.sincos_1d(3, 4)
    np.testing.assert_allclose(table[2], [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)], rtol=1e-6)
    grid = position.sincos_2d(2, 3, 8)  # row-major: row 4 is y = 1, x = 1
    np.testing.assert_allclose(grid[5], [*position.sincos_1d(3, 4)[2], *position.sincos_1d(3, 4)[1]], rtol=1e-6)
    with pytest.raises(UserError, match="even"):
        position.sincos_1d(2, 3)


def test_rope_rotates_half_split_pairs():
    x = jnp.array([[[[1.0, 2.0, 3.0, 4.0]]]])  # pairs (1, 3) and (2, 4)
    out = position.rotate(x, position.rope(jnp.array([[5]]), 4, theta=100.0))[0, 0, 0]
    a, b = 5.0, 0.5  # 5 · 100^0, 5 · 100^(-1/2)
    expected = [
        np.cos(a) - 3 * np.sin(a),
        2 * np.cos(b) - 4 * np.sin(b),
        3 * np.cos(a) + np.sin(a),
        4 * np.cos(b) + 2 * np.sin(b),
    ]
    np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_rope_scores_depend_on_the_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 2, 8))
    score = lambda i, j: jnp.sum(  # noqa: E731
        position.rotate(q, position.rope(jnp.array([[i]]), 8)) * position.rotate(k, position.rope(jnp.array([[j]]), 8))
    )
    np.testing.assert_allclose(score(3, 1), score(13, 11), rtol=1e-4)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3


def test_two_sections_rotate_the_halves_by_their_own_positions():
    x = jax.random.normal(jax.random.key(0), (1, 2, 3, 8))
    positions = jnp.array([[[7, 0], [2, 9]]])
    out = position.rotate(x, position.rope(positions, 8))
    for half in (0, 1):
        part = slice(4 * half, 4 * half + 4)
        alone = position.rotate(x[..., part], position.rope(positions[..., half], 4))
        np.testing.assert_allclose(out[..., part], alone, rtol=1e-6)
    with pytest.raises(UserError, match="even width"):
        position.rope(positions, 6)


def test_t5_buckets_by_hand():
    keys, zero = jnp.arange(-200, 201), jnp.array([0])
    both = dict(zip(range(-200, 201), position.relative_buckets(zero, keys)[0].tolist(), strict=True))
    # 16 per sign, 8 exact; key after query: +16; 8 + ⌊8 ln(d/8) / ln(16)⌋ beyond, at most 15
    assert [both[d] for d in (0, -1, -7, -8, -11, -12, -16, -64, -127, -128, -200)] == [
        0,
        1,
        7,
        8,
        8,
        9,
        10,
        14,
        15,
        15,
        15,
    ]
    assert [both[d] for d in (1, 7, 8, 12, 200)] == [17, 23, 24, 25, 31]
    past = position.relative_buckets(zero, keys, bidirectional=False)[0]
    past = dict(zip(range(-200, 201), past.tolist(), strict=True))
    assert [past[d] for d in (5, 1, 0, -1, -15, -16, -32, -200)] == [0, 0, 0, 1, 15, 16, 21, 31]


def test_beit_index_by_hand():
    index = position.relative_index_2d(2, 2)  # 9 offsets, rows 9-11 for the class token; patches 00 01 10 11
    assert index.tolist() == [
        [11, 9, 9, 9, 9],
        [10, 4, 3, 1, 0],
        [10, 5, 4, 2, 1],
        [10, 7, 6, 4, 3],
        [10, 8, 7, 5, 4],
    ]
    assert position.relative_index_2d(2, 3, cls=False).max() == 3 * 5 - 1
    assert position.relative_index_2d(14, 14).max() + 1 == 732  # BEiT's 27² + 3


def test_relative_bias_reads_the_table():
    module = position.RelativeBias(rows=12, heads=3)
    index = position.relative_index_2d(2, 2)
    params = module.init(jax.random.key(0), index)
    bias = module.apply(params, index)
    assert bias.shape == (1, 3, 5, 5)
    assert bias[0, 2, 1, 3] == params["params"]["table"][1, 2]


def test_resized_positions_keep_the_class_row():
    pos = np.random.default_rng(0).normal(size=(17, 3)).astype(np.float32)
    out = position.resize_positions(pos, (6, 5))
    assert out.shape == (31, 3)
    np.testing.assert_array_equal(out[0], pos[0])
    np.testing.assert_allclose(out[1:], bicubic_resize(pos[1:].reshape(4, 4, 3), (6, 5)).reshape(30, 3))
    assert position.resize_positions(pos, (4, 4)) is pos
    with pytest.raises(UserError, match="no square"):
        position.resize_positions(pos, (4, 4), extra=0)
