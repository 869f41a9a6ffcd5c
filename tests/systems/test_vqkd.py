import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.commands import golden as fixtures
from mmjax.commands import models
from mmjax.core import sharding, trees
from mmjax.core.errors import UserError
from mmjax.systems import build, vqkd
from mmjax.train.optim import make_optimizer
from mmjax.train.stage import Stage
from mmjax.train.state import begin
from mmjax.train.step import train_step
from mmjax.weights import files, surgery

TINY = {
    "name": "vqkd",
    "img": {"image_size": 16, "patch": 4, "width": 16, "depth": 1, "heads": 2},
    "decoder": {"width": 16, "depth": 1, "heads": 2},
    "codes": 12,
    "code_dim": 4,
    "target": 8,
    "teacher": {"image_size": 16, "patch": 4, "width": 16, "depth": 1, "heads": 2},
}
BATCH = {"image": jax.random.randint(jax.random.key(0), (8, 16, 16, 3), 0, 256).astype(jnp.uint8)}


def make(system):
    return jax.jit(lambda: nn.meta.unbox(system.init(jax.random.key(0), BATCH)))()


@pytest.mark.parametrize(("size", "count"), [("base_1", 95_187_488), ("base_3", 109_361_696)])
def test_published_sizes_have_exactly_the_published_values(size, count):
    system = build({"name": "vqkd", "size": size, "scan": True})
    found = nn.meta.unbox(jax.eval_shape(lambda b: system.init(jax.random.key(0), b), system.example(1)))
    unused = 8192 * 33  # sums that the published code keeps beside the codebook and does not use
    assert trees.count(found["params"]) + trees.count(found["codebook"]["quantize"]["vectors"]) + unused == count


def test_fixture(golden):
    results = fixtures.run_fixture(golden / "vqkd" / "beit2_a")
    assert results and not [result.line() for result in results if not result.passed]


def test_a_checkpoint_is_written_as_it_was_read(golden, tmp_path):
    folder = golden / "vqkd" / "beit2_a"
    loaded = surgery.load(folder, models.shapes)
    surgery.export(loaded.variables, loaded.system, "beit2", tmp_path / "a", origin=loaded.origin)
    before, after = (files.open_tensors(path) for path in (folder, tmp_path / "a"))
    assert set(before.keys()) == set(after.keys())
    for key in before.keys():  # noqa: SIM118
        np.testing.assert_array_equal(before.read(key), after.read(key), err_msg=key)
    surgery.export(loaded.variables, loaded.system, "beit2", tmp_path / "b")
    assert surgery.load(tmp_path / "b", models.shapes).system == loaded.system


def run(system, variables, steps, batch=BATCH, train=vqkd.STAGES["train"]):
    stage = Stage(steps=steps, lr=3e-3, train=train)
    trained, _ = trees.split(variables["params"], stage.train)
    tx = make_optimizer(stage, trained, variables["params"])
    state = begin(stage, tx, variables, jax.random.key(0))
    step, seen = jax.jit(functools.partial(train_step, system, tx, stage)), []
    for _ in range(steps):
        state, metrics = step(state, batch)
        seen.append({k: float(v) for k, v in metrics.items()})
    return {"params": trees.merge(state.frozen, state.params), **state.stats}, seen


def test_training_learns_from_the_teacher_and_leaves_it_alone():
    system = build(TINY)
    variables = make(system)
    assert float(variables["codebook"]["quantize"]["ready"]) == 0
    after, seen = run(system, variables, 30)
    assert seen[-1]["distil"] < 0.7 * seen[0]["distil"] and 0 < seen[-1]["used"] <= 1
    book = after["codebook"]["quantize"]
    assert float(book["ready"]) == 1
    np.testing.assert_allclose(np.linalg.norm(book["vectors"], axis=1), np.ones(12), atol=1e-5)
    for path, before in trees.flatten(variables["params"]).items():
        if path.startswith("teacher"):
            assert np.asarray(before).tobytes() == np.asarray(trees.flatten(after["params"])[path]).tobytes(), path
    codes = system.apply(after, BATCH["image"], method="codes_of")
    assert codes.shape == (8, 16) and len(np.unique(codes)) > 1
    larger = jnp.repeat(jnp.repeat(BATCH["image"], 2, 1), 2, 2)  # resized to the tokenizer's pixels
    assert system.apply(after, larger, method="codes_of").shape == (8, 16)


def test_the_codebook_follows_its_features_over_all_devices(mesh8):
    system = build({**TINY, "kmeans": False})
    variables = make(system)

    def update(variables, batch):
        apply = functools.partial(system.apply, mutable=["codebook"], rngs={"dropout": jax.random.key(0)})
        found, new = apply(variables, batch["image"], train=True, method="encode")
        return found.codes, found.features, new["codebook"]["quantize"]

    codes, features, new = jax.jit(update)(variables, BATCH)
    old = np.asarray(variables["codebook"]["quantize"]["vectors"])
    z = np.asarray(features).reshape(-1, 4)
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    flat = np.asarray(codes).reshape(-1)
    for k in range(12):
        expected = old[k]
        if (flat == k).any():
            mean = z[flat == k].mean(0)
            expected = 0.99 * old[k] + 0.01 * mean / np.linalg.norm(mean)
        np.testing.assert_allclose(new["vectors"][k], expected / np.linalg.norm(expected), atol=1e-5)
        np.testing.assert_allclose(new["usage"][k], 0.01 * (flat == k).sum(), rtol=1e-5)
    with sharding.use_mesh(mesh8):
        placed = jax.device_put(BATCH, sharding.batch_sharding(mesh8))
        spread = jax.jit(update)(variables, placed)
    np.testing.assert_array_equal(spread[0], codes)
    np.testing.assert_allclose(spread[2]["vectors"], new["vectors"], atol=1e-5)


def test_codes_that_nobody_chooses_can_move_to_features():
    many = {**TINY, "kmeans": False, "codes": 200}  # more than the batch has patches
    system = build({**many, "revive": 0.005})
    variables = make(system)
    after, _ = run(system, variables, 1)
    plain, _ = run(build(many), variables, 1)
    old, new, stay = (each["codebook"]["quantize"]["vectors"] for each in (variables, after, plain))
    idle = np.asarray(plain["codebook"]["quantize"]["usage"]) == 0
    assert idle.any()
    np.testing.assert_allclose(stay[idle], old[idle], atol=1e-6)
    assert not np.isclose(new[idle], old[idle], atol=1e-3).all(1).any()


def test_clusters_are_found():
    centres = jnp.eye(4)[:3]
    z = jnp.repeat(centres, 20, 0) + 0.05 * jax.random.normal(jax.random.key(0), (60, 4))
    z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    found = [vqkd.clusters(jax.random.key(seed), z, 3) for seed in range(8)]
    best = max(float((z @ c.T).max(1).sum()) for c in found)
    assert best > 0.98 * 60


def test_a_frozen_tokenizer_does_not_follow():
    system = build({**TINY, "kmeans": False})
    variables = make(system)
    after, _ = run(system, variables, 2, train=("decode_.*",))
    for path, before in trees.flatten(variables["codebook"]).items():
        np.testing.assert_array_equal(before, trees.flatten(after["codebook"])[path])


def test_mistakes():
    with pytest.raises(UserError, match=r"system\.teacher"):
        system = build({k: v for k, v in TINY.items() if k != "teacher"})
        system.apply(make(system), BATCH, train=False, method="losses")
