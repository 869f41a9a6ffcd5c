"""Masked and next-token losses and matching: shares of hidden tokens, hand-written values, any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import sharding as shd
from mmjax.losses.lm import next_token, next_token_sums
from mmjax.losses.matching import Negatives, draw, matching, with_negatives
from mmjax.losses.mlm import mask_tokens, masked_lm, token_losses

RNG = np.random.default_rng(0)
V, MASK = 50, 4


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_shares_of_what_becomes_of_a_token():
    ids = jnp.full((200, 300), 7, jnp.int32)
    eligible = jnp.arange(300)[None] % 3 != 0
    eligible = jnp.broadcast_to(eligible, ids.shape)
    shown, selected = jax.jit(lambda k: mask_tokens(k, ids, eligible, vocab=V, mask_id=MASK))(jax.random.key(1))
    assert not (selected & ~eligible).any()
    assert np.mean(selected[eligible]) == pytest.approx(0.15, abs=0.01)
    np.testing.assert_array_equal(shown[~selected], 7)
    chosen = np.asarray(shown[selected])
    assert np.mean(chosen == MASK) == pytest.approx(0.8 + 0.1 / V, abs=0.02)
    assert np.mean(chosen == 7) == pytest.approx(0.1 + 0.1 / V, abs=0.02)
    assert set(chosen) == set(range(V))  # special ids, too


def test_masks_are_the_same_on_any_mesh():
    ids = jnp.asarray(RNG.integers(0, V, (16, 9)), jnp.int32)
    eligible = jnp.ones(ids.shape, bool)
    run = jax.jit(lambda i, e: mask_tokens(jax.random.key(3), i, e, vocab=V, mask_id=MASK))
    one = run(ids, eligible)
    with shd.use_mesh(mesh := shd.make_mesh({"data": 8})):
        eight = run(*jax.device_put((ids, eligible), shd.batch_sharding(mesh)))
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_array_equal(a, b)


def test_masked_loss_by_hand():
    logits, taught = RNG.normal(size=(2, 2, 3, 5)).astype(np.float32)
    ids, selected = RNG.integers(0, 5, (2, 3)), np.array([[1, 0, 1], [0, 1, 0]], bool)
    log_p, teacher = np.log(softmax(logits)), softmax(taught)
    hard = -np.take_along_axis(log_p, ids[:, :, None], -1)[:, :, 0]
    soft = -(teacher * log_p).sum(-1)
    plain = masked_lm(jnp.asarray(logits), jnp.asarray(ids), jnp.asarray(selected))
    assert float(plain.mean) == pytest.approx(hard[selected].mean(), rel=1e-5) and float(plain.count) == 3
    mixed = masked_lm(*map(jnp.asarray, (logits, ids, selected)), taught=jnp.asarray(taught), alpha=0.4)
    assert float(mixed.mean) == pytest.approx((0.6 * hard + 0.4 * soft)[selected].mean(), rel=1e-5)
    nothing = masked_lm(jnp.asarray(logits), jnp.asarray(ids), jnp.zeros((2, 3), bool))
    assert float(nothing.mean) == 0


def test_the_teacher_gets_no_gradient():
    logits, taught = jnp.asarray(RNG.normal(size=(2, 1, 2, 5)), jnp.float32)
    ids = jnp.zeros((1, 2), jnp.int32)
    grads = jax.grad(lambda a, b: token_losses(a, ids, taught=b, alpha=0.5).sum(), argnums=(0, 1))(logits, taught)
    assert np.abs(grads[0]).max() > 0 and np.abs(grads[1]).max() == 0


def test_label_smoothing_is_the_mean_over_the_vocabulary():
    logits, ids = RNG.normal(size=(1, 2, 5)).astype(np.float32), np.array([[3, 1]])
    log_p = np.log(softmax(logits))
    target = 0.9 * np.eye(5)[ids] + 0.1 / 5
    got = token_losses(jnp.asarray(logits), jnp.asarray(ids), smoothing=0.1)
    np.testing.assert_allclose(got, -(target * log_p).sum(-1), rtol=1e-5)


def test_next_token_shifts_the_labels():
    logits, ids = RNG.normal(size=(2, 4, 5)).astype(np.float32), RNG.integers(0, 5, (2, 4))
    predicted = np.array([[1, 1, 0, 1], [0, 0, 1, 0]], bool)  # the first token of a row has nothing before it
    each = -np.take_along_axis(np.log(softmax(logits[:, :-1])), ids[:, 1:, None], -1)[:, :, 0]
    wanted = (each * predicted[:, 1:]).sum(1)
    arrays = [jnp.asarray(x) for x in (logits, ids, predicted)]
    sums, counts = next_token_sums(*arrays)
    np.testing.assert_allclose(sums, wanted, rtol=1e-5)
    assert counts.tolist() == [2, 1]
    assert float(next_token(*arrays).mean) == pytest.approx(wanted.sum() / 3, rel=1e-5)


def test_pairs_of_each_row_and_their_loss():
    img, txt = np.arange(4.0)[:, None] * np.ones((1, 2)), 10 + np.arange(4)
    wrong = Negatives(*map(jnp.asarray, ([1, 0, 3, 2], [2, 3, 0, 1], [True] * 4, [True, True, True, False])))
    images, texts, fits, counts = with_negatives(jnp.asarray(img), {"ids": jnp.asarray(txt)}, wrong)
    np.testing.assert_array_equal(images[:, 0], [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3])
    np.testing.assert_array_equal(texts["ids"], [10, 10, 12, 11, 11, 13, 12, 12, 10, 13, 13, 11])
    assert fits.tolist() == [True, False, False] * 4 and counts.tolist() == [True] * 11 + [False]
    logits = RNG.normal(size=(12, 2)).astype(np.float32)
    each = -np.log(softmax(logits))[np.arange(12), np.asarray(fits, int)]
    loss = matching(jnp.asarray(logits), fits, counts)
    assert float(loss.mean) == pytest.approx(each[:11].mean(), rel=1e-5)


def test_hard_negatives_are_alike_and_random_ones_are_not():
    logits = jnp.full((8, 8), -20.0).at[jnp.arange(8), (jnp.arange(8) + 1) % 8].set(20.0)
    hard = draw(jax.random.key(0), logits, logits.T)
    np.testing.assert_array_equal(hard.txt, (np.arange(8) + 1) % 8)
    np.testing.assert_array_equal(hard.img, (np.arange(8) - 1) % 8)
    drawn = np.stack([draw(jax.random.key(seed), logits, logits.T, hard=False).txt for seed in range(40)])
    assert all(len(set(drawn[:, row])) > 4 and row not in drawn[:, row] for row in range(8))
