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
from mmjax.core.interpolate import relative_resize
from mmjax.core.types import total
from mmjax.systems import build
from mmjax.systems.vlmo import STAGES
from mmjax.train.optim import make_optimizer
from mmjax.train.stage import Stage
from mmjax.train.state import begin
from mmjax.train.step import train_step
from mmjax.weights import files, surgery

TINY = {
    "name": "vlmo",
    "tasks": ("itc", "itm", "mlm"),
    "width": 16,
    "depth": 3,
    "heads": 2,
    "top": 1,
    "layer_scale": 0.1,
    "img": {"image_size": 16, "patch": 8},
    "txt": {"vocab": 40, "length": 6, "mask_id": 4, "relative": 8},
}
B = 8
BATCH = {
    "image": jax.random.randint(jax.random.key(0), (B, 16, 16, 3), 0, 256).astype(jnp.uint8),
    "ids": jax.random.randint(jax.random.key(1), (B, 6), 5, 40),
    "valid": jnp.arange(6)[None] < jnp.array([6, 5, 4, 6, 3, 6, 5, 6])[:, None],
}
# Counted on the released code: size, what is changed, all parameters.
PUBLISHED = [
    ("base", {}, 202_445_470),
    ("base_plus", {}, 184_980_734),
    ("large", {}, 599_127_102),
    ("base", {"tasks": ("vqa",), "img": {"image_size": 480}}, 182_410_905),
    ("base_plus", {"tasks": ("vqa",), "img": {"image_size": 480}}, 171_249_433),
    ("large", {"tasks": ("vqa",), "img": {"image_size": 480}}, 572_165_433),
    ("base", {"tasks": ("nlvr2",), "img": {"image_size": 384}}, 178_601_954),
    ("base_plus", {"tasks": ("nlvr2",), "img": {"image_size": 384}}, 168_260_290),
    ("large", {"tasks": ("nlvr2",), "img": {"image_size": 384}}, 567_367_938),
    ("base", {"tasks": ("retrieval",), "img": {"image_size": 384}}, 177_413_857),
    ("base_plus", {"tasks": ("retrieval",), "img": {"image_size": 384}}, 167_662_433),
    ("large", {"tasks": ("retrieval",), "img": {"image_size": 384}}, 565_259_521),
]
TEXT_STAGE = {"base": (190_756_506, 104_510_874), "base_plus": (176_766_874, 90_558_106),
              "large": (569_903_162, 265_731_130)}  # fmt: skip


def shapes(config, scan=True):
    system = build({**config, "scan": scan})
    return nn.meta.unbox(jax.eval_shape(lambda b: system.init(jax.random.key(0), b), system.example(1)))["params"]


def make(system, batch=BATCH):
    found = trees.flatten(nn.meta.unbox(jax.eval_shape(system.init, jax.random.key(0), batch))["params"])
    rng = np.random.default_rng(0)
    fill = lambda k, s: rng.normal(1.0 * k.endswith(("/scale", "_scale")), 0.2, s.shape)  # noqa: E731
    return trees.unflatten({k: jnp.asarray(fill(k, s), jnp.float32) for k, s in found.items()})


@pytest.mark.parametrize(
    ("size", "changes", "count"),
    [
        pytest.param(
            *row, marks=() if (row[0] == "base" and row[1]) or (row[0] == "large" and not row[1]) else pytest.mark.slow
        )
        for row in PUBLISHED
    ],
)
def test_published_sizes_have_exactly_the_published_parameters(size, changes, count):
    assert trees.count(shapes({"name": "vlmo", "size": size, **changes})) == count


@pytest.mark.parametrize("size", ["base_plus", *(pytest.param(s, marks=pytest.mark.slow) for s in ("base", "large"))])
def test_the_text_stage_trains_exactly_what_the_published_one_does(size):
    found = shapes({"name": "vlmo", "size": size, "tasks": ("mlm",), "top": 0, "txt": {"length": 196}})
    trained, _ = trees.split(found, STAGES["text"])
    assert (trees.count(found), trees.count(trained)) == TEXT_STAGE[size]


