"""Text assignment: what is drawn, what is computed, and on any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import main, systems
from mmjax.commands import models
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.types import total
from mmjax.systems.albef_assign import FIRST, NEITHER, SECOND, Assignment, assign
from mmjax.train.stage import Stage
from mmjax.train.state import begin
from mmjax.train.step import train_step

IMG = {"image_size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2}
TXT = {"vocab": 32, "length": 8, "width": 16, "depth": 3, "heads": 2, "cross_from": 1}
SYSTEM = {"name": "albef", "task": "assign", "embed_dim": 8, "img": IMG, "txt": TXT, "dtype": "float32"}


def batch_of(rows: int) -> dict:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (rows, 16, 16, 3), np.uint8),
        "ids": rng.integers(5, 32, (rows, 8), np.int32),
        "valid": np.arange(8)[None] < rng.integers(3, 9, rows)[:, None],
    }


def test_labels_and_wrong_images_are_drawn_as_the_paper_does():
    logits = jnp.log(jnp.array([[9.0, 1, 2, 5], [1, 9, 4, 1], [2, 4, 9, 0.5], [5, 1, 0.5, 9]]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.jit(jax.vmap(lambda key: assign(key, logits)))(keys)
    first, second, label, counts = (np.asarray(x) for x in drawn)
    assert counts.all()
    np.testing.assert_allclose([(label == kind).mean() for kind in range(3)], 1 / 3, atol=0.01)
    weights = np.exp(np.asarray(logits)) * (1 - np.eye(4))
    weights /= weights.sum(axis=1, keepdims=True)
    for row in range(4):
        f, s, kind = first[:, row], second[:, row], label[:, row]
        assert (f[kind == FIRST] == row).all() and (s[kind == SECOND] == row).all()
        for wrong in (s[kind == FIRST], f[kind == SECOND]):
            np.testing.assert_allclose(np.bincount(wrong, minlength=4) / len(wrong), weights[row], atol=0.03)
        both = np.zeros((4, 4))
        np.add.at(both, (f[kind == NEITHER], s[kind == NEITHER]), 1)
        # The second is drawn from what the first leaves.
        after = weights[row][None, :] * (1 - np.eye(4)) / np.maximum(1 - weights[row], 1e-9)[:, None]
        np.testing.assert_allclose(both / both.sum(), weights[row][:, None] * after, atol=0.03)


def test_pictures_of_one_number_are_not_wrong_and_none_may_be_left():
    ids = jnp.array([7, 7, 7, 8])
    for seed in range(20):
        pair = assign(jax.random.key(seed), jnp.zeros((4, 4)), ids)
        for row in range(3):  # the only other picture is 3: there are no two of them
            wrong = {FIRST: pair.second, SECOND: pair.first}.get(int(pair.label[row]))
            assert bool(pair.counts[row]) == (wrong is not None) and (wrong is None or int(wrong[row]) == 3)
        alone = assign(jax.random.key(seed), jnp.zeros((1, 1)))
        assert not alone.counts.any() and alone.first[0] == alone.second[0] == 0


def test_it_computes_what_the_nlvr2_model_does_and_leaves_the_features_alone():
    model, batch = systems.build(SYSTEM), batch_of(4)
    params = shd.unbox(jax.jit(model.init)(jax.random.key(0), batch))["params"]
    pair = Assignment(*(jnp.array(x) for x in ([0, 2, 3, 1], [1, 1, 0, 3], [0, 1, 2, 1], [True, True, True, False])))

    pixels = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    nlvr2 = systems.build({k: v for k, v in {**SYSTEM, "task": "nlvr2", **pixels}.items() if k != "embed_dim"})
    two = np.stack([batch["image"][np.asarray(pair.first)], batch["image"][np.asarray(pair.second)]], axis=1)

    @jax.jit
    def both(params):
        image = jnp.asarray(batch["image"], jnp.float32) / 255
        tokens = model.apply({"params": params}, image, method=lambda m, x: m.img(x).tokens)
        ours = model.apply({"params": params}, tokens, batch, pair, method="assignment")
        return ours, nlvr2.apply({"params": params}, {**batch, "image": two}, method="states")

    (term, logits), states = both(params)
    head = params["assign_head"]
    expected = np.asarray(states)[:, 0] @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    each = -np.asarray(jax.nn.log_softmax(expected))[np.arange(4), np.asarray(pair.label)]
    assert float(term.sum) == pytest.approx(float(each[:3].sum()), rel=1e-5) and float(term.count) == 3
    grads = jax.jit(jax.grad(lambda p: total(model.apply({"params": p}, batch, train=False, method="losses"))))(params)
    used = {path for path, leaf in trees.flatten(grads).items() if np.any(leaf)}
    assert not any(path.startswith("img_proj") for path in used)
    assert {"img/cls", "txt/pos", "twin/k_0/kernel", "twin/block_1/cross/q/kernel", "assign_head/kernel"} <= used


@pytest.mark.slow
def test_one_device_is_eight():
    stage = Stage(steps=9, lr=1e-2, schedule="constant", eps=1e-3)
    model, found = systems.build(SYSTEM), []
    for mesh in (shd.make_mesh({"data": 1}, jax.devices()[:1]), shd.make_mesh({"data": 4, "fsdp": 2})):
        with shd.use_mesh(mesh):
            variables, shardings = main.initial_variables(
                model, {"system": SYSTEM, "data": {}}, mesh, jax.random.key(0)
            )
            tx, placed = main.optimizer(stage, variables, shardings, mesh)
            state = jax.jit(functools.partial(begin, stage, tx), out_shardings=placed)(variables, jax.random.key(1))
            step = main.compiled_step(functools.partial(train_step, model, tx, stage), placed, mesh)
            state, metrics = step(state, batch_of(16))
            found.append((jax.tree.map(np.array, state.params), {k: float(v) for k, v in metrics.items()}))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5), found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1], rel=2e-4) and "assign" in found[0][1]


def test_parameters_of_the_published_form():
    """NLVR2's 259,381,250 at 384 pixels, less its head and 320 positions, and two linear maps."""
    shapes = models.shapes(models.spelled_out({"name": "albef", "size": "assign_256"}))
    head, positions = 768 * 768 + 768 + 2 * 768 + 2, (24**2 - 16**2) * 768
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == (
        259_381_250 - head - positions + (768 * 256 + 256) + (768 * 3 + 3)
    )
