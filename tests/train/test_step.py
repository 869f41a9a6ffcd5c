"""The training step as `mmjax train` compiles it: what moves, what stays, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax import systems
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.types import total
from mmjax.train.optim import make_optimizer
from mmjax.train.stage import Stage
from mmjax.train.step import train_step

# Adam divides by the gradient's size: where a gradient is rounding noise, its update would be noise of size lr.
STAGE = {"steps": 9, "lr": 1e-2, "schedule": "constant", "eps": 1e-3}


def copied(tree):
    """As numpy: the step takes the arrays' memory."""
    return {path: np.array(leaf) for path, leaf in trees.flatten(tree).items()}


def steps(run, batches):
    state, metrics = run.state, []
    for batch in batches:
        state, values = run.step(state, batch)
        metrics.append({name: float(value) for name, value in values.items()})
    return state, metrics


def differences(one, two):
    return {path for path in one if not np.array_equal(one[path], two[path])}


def test_metrics_and_first_update_are_those_of_the_plain_gradient(tiny, make_batch, prepare, one_device):
    batch, system = make_batch(tiny), systems.build(tiny)
    stage = Stage(**STAGE, optimizer="lion", b1=0.0)  # moves by lr against the sign of the gradient
    run = prepare(tiny, stage, one_device)
    params = jax.tree.map(np.array, run.state.params)
    loss, grads = jax.jit(
        jax.value_and_grad(lambda p: total(system.apply({"params": p}, batch, train=True, method="losses")))
    )(params)
    state, (metrics,) = steps(run, [batch])
    assert metrics["loss"] == metrics["contrastive"] == pytest.approx(float(loss), rel=1e-6)
    assert metrics["grad_norm"] == pytest.approx(float(optax.tree.norm(grads)), rel=1e-5)
    assert metrics["param_norm"] == pytest.approx(float(optax.tree.norm(state.params)), rel=1e-6)
    expected = jax.tree.map(lambda p, g: np.where(np.abs(g) > 1e-6, p - 1e-2 * np.sign(g), np.nan), params, grads)
    for path, value in trees.flatten(expected).items():
        sure = ~np.isnan(value)
        np.testing.assert_allclose(
            np.asarray(trees.flatten(state.params)[path])[sure], value[sure], rtol=1e-5, atol=1e-7
        )
    assert int(state.step) == 1


def test_frozen_parameters_keep_their_bits(tiny, make_batch, prepare, one_device):
    run = prepare(tiny, Stage(**STAGE, train=("txt/.*", "txt_proj/.*"), weight_decay=0.1), one_device)
    frozen, params = copied(run.state.frozen), copied(run.state.params)
    assert {path.split("/")[0] for path in frozen} == {"img", "img_proj", "log_scale"}
    state, _ = steps(run, [make_batch(tiny, seed) for seed in range(3)])
    assert not differences(frozen, copied(state.frozen))
    moved = differences(params, copied(state.params))
    assert {"txt/embed/embedding", "txt/pos", "txt_proj/kernel", "txt/norm_final/bias"} <= moved
    assert {trees.path_name(p).split("/")[2] for p, x in jax.tree_util.tree_leaves_with_path(state.opt) if x.ndim} == {
        "txt",
        "txt_proj",
    }


def test_the_teacher_is_the_moving_average(tiny, make_batch, prepare, one_device):
    run = prepare(tiny, Stage(**STAGE, teacher=("txt/.*",), teacher_decay=0.9, evaluate="teacher"), one_device)
    state, expected = run.state, copied(run.state.teacher)
    assert {path.split("/")[0] for path in expected} == {"txt"}
    for seed in range(3):
        state, _ = run.step(state, make_batch(tiny, seed))
        student = copied(state.params)
        expected = {path: 0.9 * old + 0.1 * student[path] for path, old in expected.items()}
    for path, value in copied(state.teacher).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-5, atol=1e-7, err_msg=path)
    taught, student = copied(state.variables("teacher")["params"]), copied(state.params)
    assert {path.split("/")[0] for path in differences(taught, student)} == {"txt"}
    assert not differences({p: taught[p] for p in expected}, copied(state.teacher))


