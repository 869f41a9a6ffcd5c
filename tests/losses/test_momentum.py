"""Queues, momentum targets and hard negatives: small arrays by hand, ALBEF's own numbers, and any mesh."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import sharding as shd
from mmjax.core.errors import UserError
from mmjax.losses import queue as queues
from mmjax.losses.momentum import momentum_contrastive
from mmjax.losses.negatives import draw_negatives, negative_weights, take_rows

# Of a tiny random ALBEF (its repository's code), pre-training and fine-tuning for retrieval; queues as rows [Q, D].
ALBEF = dict(np.load(pathlib.Path(__file__).parent / "albef.npz"))
MESHES = [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]


def albef(kind):
    found = {key.removeprefix(f"{kind}/"): jnp.asarray(value) for key, value in ALBEF.items() if key.startswith(kind)}
    ids = (
        (found["image_idx"], jnp.where(found["idx_queue"] < 0, -1, found["idx_queue"]))
        if kind == "retrieval"
        else (None, None)
    )
    return found, ids


def itc(found, ids, temperature):
    features = [found[name] for name in ("image_feat", "text_feat", "image_feat_m", "text_feat_m")]
    return momentum_contrastive(
        *features, temperature, found["alpha"], img_queue=found["image_queue"], txt_queue=found["text_queue"],
        ids=ids[0], queue_ids=ids[1],
    ).mean  # fmt: skip


@pytest.mark.parametrize("kind", ["pretrain", "retrieval"])
def test_the_loss_is_albefs(kind):
    found, ids = albef(kind)
    value, slope = jax.value_and_grad(lambda t: itc(found, ids, t))(jnp.float32(found["temp"]))
    assert float(value) == pytest.approx(float(found["loss_ita"]), rel=1e-6)
    if kind == "pretrain":
        assert float(slope) == pytest.approx(float(found["grad_temp"]), rel=1e-5)


@pytest.mark.parametrize("kind", ["pretrain", "retrieval"])
def test_the_weights_of_negatives_are_albefs(kind):
    found, (ids, _) = albef(kind)
    for name, rows, columns in (("text", "image", "text"), ("image", "text", "image")):
        logits = found[f"{rows}_feat"] @ found[f"{columns}_feat_m"].T / found["temp"]
        # ALBEF's softmax is over the candidates of the batch alone, as here.
        weights = negative_weights(jnp.asarray(logits), ids)
        np.testing.assert_allclose(weights, found[f"neg_{name}_weights"], atol=1e-6)


@pytest.mark.parametrize("kind", ["pretrain", "retrieval"])
def test_the_queue_is_albefs(kind):
    found, (ids, queue_ids) = albef(kind)
    queue_ids = np.full(16, -1) if queue_ids is None else queue_ids
    before = queues.Queue(
        {"img": jnp.asarray(found["image_queue"]), "txt": jnp.asarray(found["text_queue"])},
        jnp.asarray(queue_ids, jnp.int32), jnp.int32(found["queue_ptr"][0]),
    )  # fmt: skip
    batch = {"img": found["image_feat_m"], "txt": found["text_feat_m"]}
    after = queues.enqueue(before, {k: jnp.asarray(v) for k, v in batch.items()}, ids)
    np.testing.assert_allclose(after.features["txt"], found["new_text_queue"], atol=1e-6)
    assert int(after.pointer) == found["new_queue_ptr"][0]
    if kind == "retrieval":
        np.testing.assert_array_equal(after.ids, np.where(found["new_idx_queue"] < 0, -1, found["new_idx_queue"]))
    else:
        np.testing.assert_allclose(after.features["img"], found["new_image_queue"], atol=1e-6)


def unit(key, *shape):
    x = jax.random.normal(jax.random.key(key), shape)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def test_a_queue_goes_round_and_refuses_what_does_not_fit():
    queue = queues.start(jax.random.key(0), 6, {"img": 3, "txt": 2})
    np.testing.assert_allclose(jnp.linalg.norm(queue.features["img"], axis=1), 1, rtol=1e-6)
    assert set(queue.ids.tolist()) == {queues.EMPTY}
    oldest = queue.features["txt"][4:]
    for turn in range(4):
        batch = {"img": jnp.full((2, 3), turn + 1.0), "txt": jnp.full((2, 2), -turn - 1.0)}
        if turn == 3:
            np.testing.assert_array_equal(queue.features["img"][:, 0], [1, 1, 2, 2, 3, 3])
            assert int(queue.pointer) == 0 and not (queue.features["txt"][4:] == oldest).any()
        queue = jax.jit(queues.enqueue)(queue, batch, jnp.array([turn, turn + 10]))
    np.testing.assert_array_equal(queue.features["img"][:, 0], [4, 4, 2, 2, 3, 3])
    np.testing.assert_array_equal(queue.ids, [3, 13, 1, 11, 2, 12])
    with pytest.raises(UserError, match=r"batch of 4 does not divide a queue of 6 rows; e.g. 4 would|e.g. 4"):
        queues.enqueue(queue, {"img": jnp.zeros((4, 3)), "txt": jnp.zeros((4, 2))})
    with pytest.raises(UserError, match="the batch has"):
        queues.enqueue(queue, {"img": jnp.zeros((2, 3))})
    with pytest.raises(UserError, match="at least one"):
        queues.start(jax.random.key(0), 0, {"img": 3})


def test_the_loss_by_hand():
    one, two = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    # images see texts (1, 1) each: both log 2; texts see images of logits (1, 0): the first log(1+e^-1), the second +1
    plain = momentum_contrastive(one, two, one, two, 1.0, 0.0)
    softplus = np.log(1 + np.exp(-1.0))
    assert float(plain.sum) == pytest.approx(0.5 * (2 * np.log(2) + softplus + softplus + 1), rel=1e-6)
    assert float(plain.count) == 2
    # equal ids: the target is even over both, so that the texts' halves are softplus + 1/2 each
    same = momentum_contrastive(one, two, one, two, 1.0, 0.0, ids=jnp.array([5, 5]))
    assert float(same.sum) == pytest.approx(0.5 * (2 * np.log(2) + 2 * (softplus + 0.5)), rel=1e-6)
    nobody = momentum_contrastive(one, two, one, two, 1.0, 0.0, ids=jnp.array([-1, -1]))
    assert float(nobody.sum) == pytest.approx(float(plain.sum), rel=1e-6)
    with pytest.raises(UserError, match="both queues or neither"):
        momentum_contrastive(one, two, one, two, 1.0, 0.0, img_queue=one)
    with pytest.raises(UserError, match="ids for batch and queue or none"):
        momentum_contrastive(one, two, one, two, 1.0, 0.0, img_queue=one, txt_queue=two, ids=jnp.array([1, 2]))


def test_only_the_online_features_have_gradients():
    x = unit(1, 4, 8, 6)
    grads = jax.grad(lambda x: momentum_contrastive(*x, 0.1, 0.4, img_queue=x[0], txt_queue=x[1]).mean)(x)
    online = jax.grad(
        lambda a: momentum_contrastive(*a, x[2], x[3], 0.1, 0.4, img_queue=x[0], txt_queue=x[1]).mean
    )(x[:2])  # fmt: skip
    assert not grads[2:].any()
    np.testing.assert_allclose(grads[:2], online, rtol=1e-6)


def test_negatives_are_drawn_as_their_weights_say():
    logits = jnp.log(
        jnp.array([[9.0, 1.0, 3.0, 4.0], [2.0, 5.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 7.0]])
    )
    ids = jnp.array([0, 1, 2, 2])
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn, possible = jax.vmap(lambda key: draw_negatives(key, logits, ids))(keys)
    shares = np.stack([np.bincount(column, minlength=4) for column in np.asarray(drawn).T]) / len(keys)
    weights = np.asarray(negative_weights(logits, ids))
    np.testing.assert_array_equal(weights == 0, np.array(ids)[:, None] == np.array(ids)[None, :])
    np.testing.assert_allclose(shares, weights / weights.sum(1, keepdims=True), atol=0.03)
    assert possible.all()
    floored = np.asarray(negative_weights(logits, ids, floor=0.5))
    drawn, _ = jax.vmap(lambda key: draw_negatives(key, logits, ids, 0.5))(keys)
    shares = np.stack([np.bincount(column, minlength=4) for column in np.asarray(drawn).T]) / len(keys)
    np.testing.assert_allclose(shares, floored / floored.sum(1, keepdims=True), atol=0.03)


def test_hopeless_rows_of_negatives():
    """All mass on the own pair: weights vanish, the draw goes on; all pairs of one id: there is nothing to draw."""
    logits = jnp.eye(4) * 1000.0 + jnp.array([[0.0, 0.0, 50.0, 0.0]])
    assert not negative_weights(logits)[0].any()
    drawn, possible = draw_negatives(jax.random.key(0), logits)
    assert drawn.tolist()[:2] == [2, 2] and possible.all()
    drawn, possible = draw_negatives(jax.random.key(0), logits, jnp.zeros(4, jnp.int32))
    assert drawn.tolist() == [0, 1, 2, 3] and not possible.any()


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_any_mesh_gives_the_same(shape):
    """The negatives, the queue and the loss are of the whole batch, not of a device's part of it."""
    img, txt, img_m, txt_m = unit(2, 4, 16, 6)
    ids = jnp.arange(16) // 3
    start = queues.start(jax.random.key(3), 32, {"img": 6, "txt": 6}).replace(pointer=jnp.int32(16))
    tokens = jax.random.normal(jax.random.key(4), (16, 3, 5))

    def parts(img, txt, img_m, txt_m, ids, tokens, queue):
        term = momentum_contrastive(
            img, txt, img_m, txt_m, 0.1, 0.4, img_queue=queue.features["img"], txt_queue=queue.features["txt"],
            ids=ids, queue_ids=queue.ids,
        )  # fmt: skip
        drawn, possible = draw_negatives(jax.random.key(5), img @ txt.T / 0.1, ids)
        negative = take_rows({"a": tokens, "b": ids}, drawn)
        value = term.mean + jnp.sum(negative["a"] * jnp.arange(16.0)[:, None, None])
        return value, (drawn, possible, negative, queues.enqueue(queue, {"img": img_m, "txt": txt_m}, ids))

    step = jax.jit(jax.value_and_grad(parts, argnums=(0, 1, 5), has_aux=True))
    arrays = (img, txt, img_m, txt_m, ids, tokens)
    (value, aux), grads = step(*arrays, start)
    np.testing.assert_array_equal(aux[2]["b"], ids[aux[0]])
    with shd.use_mesh(shd.make_mesh(shape)) as mesh:
        spread = jax.device_put(arrays, shd.batch_sharding(mesh))
        (value8, aux8), grads8 = jax.jit(step.__wrapped__)(*spread, start)
        part = aux8[3].features["img"].sharding.shard_shape((32, 6))
    assert float(value8) == pytest.approx(float(value), rel=1e-6)
    for one, eight in zip(jax.tree.leaves(aux[:3]), jax.tree.leaves(aux8[:3]), strict=True):
        np.testing.assert_array_equal(one, eight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), (aux[3], grads), (aux8[3], grads8))
    assert part == (32 // shape.get("tensor", 1), 6)


def test_rows_that_do_not_divide_are_refused():
    with (
        shd.use_mesh(shd.make_mesh({"data": 8})),
        pytest.raises(UserError, match=r"rows \[12, 16\] do not divide over 8"),
    ):
        take_rows(jnp.zeros((16, 2)), jnp.zeros(12, jnp.int32))
