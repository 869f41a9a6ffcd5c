"""The next-token loss: the shift by hand, smoothing as torch defines it, chunks equal to the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.losses.lm import next_token, next_token_sums, next_token_sums_chunked

RNG = np.random.default_rng(0)
STATES = jnp.asarray(RNG.normal(size=(3, 8, 5)), jnp.float32)
TABLE = jnp.asarray(RNG.normal(size=(11, 5)), jnp.float32)
BIAS = jnp.asarray(RNG.normal(size=11), jnp.float32)
IDS = jnp.asarray(RNG.integers(0, 11, (3, 8)), jnp.int32)
PREDICTED = jnp.asarray(RNG.random((3, 8)) < 0.6)


def test_the_shift_and_the_smoothing_by_hand() -> None:
    logits = jnp.einsum("BTD,VD->BTV", STATES, TABLE) + BIAS[None, None]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    each = np.zeros((3, 8))
    for b in range(3):
        for t in range(1, 8):  # (1-ε) onehot + ε/V, as torch's CrossEntropyLoss(label_smoothing=ε)
            each[b, t] = -0.9 * log_p[b, t - 1, IDS[b, t]] - 0.1 * log_p[b, t - 1].mean()
    sums, counts = next_token_sums(logits, IDS, PREDICTED, smoothing=0.1)
    np.testing.assert_allclose(sums, (each * PREDICTED).sum(1), rtol=1e-5)
    assert counts.tolist() == PREDICTED[:, 1:].sum(1).tolist()
    term = next_token(logits, IDS, PREDICTED, smoothing=0.1)
    np.testing.assert_allclose(term.mean, (each * PREDICTED).sum() / PREDICTED[:, 1:].sum(), rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 7, 20])
def test_chunks_equal_the_whole(chunk: int) -> None:
    def whole(states, table, bias):
        return next_token(states @ table.T + bias[None, None], IDS, PREDICTED, smoothing=0.1).mean

    def parts(states, table, bias):
        sums, counts = next_token_sums_chunked(states, table, bias, IDS, PREDICTED, chunk=chunk, smoothing=0.1)
        assert sums.shape == counts.shape == (3,)
        return sums.sum() / counts.sum()

    for one, two in zip(
        jax.tree.leaves(jax.jit(jax.value_and_grad(whole, (0, 1, 2)))(STATES, TABLE, BIAS)),
        jax.tree.leaves(jax.jit(jax.value_and_grad(parts, (0, 1, 2)))(STATES, TABLE, BIAS)),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="chunk=0"):
        next_token_sums_chunked(STATES, TABLE, None, IDS, PREDICTED, chunk=0)