def test_chunks_train_on_the_whole_batch(tiny, make_batch, prepare, one_device):
    batches, found = [make_batch(tiny, seed) for seed in range(2)], {}
    for chunks in (1, 4):
        state, metrics = steps(prepare(tiny, Stage(**STAGE, chunks=chunks), one_device), batches)
        found[chunks] = metrics, copied(state.params)
    for one, four in zip(*(metrics for metrics, _ in found.values()), strict=True):
        np.testing.assert_allclose(list(one.values()), list(four.values()), rtol=1e-5)
        assert one.keys() == four.keys()
    for path, value in found[1][1].items():
        np.testing.assert_allclose(found[4][1][path], value, atol=1e-5, err_msg=path)


def test_chunks_need_a_system_without_batch_statistics(tiny_resnet, make_batch, prepare, one_device):
    run = prepare(tiny_resnet, Stage(**STAGE, chunks=2), one_device)
    with pytest.raises(UserError, match=r"chunks=2: batch-norm statistics \['batch_stats'\]"):
        jax.eval_shape(run.step, run.state, make_batch(tiny_resnet))


def test_statistics_move_with_the_parameters_beside_them(tiny_resnet, make_batch, prepare, one_device):
    run = prepare(tiny_resnet, Stage(**STAGE), one_device)
    before, batch = copied(run.state.stats), make_batch(tiny_resnet)
    system = systems.build(tiny_resnet)
    variables = jax.tree.map(jnp.array, run.state.variables())
    forward = functools.partial(system.apply, train=True, method="losses", mutable=["batch_stats"])
    _, expected = jax.jit(forward)(variables, batch)
    state, _ = steps(run, [batch])
    after = copied(state.stats)
    assert differences(before, after) == set(before)
    for path, value in copied(expected).items():
        np.testing.assert_allclose(after[path], value, rtol=1e-4, atol=1e-5)


def test_a_frozen_tower_keeps_its_statistics(tiny_resnet, make_batch, prepare, one_device):
    run = prepare(tiny_resnet, Stage(**STAGE, train=("txt/.*", "img/layer4_0/.*")), one_device)
    before = copied(run.state.stats)
    state, _ = steps(run, [make_batch(tiny_resnet)])
    moved = differences(before, copied(state.stats))
    assert moved and {path.split("/")[2] for path in moved} == {"layer4_0"}


def test_a_frozen_tower_computes_as_in_evaluation(tiny_resnet, make_batch, prepare, one_device):
    """Its features do not depend on what else is in the batch: it uses its running statistics."""
    system, batch = systems.build(tiny_resnet), make_batch(tiny_resnet)
    loss = {}
    for train in (True, False):
        forward = functools.partial(system.apply, train=train, method="losses", mutable=["batch_stats"])
        variables = prepare(tiny_resnet, Stage(**STAGE), one_device).state.variables()
        loss[train] = float(total(jax.jit(forward)(variables, batch)[0]))
    assert abs(loss[True] - loss[False]) > 1e-3  # else nothing is tested
    for patterns, expected in ((("txt/.*", "log_scale"), loss[False]), ((".*",), loss[True])):
        _, (metrics,) = steps(prepare(tiny_resnet, Stage(**STAGE, train=patterns), one_device), [batch])
        assert metrics["loss"] == pytest.approx(expected, rel=1e-5), patterns
    remat = {**tiny_resnet, "img": {**tiny_resnet["img"], "remat": "full"}}
    _, (metrics,) = steps(prepare(remat, Stage(**STAGE, train=("txt/.*",)), one_device), [batch])
    assert metrics["loss"] == pytest.approx(loss[False], rel=1e-5)


def test_the_scale_is_bounded_after_every_update(tiny, make_batch, prepare, one_device):
    bounded = {**tiny, "scale_init": 9.9, "scale_max": 10.0}
    run = prepare(bounded, Stage(**{**STAGE, "lr": 0.5}, optimizer="lion"), one_device)
    scales = []
    state = run.state
    for seed in range(4):
        state, _ = run.step(state, make_batch(tiny, seed))
        scales.append(float(state.params["log_scale"]))
    assert max(scales) <= np.float32(np.log(10.0)) and min(scales) < np.log(9.9) - 0.4  # it can come down again


