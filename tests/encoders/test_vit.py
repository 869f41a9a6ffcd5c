import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.encoders.vit import ViT
from mmjax.nn.norm import LayerNorm
from mmjax.nn.patch import PatchEmbed, normalise

SIZE = {"image_size": 16, "patch": 8, "width": 24, "depth": 2, "heads": 2}
IMAGE = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))


def make(module):
    """Random values for every parameter, biases too, without compiling the initialisers."""
    shapes = trees.flatten(nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(1), IMAGE))["params"])
    rng = np.random.default_rng(0)
    fill = {k: rng.normal(k.endswith("scale"), 0.3, s.shape).astype(np.float32) for k, s in shapes.items()}
    return jax.tree.map(jnp.asarray, trees.unflatten(fill))


def run(module, params, image=IMAGE):
    return jax.jit(module.apply)({"params": params}, image)


@pytest.mark.parametrize("stride", [4, 2, 3])
def test_patches_equal_the_convolution(stride):
    module = PatchEmbed(4, 5, stride=stride, use_bias=True)
    params = {"kernel": jax.random.normal(jax.random.key(1), (4, 4, 3, 5)), "bias": jnp.arange(5.0)}
    dims = ("NHWC", "HWIO", "NHWC")
    conv = jax.lax.conv_general_dilated(IMAGE, params["kernel"], (stride, stride), "VALID", dimension_numbers=dims)
    expected = conv.reshape(3, -1, 5) + params["bias"][None, None]
    np.testing.assert_allclose(module.apply({"params": params}, IMAGE), expected, atol=1e-4)


def test_images_that_patches_do_not_divide_are_an_error():
    with pytest.raises(UserError, match="16x16 pixels does not divide into patches of 5"):
        PatchEmbed(5, 4).init(jax.random.key(0), IMAGE)


def test_normalise_by_hand_and_only_for_uint8():
    pixels = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 3)
    out = normalise(pixels, (0.5, 0.1, 0.25), (0.5, 0.2, 0.5))
    np.testing.assert_allclose(out[0, 0, 0], [-1.0, 0.5, 1.5], atol=1e-6)
    assert normalise(IMAGE, (0.5,) * 3, (0.5,) * 3) is IMAGE


def test_clip_form_names_shapes_and_post_norm_on_the_class_token_alone():
    module = ViT(**SIZE)
    params = make(module)
    shapes = {k: v.shape for k, v in trees.flatten(params).items() if "transformer" not in k}
    assert shapes == {
        "patch/kernel": (8, 8, 3, 24), "cls": (24,), "pos": (5, 24), "norm_pre/scale": (24,), "norm_pre/bias": (24,),
        "norm_post/scale": (24,), "norm_post/bias": (24,),
    }  # fmt: skip
    out = run(module, params)
    assert out.tokens.shape == (3, 5, 24) and out.pooled.shape == (3, 24)
    normed = LayerNorm(1e-5).apply({"params": params["norm_post"]}, out.tokens)
    np.testing.assert_allclose(out.pooled, normed[:, 0], atol=1e-5)
    raw = run(ViT(**SIZE, pool="none", norm_post="none"), {k: v for k, v in params.items() if k != "norm_post"})
    np.testing.assert_allclose(raw.tokens, out.tokens, atol=1e-6)
    assert raw.pooled is None
    every = run(ViT(**SIZE, norm_post="all"), params)
    np.testing.assert_allclose(every.tokens, normed, atol=1e-5)
    np.testing.assert_allclose(every.pooled, normed[:, 0], atol=1e-5)


def test_mean_pooling_leaves_the_class_token_out():
    params = make(ViT(**SIZE))
    module = ViT(**SIZE, pool="mean")
    out = run(module, params)
    mean = LayerNorm(1e-5).apply({"params": params["norm_post"]}, out.tokens[:, 1:].mean(1))
    np.testing.assert_allclose(out.pooled, mean, atol=1e-5)
    headless = ViT(**SIZE, pool="mean", cls=False)
    params = make(headless)
    assert "cls" not in params and params["pos"].shape == (4, 24)
    assert run(headless, params).tokens.shape == (3, 4, 24)


def test_flat_pooling_keeps_every_patch_in_its_place():
    module = ViT(**SIZE, pool="flat", cls=False, norm_post="all")
    params = make(module)
    out = run(module, params)
    np.testing.assert_allclose(out.pooled.reshape(out.tokens.shape), out.tokens, atol=0)
    with pytest.raises(UserError, match="patch_drop"):
        make(ViT(**SIZE, pool="flat", patch_drop=0.5))


