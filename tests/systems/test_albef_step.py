"""ALBEF's step with teacher and queue on any mesh, and what its forms learn."""

import functools
import pathlib

import jax
import numpy as np
import optax
import pytest

from mmjax import main, systems
from mmjax.core import config as configs
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.types import total
from mmjax.plan.step import abstract_mesh, abstract_step, use_mesh
from mmjax.train.stage import Stage
from mmjax.train.state import begin
from mmjax.train.step import train_step

CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "albef"
IMG = {"image_size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2}
TXT = {"vocab": 32, "length": 8, "width": 16, "depth": 2, "heads": 2, "cross_from": 1}
TINY = {"name": "albef", "task": "pretrain", "embed_dim": 8, "queue": 32, "mask_id": 4, "img": IMG, "txt": TXT,
        "alpha_steps": 4, "dtype": "float32"}  # fmt: skip
TEACHER = ("(img|txt)/.*", "(img|txt)_proj/.*")
STAGE = {"steps": 9, "lr": 1e-2, "schedule": "constant", "eps": 1e-3, "teacher": TEACHER, "teacher_decay": 0.9}


def batches(count, system=TINY):
    rng, made = np.random.default_rng(0), []
    for _ in range(count):
        lengths = rng.integers(3, 9, 16)
        made.append({
            "image": rng.integers(0, 256, (16, 16, 16, 3), np.uint8),
            "ids": rng.integers(5, 32, (16, 8), np.int32),
            "valid": np.arange(8)[None] < lengths[:, None],
            **({"image_id": rng.integers(0, 6, 16).astype(np.int32)} if system["task"] == "retrieval" else {}),
        })  # fmt: skip
    return made


def run(mesh, system=TINY, count=3, **stage):
    """(states and metrics after each step), as numpy."""
    model, stage = systems.build(system), Stage(**{**STAGE, **stage})
    with shd.use_mesh(mesh):
        variables, shardings = main.initial_variables(model, {"system": system, "data": {}}, mesh, jax.random.key(0))
        tx, placed = main.optimizer(stage, variables, shardings, mesh)
        state = jax.jit(functools.partial(begin, stage, tx), out_shardings=placed)(variables, jax.random.key(1))
        step, found = main.compiled_step(functools.partial(train_step, model, tx, stage), placed, mesh), []
        found.append((jax.tree.map(np.array, (state.params, state.teacher, state.stats)), {}))
        for batch in batches(count, system):
            state, metrics = step(state, batch)
            found.append((jax.tree.map(np.array, (state.params, state.teacher, state.stats)), metrics))
    return found


@pytest.mark.parametrize("task", ["pretrain", pytest.param("retrieval", marks=pytest.mark.slow)])
def test_one_device_is_eight(task):
    system = {**TINY, "task": task}
    if task == "retrieval":
        system.pop("mask_id")
    one = run(shd.make_mesh({"data": 1}, jax.devices()[:1]), system)
    for shape in ({"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}):
        for (a, metrics), (b, others) in zip(one, run(shd.make_mesh(shape), system), strict=True):
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5), a, b)
            for name in metrics:
                np.testing.assert_allclose(metrics[name], others[name], rtol=2e-4, err_msg=name)


def test_queue_and_teacher_follow_the_student():
    states = run(shd.make_mesh({"data": 1}, jax.devices()[:1]))
    (_, before, queue), (params, after, filled) = states[0][0], states[1][0]
    assert filled["queue"]["past"]["pointer"] == 16 and states[2][0][2]["queue"]["past"]["pointer"] == 0  # 32 rows
    same = np.isclose(queue["queue"]["past"]["img"], filled["queue"]["past"]["img"]).all(axis=1)
    assert not same[:16].any() and same[16:].all()
    np.testing.assert_allclose(np.linalg.norm(filled["queue"]["past"]["txt"], axis=1), 1.0, rtol=1e-5)
    for path, leaf in trees.flatten(after).items():
        student = trees.flatten(params)[path]
        np.testing.assert_allclose(leaf, 0.9 * trees.flatten(before)[path] + 0.1 * student, rtol=1e-5, atol=1e-7)
    assert {path.split("/")[0] for path in trees.flatten(after)} == {"img", "txt", "img_proj", "txt_proj"}


def test_the_weight_of_the_teacher_grows_with_the_steps():
    """At step 0 α is 0: the soft targets are the teacher's not at all, whatever α is to become."""
    mesh = shd.make_mesh({"data": 1}, jax.devices()[:1])
    grown, none = run(mesh), run(mesh, {**TINY, "alpha": 0.0})
    assert float(grown[1][1]["loss"]) == pytest.approx(float(none[1][1]["loss"]), rel=1e-6)
    assert float(grown[3][1]["mlm"]) != pytest.approx(float(none[3][1]["mlm"]), rel=1e-6)


def test_without_a_teacher_there_are_no_soft_targets():
    """A model that taught itself would be told to stay as it is."""
    (batch,) = batches(1)
    found = []
    for alpha in (0.0, 0.9):
        model = systems.build({**TINY, "alpha": alpha})
        variables = shd.unbox(model.init(jax.random.key(0), batch))
        lesson = model.apply(variables, batch, train=False, method="teach")
        for taught in (None, lesson):
            terms = model.apply(variables, batch, train=False, taught=taught, method="losses")
            found.append(np.array([float(terms[name].mean) for name in ("itc", "mlm")]))
    np.testing.assert_allclose(found[2], found[0], rtol=1e-6)  # α = 0.9 without a teacher is α = 0
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)  # α = 0 with one likewise
    assert not np.isclose(found[3], found[0]).any()


