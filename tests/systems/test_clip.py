import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import sharding, trees
from mmjax.core.stacking import stack_blocks
from mmjax.systems import build
from mmjax.systems.clip import MEAN, SIZES, STD

TINY = {
    "name": "clip",
    "embed_dim": 12,
    "img": {"image_size": 16, "patch": 8, "width": 24, "depth": 2, "heads": 2},
    "txt": {"vocab": 50, "length": 8, "width": 16, "depth": 2, "heads": 2},
}
IMAGE = jax.random.randint(jax.random.key(0), (4, 16, 16, 3), 0, 256).astype(jnp.uint8)
BATCH = {
    "image": IMAGE,
    "ids": jax.random.randint(jax.random.key(1), (4, 8), 0, 50),
    "valid": jnp.arange(8)[None, :] < jnp.array([8, 5, 3, 4])[:, None],
}


def make(system, batch=BATCH):
    """Random values for every parameter without compiling the initialisers; scale and bias as they start."""
    shapes = trees.flatten(nn.meta.unbox(jax.eval_shape(system.init, jax.random.key(0), batch)))
    rng = np.random.default_rng(0)
    start = {"params/log_scale": np.log(system.scale_init), "params/logit_bias": system.bias_init}

    def fill(name, shape):
        if name in start:
            return jnp.float32(start[name])
        return jnp.asarray(rng.normal(name.endswith(("/scale", "/var")), 0.3, shape), jnp.float32)

    return trees.unflatten({name: fill(name, s.shape) for name, s in shapes.items()})


# Exact parameters: image tower (with its projection), text tower (with its projection); the scale is one more.
PUBLISHED = {
    "rn50": (38_316_896, 63_690_240),
    "rn101": (56_259_936, 63_428_096),
    "rn50x4": (87_137_080, 91_163_520),
    "rn50x16": (167_328_912, 123_650_304),
    "rn50x64": (420_380_352, 202_877_952),
    "vit_b32": (87_849_216, 63_428_096),
    "vit_b16": (86_192_640, 63_428_096),
    "vit_l14": (303_966_208, 123_650_304),
    "vit_l14_336": (304_293_888, 123_650_304),
}


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("size", sorted(PUBLISHED))
def test_published_sizes_have_exactly_the_published_parameters(size, scan):
    if scan and size.startswith("rn50x"):
        size = "rn50"
    system, image_size = build({"name": "clip", "size": size, "scan": scan}), SIZES[size]["img"]["image_size"]
    batch = {
        "image": jax.ShapeDtypeStruct((2, image_size, image_size, 3), jnp.uint8),
        "ids": jax.ShapeDtypeStruct((2, 77), jnp.int32),
        "valid": jax.ShapeDtypeStruct((2, 77), bool),
    }
    shapes = nn.meta.unbox(jax.eval_shape(lambda b: system.init(jax.random.key(0), b, train=False), batch))["params"]
    counts = trees.count_by_module(shapes)
    assert counts["img"] + counts.get("img_proj", 0) == PUBLISHED[size][0]
    assert counts["txt"] + counts["txt_proj"] == PUBLISHED[size][1]
    assert trees.count(shapes) == sum(PUBLISHED[size]) + 1
    assert ("img_proj" in counts) == size.startswith("vit")


# All parameters of transformers' SiglipModel of that size.
SIGLIP = {
    "siglip_b_16_224": 203_155_970,
    "siglip_b_16_256": 203_202_050,
    "siglip_b_16_384": 203_447_810,
    "siglip_b_16_512": 203_791_874,
    "siglip_l_16_256": 652_150_786,
    "siglip_l_16_384": 652_478_466,
    "siglip_so400m_14_224": 877_415_602,
    "siglip_so400m_14_384": 877_960_498,
}


@pytest.mark.parametrize("size", sorted(SIGLIP))
def test_siglips_sizes_have_exactly_the_published_parameters(size):
    system, image_size = build({"name": "clip", "size": size}), SIZES[size]["img"]["image_size"]
    batch = {
        "image": jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8),
        "ids": jax.ShapeDtypeStruct((1, 64), jnp.int32),
        "valid": jax.ShapeDtypeStruct((1, 64), bool),
    }
    shapes = nn.meta.unbox(jax.eval_shape(lambda b: system.init(jax.random.key(0), b, train=False), batch))["params"]
    assert trees.count(shapes) == SIGLIP[size]
    assert set(shapes) == {"img", "txt", "txt_proj", "log_scale", "logit_bias"}


def test_all_published_sizes_are_there():
    assert set(SIZES) == set(PUBLISHED) | set(SIGLIP)


def test_features_logits_and_loss_fit_together():
    system = build(TINY)
    variables = make(system)
    features = system.apply(variables, BATCH, train=False, method="features")
    np.testing.assert_allclose(jnp.linalg.norm(features["img"], axis=1), np.ones(4), atol=1e-5)
    raw = system.apply(variables, BATCH["image"], method="encode_image")
    np.testing.assert_allclose(features["img"], raw / jnp.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)
    alone = system.apply(variables, BATCH["ids"], BATCH["valid"], method="embed_text")
    np.testing.assert_allclose(features["txt"], alone, atol=1e-5)
    logits = system.apply(variables, BATCH, method="logits")
    np.testing.assert_allclose(logits, features["img"] @ features["txt"].T / 0.07, rtol=1e-4)
    rows, columns = (jax.nn.log_softmax(logits, axis=a) for a in (1, 0))
    expected = -(np.diag(rows).mean() + np.diag(columns).mean()) / 2
    term = system.apply(variables, BATCH, train=True, method="losses")["contrastive"]
    assert float(term.count) == 4
    np.testing.assert_allclose(term.mean, expected, rtol=1e-5)
    cached = system.apply(variables, features, method="objective")["contrastive"]
    np.testing.assert_allclose(cached.mean, expected, rtol=1e-5)