@pytest.mark.parametrize("variant", ["base_a", "nlvr2_a"])
def test_fixture(golden, variant):
    results = fixtures.run_fixture(golden / "vlmo" / variant)
    assert results and not [result.line() for result in results if not result.passed]


def test_a_checkpoint_is_written_as_it_was_read(golden, tmp_path):
    for variant in ("base_a", "nlvr2_a"):
        folder = golden / "vlmo" / variant
        loaded = surgery.load(folder, models.shapes)
        surgery.export(loaded.variables, loaded.system, "vlmo", tmp_path / variant, origin=loaded.origin)
        before, after = (files.open_tensors(path) for path in (folder, tmp_path / variant))
        assert set(before.keys()) == set(after.keys())
        for key in before.keys():  # noqa: SIM118
            np.testing.assert_array_equal(before.read(key), after.read(key), err_msg=key)
        plain = {k: v for k, v in loaded.system.items() if k not in ("drop_path",)}
        surgery.export(loaded.variables, plain, "vlmo", tmp_path / "ours")  # a config of our own says the same
        assert surgery.load(tmp_path / "ours", models.shapes).system == loaded.system


def test_relative_positions_for_larger_images(golden):
    """The row of no offset and the border keep their values, rows behind the offsets stay; constants stay constant."""
    folder = golden / "vlmo" / "base_a"
    old = surgery.load(folder, models.shapes)
    new = surgery.load(folder, models.shapes, image_size=48, text_length=5)
    assert new.system["img"]["image_size"] == 48 and "cubic spline" in " ".join(new.account.notes)
    a, b = (each.variables["params"]["bias"]["table"] for each in (old, new))
    assert a.shape[0] - 7**2 == b.shape[0] - 11**2
    np.testing.assert_array_equal(a[7**2 :], b[11**2 :])
    np.testing.assert_allclose(b[: 11**2].reshape(11, 11, -1)[5, 5], a[: 7**2].reshape(7, 7, -1)[3, 3], atol=1e-6)
    np.testing.assert_allclose(b[: 11**2].reshape(11, 11, -1)[0, 0], a[: 7**2].reshape(7, 7, -1)[0, 0], atol=1e-3)
    np.testing.assert_array_equal(new.variables["params"]["txt"]["pos"], old.variables["params"]["txt"]["pos"][:5])
    flat = relative_resize(np.ones((7**2 + 3, 2), np.float32), 4, 7)
    np.testing.assert_allclose(flat, np.ones((13**2 + 3, 2)), atol=1e-6)
    with pytest.raises(UserError, match="9 tokens, but vlmo has 8 positions"):
        surgery.load(folder, models.shapes, text_length=9)


def losses(system, params, batch, key=3):
    terms = system.apply({"params": params}, batch, train=True, method="losses", rngs={"dropout": jax.random.key(key)})
    return total(terms), terms


def test_tasks_follow_from_what_a_batch_holds():
    system = build(TINY)
    params = make(system)
    _, terms = losses(system, params, BATCH)
    assert set(terms) == {"itc", "itc_vl", "itm", "mlm"}
    assert {k: float(t.weight) for k, t in terms.items()} == {"itc": 0.5, "itc_vl": 0.5, "itm": 1, "mlm": 0.25}
    assert float(terms["itm"].count) == 3 * B
    text = {k: v for k, v in BATCH.items() if k != "image"}
    _, terms = losses(system, params, text)
    assert set(terms) == {"mlm"} and float(terms["mlm"].weight) == 1
    begins = jnp.ones_like(BATCH["valid"]).at[:, 2].set(False)  # tokens 1 and 2 are one word
    _, whole = losses(system, params, {**text, "begins": begins})
    assert float(whole["mlm"].count) != float(terms["mlm"].count)