def test_dropout_is_a_function_of_key_and_step(tiny, make_batch, prepare, one_device):
    noisy, batch = {**tiny, "txt": {**tiny["txt"], "dropout": 0.5}}, make_batch(tiny)
    still = Stage(**{**STAGE, "lr": 0.0})
    _, first = steps(prepare(noisy, still, one_device), [batch] * 3)
    _, again = steps(prepare(noisy, still, one_device), [batch] * 3)
    assert first == again and len({values["loss"] for values in first}) == 3


@pytest.fixture(scope="module")
def reference(tiny, make_batch, prepare):
    stage = Stage(**STAGE, teacher=("img/.*",), weight_decay=0.1, clip=1.0)
    with shd.use_mesh(shd.make_mesh({"data": 1}, jax.devices()[:1])) as mesh:
        run = prepare(tiny, stage, mesh)
        first = copied(run.state.params)
        state, metrics = steps(run, [make_batch(tiny, seed) for seed in range(3)])
    return stage, first, copied(state.params), metrics


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_any_mesh_trains_the_same(tiny, make_batch, prepare, reference, shape):
    stage, first, last, expected = reference
    with shd.use_mesh(shd.make_mesh(dict(zip(shd.MESH_AXES, shape, strict=True)))) as mesh:
        run = prepare(tiny, stage, mesh)
        assert not differences(first, copied(run.state.params))  # the mesh is no part of the seed
        batches = [make_batch(tiny, seed) for seed in range(3)]
        batches = [jax.device_put(batch, shd.batch_sharding(mesh)) for batch in batches]
        compiled = []

        def count(event, *_, **__):
            if event == "/jax/core/compile/backend_compile_duration":
                compiled.append(event)

        state, metrics = run.step(run.state, batches[0])
        found = [metrics]
        jax.monitoring.register_event_duration_secs_listener(count)
        try:
            for batch in batches[1:]:
                state, metrics = run.step(state, batch)
                found.append(metrics)
        finally:
            jax.monitoring.unregister_event_duration_listener(count)
        assert not compiled  # one compilation for a stage
        for values, wanted in zip(found, expected, strict=True):
            for name, value in values.items():
                assert float(value) == pytest.approx(wanted[name], rel=1e-5), name
        for path, value in copied(state.params).items():
            np.testing.assert_allclose(value, last[path], atol=1e-5, err_msg=path)
        check_placement(state, shape)


def check_placement(state, shape):
    _, fsdp, tensor = shape
    kernel = "txt/transformer/block_0/mlp/fc1/kernel"  # [16, 64], embed x mlp
    whole = trees.flatten(state.params)[kernel].shape
    part = (whole[0] // fsdp, whole[1] // tensor)
    moments = {trees.path_name(p).split("/", 2)[-1]: x for p, x in jax.tree_util.tree_leaves_with_path(state.opt)}
    assert trees.flatten(state.params)[kernel].sharding.shard_shape(whole) == part
    assert moments[kernel].sharding.shard_shape(whole) == part
    average = trees.flatten(state.teacher)[kernel.replace("txt", "img")]
    assert average.sharding.shard_shape(average.shape) == part
    for leaf in jax.tree.leaves((state.params, state.opt, state.teacher)):
        if max(part) < max(whole) and leaf.ndim == 2 and leaf.shape == whole:
            assert not leaf.sharding.is_fully_replicated


class Alone:
    """A system without features of single examples."""


def test_chunks_need_features(tiny, make_batch, prepare, one_device):
    run, stage = prepare(tiny, Stage(**STAGE), one_device), Stage(**STAGE, chunks=2)
    with pytest.raises(UserError, match="Alone has no features/objective: chunks=2 needs both"):
        train_step(Alone(), make_optimizer(stage, run.state.params), stage, run.state, make_batch(tiny))