def test_the_attention_pool_by_hand():
    module = ViT(**SIZE, pool="map", cls=False, norm_pre=False, norm_post="all", act="gelu_tanh", eps=1e-6)
    params = make(module)
    out = run(module, params)
    assert out.tokens.shape == (3, 4, 24) and out.pooled.shape == (3, 24)
    p, attn = params["pool"], params["pool"]["attn"]
    query = (p["probe"][None] @ attn["q"]["kernel"] + attn["q"]["bias"][None]).reshape(2, 12)
    keys = (out.tokens @ attn["k"]["kernel"] + attn["k"]["bias"][None, None]).reshape(3, 4, 2, 12)
    values = (out.tokens @ attn["v"]["kernel"] + attn["v"]["bias"][None, None]).reshape(3, 4, 2, 12)
    weights = jax.nn.softmax(jnp.einsum("NH,BSNH->BNS", query, keys) / 12**0.5)
    x = jnp.einsum("BNS,BSNH->BNH", weights, values).reshape(3, 24)
    x = x @ attn["out"]["kernel"] + attn["out"]["bias"][None]
    hidden = LayerNorm(1e-6).apply({"params": p["norm"]}, x) @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"][None]
    expected = x + jax.nn.gelu(hidden) @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"][None]
    np.testing.assert_allclose(out.pooled, expected, atol=1e-4)


def test_pixels_beyond_the_last_patch_are_left_out_only_when_asked():
    module = ViT(**SIZE | {"patch": 7}, crop_edge=True)
    params = make(module)
    base = run(module, params)
    assert base.tokens.shape == (3, 5, 24)
    np.testing.assert_array_equal(
        run(module, params, IMAGE.at[:, 14:].set(9.0).at[:, :, 14:].set(9.0)).pooled, base.pooled
    )
    assert np.abs(run(module, params, IMAGE.at[:, 13].set(9.0)).pooled - base.pooled).max() > 1e-3
    with pytest.raises(UserError, match="does not divide into patches of 7"):
        make(ViT(**SIZE | {"patch": 7}))


def test_options_of_the_eva_family():
    module = ViT(
        **SIZE, patch_bias=True, norm_pre=False, norm_post="none", pool="none", k_bias=False, eps=1e-6, act="gelu",
        layer_scale=0.1, order="branch",
    )  # fmt: skip
    params = make(module)
    assert "bias" in params["patch"] and "norm_pre" not in params and "norm_post" not in params
    block = params["transformer"]["block_0"]
    assert "bias" not in block["attn"]["k"] and "bias" in block["attn"]["q"] and block["scale1"].shape == (24,)
    assert np.isfinite(run(module, params).tokens).all()


def test_overlapping_patches_get_their_positions():
    params = make(ViT(**SIZE, patch_stride=4))
    assert params["pos"].shape == (10, 24)


def test_patch_dropout_keeps_whole_tokens_in_training_alone():
    module = ViT(**{**SIZE, "depth": 0}, patch_drop=0.5, norm_pre=False, norm_post="none")
    params = make(module)
    full = run(module, params).tokens
    rngs = {"dropout": jax.random.key(0)}
    some = module.apply({"params": params}, IMAGE, train=True, rngs=rngs).tokens
    assert full.shape == (3, 5, 24) and some.shape == (3, 3, 24)
    np.testing.assert_allclose(some[:, 0], full[:, 0], atol=1e-6)
    for example, kept in zip(np.asarray(full), np.asarray(some[:, 1:]), strict=True):
        found = [int(np.abs(example - token).max(axis=1).argmin()) for token in kept]
        np.testing.assert_allclose(example[found], kept, atol=1e-6)
        assert found == sorted(set(found)) and 0 not in found


def test_initial_scales():
    module = ViT(image_size=64, patch=8, width=192, depth=1, heads=3)
    image = jnp.zeros((1, 64, 64, 3))
    params = nn.meta.unbox(jax.jit(module.init)(jax.random.key(1), image))["params"]
    block = params["transformer"]["block_0"]
    assert np.std(params["pos"]) == pytest.approx(192**-0.5, rel=0.05)
    assert np.abs(params["patch"]["kernel"]).max() == pytest.approx((3 * 64) ** -0.5, rel=0.01)
    assert np.abs(block["attn"]["q"]["kernel"]).max() == pytest.approx((6 / (4 * 192)) ** 0.5, rel=0.01)
    assert np.abs(block["attn"]["out"]["kernel"]).max() == pytest.approx(192**-0.5, rel=0.01)
    assert np.abs(block["mlp"]["fc2"]["kernel"]).max() == pytest.approx(768**-0.5, rel=0.01)
    assert not any(np.any(p["bias"]) for p in block["attn"].values())


def test_bfloat16_stays_close_to_float32_with_float32_parameters():
    params = make(ViT(**SIZE))
    out = run(ViT(**SIZE, dtype=jnp.bfloat16), params).pooled
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), run(ViT(**SIZE), params).pooled, atol=0.1)
    made = nn.meta.unbox(jax.eval_shape(ViT(**SIZE, dtype=jnp.bfloat16).init, jax.random.key(0), IMAGE))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 24}, "images are 16x16, but the ViT has positions for 24x24"),
        ({"pool": "max"}, "pool 'max'"),
        ({"cls": False}, "pool 'cls' needs cls=True"),
        ({"pool": "none"}, "needs a pool"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        ViT(**{**SIZE, **options}).init(jax.random.key(0), IMAGE)


def test_full_size_shapes_without_memory():
    module = ViT(image_size=336, patch=14, width=1024, depth=24, heads=16, scan=True)
    image = jax.ShapeDtypeStruct((2, 336, 336, 3), jnp.float32)
    out = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], image)
    assert out.tokens.shape == (2, 577, 1024) and out.pooled.shape == (2, 1024)
