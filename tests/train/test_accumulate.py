"""Gradient accumulation with cached features: the same gradients as the whole batch at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.core.errors import UserError
from mmjax.losses.contrastive import softmax_contrastive
from mmjax.train.accumulate import cached_value_and_grad, join_rows, split_rows

BATCH = 32


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def params():
    keys = jax.random.split(jax.random.key(0), 4)
    draw = lambda key, *shape: jax.random.normal(key, shape) / shape[0] ** 0.5  # noqa: E731
    return {
        "img": {"fc1": draw(keys[0], 10, 24), "fc2": draw(keys[1], 24, 6)},
        "txt": {"fc1": draw(keys[2], 8, 24), "fc2": draw(keys[3], 24, 6)},
        "log_scale": jnp.float32(1.5),
    }


@pytest.fixture(scope="module")
def batch():
    img, txt = (jax.random.normal(jax.random.key(i), (BATCH, d)) for i, d in ((7, 10), (8, 8)))
    return {"image": img, "text": txt, "index": jnp.arange(BATCH)}


def features(params, batch, rng):
    def tower(p, x):
        return unit(jnp.tanh(x @ p["fc1"]) @ p["fc2"])

    return {"img": tower(params["img"], batch["image"]), "txt": tower(params["txt"], batch["text"])}


def objective(params, features, **form):
    term = softmax_contrastive(features["img"], features["txt"], jnp.exp(params["log_scale"]), **form)
    return term.mean, {"count": term.count, "img": features["img"]}


def whole(params, batch):
    return jax.value_and_grad(lambda p: objective(p, features(p, batch, None)), has_aux=True)(params)


def chunks_of(batch, chunks):
    parts = split_rows(batch, chunks)
    return [jax.tree.map(lambda x, c=c: x[c], parts) for c in range(chunks)]


def assert_close(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


@pytest.mark.parametrize("chunks", [1, 4, BATCH])
def test_equals_the_whole_batch(params, batch, chunks):
    """Value, aux (features in the order of the batch) and gradients, the temperature's included."""
    got = jax.jit(cached_value_and_grad(features, objective, chunks))(params, batch, jax.random.key(1))
    want = jax.jit(whole)(params, batch)
    assert_close(got, want)
    assert abs(want[1]["log_scale"]) > 1e-3


def test_differs_from_the_average_over_chunks(params, batch):
    """What plain accumulation would do: a loss with fewer negatives."""
    evaluate = jax.jit(lambda b: whole(params, b)[0][0])
    value, parts = evaluate(batch), [evaluate(chunk) for chunk in chunks_of(batch, 4)]
    assert abs(float(value) - float(np.mean(parts))) > 0.5


@pytest.mark.parametrize("form", [{"form": "plain"}, {"form": "ring"}])
def test_sharded_batch_stays_where_it_is(params, batch, mesh8, form):
    """On eight devices every chunk is sharded like the batch, and no device receives another's rows."""
    passes, seen = [], []

    def watched(params, chunk, rng):
        if jax.sharding.get_abstract_mesh().manual_axes:  # the second pass, written for one device
            seen.append(chunk["image"].shape)
        else:
            jax.debug.inspect_array_sharding(chunk["image"], callback=lambda s: passes.append(s.shard_shape((16, 10))))
        return features(params, chunk, rng)

    want = jax.jit(whole)(params, batch)
    with jax.set_mesh(mesh8):
        params = jax.device_put(params, NamedSharding(mesh8, PartitionSpec()))
        batch = jax.device_put(batch, NamedSharding(mesh8, PartitionSpec("data")))
        function = jax.jit(
            cached_value_and_grad(watched, lambda p, f: objective(p, f, **form), 2),
            out_shardings=NamedSharding(mesh8, PartitionSpec()),
        )
        compiled = function.lower(params, batch, jax.random.key(1)).compile()
        assert_close(function(params, batch, jax.random.key(1)), want)
    assert set(passes) == set(seen) == {(2, 10)}
    assert "all-to-all" not in compiled.as_text()


