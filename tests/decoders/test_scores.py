"""What is done to scores, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.decoders.scores import forbid, keep_nucleus, keep_top_k, penalise_repetition, restrict
from mmjax.decoders.settings import Settings

INF = np.inf


def test_repetition_penalty() -> None:
    scores = jnp.array([[2.0, -2.0, 4.0, -4.0], [2.0, -2.0, 4.0, -4.0]])
    ids, valid = jnp.array([[0, 1, 0], [3, 2, 0]]), jnp.array([[True, True, True], [True, True, False]])
    expected = [[1.0, -4.0, 4.0, -4.0], [2.0, -2.0, 2.0, -8.0]]
    np.testing.assert_allclose(penalise_repetition(scores, ids, valid, 2.0), expected)


def test_top_k_and_nucleus() -> None:
    p = np.array([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.1, 0.1]])
    scores = jnp.log(jnp.asarray(p))
    kept = np.asarray(jnp.exp(keep_top_k(scores, 2)) > 0)
    assert kept.tolist()[0] == [False, True, False, True] and np.isfinite(keep_top_k(scores, 9)).all()
    for share, expected in ((0.35, [0, 1, 0, 0]), (0.65, [0, 1, 0, 1]), (0.75, [0, 1, 1, 1]), (0.95, [1, 1, 1, 1])):
        assert np.isfinite(keep_nucleus(scores, share))[0].astype(int).tolist() == expected, share
    assert np.isfinite(keep_nucleus(scores, 0.01)).sum(1).tolist() == [1, 1], "one token always stays"


def test_least_length() -> None:
    scores = jnp.zeros((3, 4))
    assert forbid(scores, (1, 3), jnp.array([True, False, False])).tolist()[0] == [0, -INF, 0, -INF]
    ids, prompt = jnp.zeros((3, 9), jnp.int32), jnp.array([2, 4, 5])
    length = jnp.array([4, 5, 8])
    how = Settings(max_length=9, min_length=5, min_new=2, end_ids=(3,))
    out = restrict(scores, ids, length, prompt, how)
    assert np.isneginf(out[:, 3]).tolist() == [True, True, False]
    free = jax.jit(restrict, static_argnums=4)(scores, ids, length, prompt, Settings(max_length=9, end_ids=(3,)))
    assert np.isfinite(free).all()