def test_padding_cut_off_changes_neither_loss_nor_gradients():
    """What data.text_buckets relies on; the longest text has five tokens."""
    system = build(TINY)
    variables = make(system)
    batch = {**BATCH, "valid": jnp.arange(8)[None, :] < jnp.array([5, 5, 3, 4])[:, None]}
    cut = {**batch, "ids": batch["ids"][:, :5], "valid": batch["valid"][:, :5]}

    @jax.jit
    def step(batch):
        def loss(params):
            return system.apply({"params": params}, batch, train=True, method="losses")["contrastive"].mean

        return jax.value_and_grad(loss)(variables["params"])

    (value, grads), (short, shorter) = step(batch), step(cut)
    np.testing.assert_allclose(short, value, rtol=1e-6)
    for (path, a), b in zip(trees.flatten(grads).items(), trees.flatten(shorter).values(), strict=True):
        np.testing.assert_allclose(b, a, atol=5e-6 * max(1.0, float(jnp.abs(a).max())), err_msg=path)
    assert (grads["txt"]["pos"][5:] == 0).all() and (shorter["txt"]["pos"][5:] == 0).all()
    assert step._cache_size() == 2  # one program for each length


def test_sigmoid_loss_has_a_bias():
    system = build({**TINY, "loss": "sigmoid", "scale_init": 10.0})
    variables = make(system)
    start = jax.jit(lambda: system.init(jax.random.key(0), BATCH)["params"]["logit_bias"])()
    assert float(start) == -10 and "logit_bias" not in make(build(TINY))["params"]
    logits = system.apply(variables, BATCH, method="logits")
    signs = 2 * np.eye(4) - 1
    expected = -np.log(1 / (1 + np.exp(-signs * np.asarray(logits)))).sum() / 4
    term = system.apply(variables, BATCH, train=True, method="losses")["contrastive"]
    np.testing.assert_allclose(term.mean, expected, rtol=1e-4)


def test_uint8_images_are_normalised_inside_and_floats_taken_as_they_are():
    system = build(TINY)
    variables = make(system)
    ready = (np.asarray(IMAGE, np.float32) / 255 - np.array(MEAN)[None, None, None]) / np.array(STD)[None, None, None]
    a, b = (system.apply(variables, x, method="embed_image") for x in (IMAGE, np.float32(ready)))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_scale_is_bounded_in_log_space_after_the_update():
    system = build(TINY)
    params = make(system)["params"]
    start = jax.jit(lambda: system.init(jax.random.key(0), BATCH)["params"]["log_scale"])()
    assert float(start) == pytest.approx(2.6592600, abs=1e-5)
    high = system.constrain({**params, "log_scale": jnp.float32(9.0)})
    assert float(high["log_scale"]) == pytest.approx(np.log(100))
    assert high["txt"] is params["txt"]
    assert system.constrain({"txt": 1}) == {"txt": 1}  # frozen elsewhere
    free = build({**TINY, "scale_max": None})
    assert float(free.constrain({"log_scale": jnp.float32(9.0)})["log_scale"]) == 9.0


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_every_parameter_gets_a_gradient(kind):
    config, batch = TINY, BATCH
    if kind == "resnet":
        config = {**TINY, "img": {"kind": "resnet", "image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "heads": 2}}
        batch = {**BATCH, "image": jax.random.randint(jax.random.key(0), (4, 32, 32, 3), 0, 256).astype(jnp.uint8)}
    system = build(config)
    variables = make(system, batch)
    params = variables.pop("params")

    def loss(params):
        terms, _ = system.apply(
            {"params": params, **variables}, batch, train=True, method="losses", mutable=["batch_stats"]
        )
        return terms["contrastive"].mean

    grads = trees.flatten(jax.jit(jax.grad(loss))(params))
    silent = sorted(k for k, g in grads.items() if not np.abs(g).max() > 1e-8)
    # The softmax ignores what a key bias adds to all scores of a query.
    assert [k for k in silent if not k.endswith("/k/bias")] == []


def test_scan_and_remat_give_the_same_loss_and_features():
    plain = build(TINY)
    params = make(plain)["params"]
    expected = plain.apply({"params": params}, BATCH, train=True, method="losses")["contrastive"].mean
    for options in ({"scan": True}, {"remat": "full"}, {"scan": True, "remat": "dots"}):
        system = build({**TINY, **options})
        form = stack_blocks(params) if options.get("scan") else params
        made = make(system)["params"]
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, form)
        loss = system.apply({"params": form}, BATCH, train=True, method="losses")["contrastive"].mean
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_eight_devices_give_the_loss_of_one(mesh8):
    system = build(TINY)
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x[::-1]]), BATCH)
    params = make(system)["params"]

    def grads(params, batch):
        loss = lambda p: system.apply({"params": p}, batch, train=True, method="losses")["contrastive"].mean  # noqa: E731
        return jax.value_and_grad(loss)(params)

    one = jax.jit(grads)(params, batch)
    with sharding.use_mesh(mesh8):
        eight = jax.jit(grads)(params, jax.device_put(batch, sharding.batch_sharding(mesh8)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), jax.device_get(one), jax.device_get(eight))