def test_dual_and_fusion_use_the_same_experts():
    """Texts and images alone depend on their own experts in every layer; fused, the top ones on the third."""
    system = build(TINY)
    params = make(system)
    apply = functools.partial(system.apply, method="embed_image")
    changed = jax.tree.map(lambda x: x, params)
    changed["fusion"]["top"]["block_0"]["mlp_vl"]["fc2"]["kernel"] *= -3.0
    image, ids, valid = BATCH["image"], BATCH["ids"], BATCH["valid"]
    np.testing.assert_array_equal(apply({"params": params}, image), apply({"params": changed}, image))

    def fused(variables, image, *text):
        image = system.apply(variables, image, method="encode_states_image")
        words = system.apply(variables, *text, method="encode_states_text")
        return system.apply(variables, image, words, text[1], method="match")

    a, b = fused({"params": params}, image, ids, valid), fused({"params": changed}, image, ids, valid)
    assert not np.allclose(a, b, atol=1e-3)
    # Padding changes nothing.
    noise = jnp.where(valid, ids, 9)
    np.testing.assert_allclose(a, fused({"params": params}, image, noise, valid), atol=1e-5)


def test_one_device_equals_eight(mesh8):
    system = build(TINY)
    params = make(system)
    run = jax.jit(jax.value_and_grad(lambda p, b: losses(system, p, b)[0]))
    value, grads = run(params, BATCH)
    with sharding.use_mesh(mesh8):
        placed = jax.device_put(BATCH, sharding.batch_sharding(mesh8))
        spread, others = jax.jit(jax.value_and_grad(lambda p, b: losses(system, p, b)[0]))(params, placed)
    np.testing.assert_allclose(value, spread, rtol=1e-5)
    for (path, a), b in zip(trees.flatten(grads).items(), trees.flatten(others).values(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, err_msg=path)


def test_frozen_tensors_are_bit_identical_after_the_text_stage():
    system = build(TINY)
    params = make(system)
    stage = Stage(steps=2, lr=1e-2, train=STAGES["text"], weight_decay=0.1)
    trained, _ = trees.split(params, stage.train)
    tx = make_optimizer(stage, trained, params)
    state = begin(stage, tx, {"params": params}, jax.random.key(0))
    text = {k: v for k, v in BATCH.items() if k != "image"}
    step = jax.jit(functools.partial(train_step, system, tx, stage))
    for _ in range(2):
        state, metrics = step(state, text)
    assert np.isfinite(metrics["loss"])
    after = trees.flatten(trees.merge(state.frozen, state.params))
    names = set(trees.flatten(trained))
    for path, before in trees.flatten(params).items():
        if path in names:
            continue
        assert np.asarray(before).tobytes() == np.asarray(after[path]).tobytes(), path
    moved = [path for path in names if not np.array_equal(after[path], trees.flatten(params)[path])]
    assert {"fusion/low/block_0/mlp_txt/fc1/kernel", "txt/embed/embedding", "words/kernel", "bias/table"} <= set(moved)
    assert not [path for path in moved if "mlp_img" in path or "/attn/" in path or path.startswith("img/")]


def test_fine_tuning_forms_learn():
    for task, extra in {
        "vqa": {"target": jax.nn.one_hot(jnp.arange(B) % 3, 3)},
        "nlvr2": {"label": jnp.arange(B) % 2, "image": jnp.stack([BATCH["image"], BATCH["image"][::-1]], 1)},
        "retrieval": {},
    }.items():
        system, batch = build({**TINY, "tasks": (task,), "answers": 3}), {**BATCH, **extra}
        params, stage = make(system, batch), Stage(steps=25, lr=3e-3)
        tx = make_optimizer(stage, params)
        state = begin(stage, tx, {"params": params}, jax.random.key(0))
        step, seen = jax.jit(functools.partial(train_step, system, tx, stage)), []
        for _ in range(stage.steps):
            state, metrics = step(state, batch)
            seen.append(float(metrics["loss"]))
        assert seen[-1] < 0.5 * seen[0], (task, seen[0], seen[-1])


def test_mistakes():
    for changes, words in {
        "tasks": ({"tasks": "itc"}, "valid: a list of"),
        "alone": ({"tasks": ("itm",)}, "'itm' draws its negatives by the similarities of 'itc'"),
        "positions": ({"positions": "none"}, "'relative', 'absolute'"),
        "heads": ({"heads": 3}, "3 heads do not divide the width 16"),
    }.values():
        with pytest.raises(UserError, match=words):
            build({**TINY, **changes})