def test_no_gradient_reaches_the_teacher():
    model = systems.build(TINY)
    (batch,) = batches(1)
    variables = shd.unbox(model.init(jax.random.key(0), batch))

    def loss(teacher):
        taught = model.apply({**variables, "params": teacher}, batch, train=False, method="teach")
        return total(model.apply(variables, batch, train=False, taught=taught, method="losses"))

    grads = jax.grad(loss)(variables["params"])
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_a_step_has_the_queue_its_batch_must_divide():
    with pytest.raises(UserError, match="does not divide a queue of 24 rows"):
        run(shd.make_mesh({"data": 1}, jax.devices()[:1]), {**TINY, "queue": 24}, count=1)


def test_pairs_of_one_picture_need_its_number():
    system = {**TINY, "task": "retrieval"}
    system.pop("mask_id")
    model, (batch,) = systems.build(system), batches(1)
    with pytest.raises(UserError, match="image_id"):
        jax.eval_shape(lambda b: model.init(jax.random.key(0), b), batch)


@pytest.mark.slow
def test_every_form_learns_eight_examples_by_heart():
    txt = {**TXT, "depth": 2}
    rng = np.random.default_rng(1)
    common = {"ids": rng.integers(5, 32, (8, 6), np.int32), "valid": np.ones((8, 6), bool)}
    image = rng.integers(0, 256, (8, 2, 16, 16, 3), np.uint8)
    answers = {"answer_ids": rng.integers(5, 32, (8, 2, 4), np.int32), "answer_valid": np.ones((8, 2, 4), bool),
               "answer_weight": np.array([[1.0, 0.0]] * 8, np.float32)}  # fmt: skip
    label = {"label": np.arange(8, dtype=np.int32) % 2}
    forms = {
        "vqa": ({"txt": txt, "dec": {**TXT, "depth": 1, "cross_from": 0}}, {"image": image[:, 0], **answers}),
        "ve": ({"txt": txt}, {"image": image[:, 0], **label}),
        "nlvr2": ({"txt": {**txt, "depth": 3}}, {"image": image, **label}),
    }
    for task, (parts, more) in forms.items():
        model, batch = systems.build({"name": "albef", "task": task, "img": IMG, **parts}), {**common, **more}
        params = shd.unbox(model.init(jax.random.key(0), batch))["params"]
        tx = optax.adam(1e-2)

        def loss(params, model=model, batch=batch):
            return total(model.apply({"params": params}, batch, train=False, method="losses"))

        @jax.jit
        def step(params, opt, loss=loss, tx=tx):
            value, grads = jax.value_and_grad(loss)(params)
            updates, opt = tx.update(grads, opt)
            return optax.apply_updates(params, updates), opt, value

        opt, first = tx.init(params), None
        for _ in range(60):
            params, opt, value = step(params, opt)
            first = float(value) if first is None else first
        assert float(value) < 0.3 * first, (task, first, float(value))


# Config -> parameters that train, and momentum copies of them (all but the matching head and the temperature).
FORMS = {
    "pretrain_4m": (209_937_725, 209_936_186),
    "retrieval": (209_560_835, 209_559_296),
    "vqa": (290_336_058, 290_336_058),
    "nlvr2": (259_381_250, 259_381_250),
    "ve": (209_758_467, 209_758_467),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "pretrain_4m" else pytest.mark.slow) for name in FORMS]
)
def test_the_step_of_the_papers_size_traces_for_eight_devices(name):
    config = configs.plain(configs.load(CONFIGS / f"{name}.py", ["--config.mesh.fsdp=2"]))
    mesh = abstract_mesh(config, 8)
    with use_mesh(mesh):
        step = abstract_step(config, "train", mesh)
        after, metrics = step.trace().out_info
    assert (trees.count(step.state.params), trees.count(step.state.teacher)) == FORMS[name]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), step.state)
    assert {"loss", "grad_norm"} <= set(metrics)