def test_a_frozen_tower_on_a_mesh(params, batch, mesh8):
    """It is no parameter, but the features of the second pass, too, read it."""

    def gradients(trained, frozen, batch, chunks):
        given = lambda params, chunk, rng: features(params | {"img": frozen}, chunk, rng)  # noqa: E731
        return cached_value_and_grad(given, objective, chunks)(trained, batch, jax.random.key(1))

    trained, frozen = {key: params[key] for key in ("txt", "log_scale")}, params["img"]
    want = jax.jit(gradients, static_argnums=3)(trained, frozen, batch, 1)
    with jax.set_mesh(mesh8):
        trained, frozen = jax.device_put((trained, frozen), NamedSharding(mesh8, PartitionSpec()))
        batch = jax.device_put(batch, NamedSharding(mesh8, PartitionSpec("data")))
        assert_close(jax.jit(gradients, static_argnums=3)(trained, frozen, batch, 2), want)


def test_dropout_is_the_same_in_both_passes(params, batch):
    """Gradients are those of the value: the masks of pass two are the masks of pass one."""

    def dropped(params, chunk, rng):
        keep = jax.random.bernoulli(rng, 0.7, chunk["image"].shape)
        return features(params, chunk | {"image": jnp.where(keep, chunk["image"] / 0.7, 0.0)}, None)

    rng, chunks = jax.random.key(3), 4
    cached = jax.jit(cached_value_and_grad(dropped, objective, chunks))
    got = cached(params, batch, rng)

    def at_once(params):
        parts = chunks_of(batch, chunks)
        each = [dropped(params, chunk, jax.random.fold_in(rng, c)) for c, chunk in enumerate(parts)]
        return objective(params, join_rows(jax.tree.map(lambda *x: jnp.stack(x), *each)))

    assert_close(got, jax.jit(jax.value_and_grad(at_once, has_aux=True))(params))
    other = cached(params, batch, jax.random.key(4))
    assert abs(float(other[0][0] - got[0][0])) > 1e-4


def test_integer_features_pass_through(params, batch):
    """Labels may ride along; they take no gradient."""

    def labelled(params, chunk, rng):
        return features(params, chunk, rng) | {"index": chunk["index"]}

    def weighted(params, features):
        value, _ = objective(params, features)
        return value * features["index"].max(), features["index"]

    (value, index), grads = jax.jit(cached_value_and_grad(labelled, weighted, 4))(params, batch, jax.random.key(0))
    (plain, _), plain_grads = jax.jit(whole)(params, batch)
    np.testing.assert_array_equal(index, np.arange(BATCH))
    np.testing.assert_allclose(value, (BATCH - 1) * plain, rtol=1e-5)
    assert_close(grads, jax.tree.map(lambda g: (BATCH - 1) * g, plain_grads))


def test_activations_of_one_chunk_only(batch):
    """A tower whose activations dominate: temporaries shrink nearly with the number of chunks."""
    wide = {"fc1": jnp.zeros((16, 4096)), "fc2": jnp.zeros((4096, 4))}
    images = {"image": jnp.zeros((2048, 16))}

    def tower(params, chunk, rng):
        return jnp.tanh(chunk["image"] @ params["fc1"]) @ params["fc2"]

    def temporaries(chunks):
        function = jax.jit(cached_value_and_grad(tower, lambda p, f: (jnp.sum(f**2), None), chunks))
        return function.lower(wide, images, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(16) < temporaries(1) / 8


def test_rows_come_back_in_order():
    rows = {"a": jnp.arange(12), "b": jnp.arange(24).reshape(12, 2)}
    parts = split_rows(rows, 3)
    np.testing.assert_array_equal(parts["a"], [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
    jax.tree.map(np.testing.assert_array_equal, join_rows(parts), rows)


def test_mistakes_are_named(params, batch):
    with pytest.raises(UserError, match="chunks=0"):
        cached_value_and_grad(features, objective, 0)
    with pytest.raises(UserError, match="batch of 32 does not divide into 5 chunks"):
        cached_value_and_grad(features, objective, 5)(params, batch, jax.random.key(0))
    with pytest.raises(UserError, match="leaves of the batch"):
        cached_value_and_grad(features, objective, 2)(params, batch | {"text": jnp.ones((8, 8))}, jax.random.key(0))
    with pytest.raises(UserError, match="one row per example"):
        pooled = lambda p, chunk, rng: chunk["image"].mean(axis=0)  # noqa: E731
        cached_value_and_grad(pooled, objective, 2)(params, batch, jax.random.key(0))
