"""LLaMA: parameter counts of the published sizes, causality, windows, padding, samples in one row, scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.stacking import stack_blocks
from mmjax.decoders.llama import SIZES, Llama
from mmjax.nn.position import RopeScaling, rope

TINY = {"vocab": 40, "width": 24, "depth": 3, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp_dim": 20}
IDS = np.random.default_rng(0).integers(1, 40, (3, 9)).astype(np.int32)
ALL = np.ones((3, 9), bool)


def text(model, ids, valid, positions=None, sample=None):
    return model.logits(model(model.embed(jnp.asarray(ids)), valid, positions, sample=sample))


def init(model, seed=0):
    params = shd.unbox(model.init(jax.random.key(seed), IDS, ALL, method=text))["params"]
    rng = np.random.default_rng(seed)  # zeros and ones would hide a wrong mapping
    return jax.tree.map(lambda x: x + jnp.asarray(0.2 * rng.normal(size=x.shape), jnp.float32), params)


def run(model, params, ids, valid, *rest):
    return np.asarray(jax.jit(lambda i: model.apply({"params": params}, i, valid, *rest, method=text))(ids))


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("llama_7b", 6_738_415_616),
        ("vicuna_7b", 6_738_415_616),
        ("llama_13b", 13_015_864_320),
        ("vicuna_13b", 13_015_864_320),
        ("llama_30b", 32_528_943_616),
        ("mistral_7b", 7_241_732_096),
        ("mistral_7b_v02", 7_241_732_096),
        ("yi_6b", 6_061_035_520),
        ("yi_34b", 34_388_917_248),
        ("llama3_8b", 8_030_261_248),
        ("smollm2_135m", 134_515_008),
    ],
)
def test_parameters_of_the_published_sizes(size, count):
    model = Llama(**SIZES[size], scan=True)
    made = jax.eval_shape(lambda: model.init(jax.random.key(0), IDS[:1, :2], ALL[:1, :2], method=text))
    assert trees.count(shd.unbox(made)["params"]) == count


def test_weights_begin_as_wide_as_told():
    model = Llama(**TINY, init_std=0.3)
    made = shd.unbox(model.init(jax.random.key(0), IDS, ALL, method=text))["params"]
    for path, leaf in trees.flatten(made).items():
        assert path.endswith("scale") or 0.2 < float(np.std(leaf)) < 0.4, path


def test_a_token_sees_what_is_before_it_and_no_padding():
    model = Llama(**TINY)
    params = init(model)
    whole = run(model, params, IDS, ALL)
    changed = np.where(np.arange(9) >= 6, 3, IDS)
    np.testing.assert_allclose(run(model, params, changed, ALL)[:, :6], whole[:, :6], atol=1e-5)
    right = np.arange(9)[None] < np.array([9, 7, 4])[:, None]
    x = run(model, params, np.where(right, IDS, 5), right)
    left = right[:, ::-1]
    moved = np.stack([np.roll(row, 9 - n) for row, n in zip(IDS, (9, 7, 4), strict=True)])
    y = run(model, params, np.where(left, moved, 7), left)
    for row, n in enumerate((9, 7, 4)):
        np.testing.assert_allclose(x[row, :n], whole[row, :n], atol=1e-5)
        np.testing.assert_allclose(y[row, 9 - n :], whole[row, :n], atol=1e-5)


def test_a_window_hides_what_is_further_back():
    model = Llama(**{**TINY, "depth": 1}, window=3)
    params = init(model)
    changed = np.where(np.arange(9) == 2, IDS % 39 + 1, IDS)
    same = np.isclose(run(model, params, changed, ALL), run(model, params, IDS, ALL), atol=1e-5).all(axis=(0, 2))
    assert same.tolist() == [True, True, False, False, False, True, True, True, True]


@pytest.mark.parametrize("scan", [False, True])
def test_a_windows_cache_rolls(scan):
    """Rows of 9, 6 and 3 tokens, then six more: as without a cache, which holds no more than the window of 4."""
    model = Llama(**TINY, window=4, scan=scan)
    params = init(model)
    valid = np.arange(9)[None] < np.array([9, 6, 3])[:, None]
    more = np.random.default_rng(5).integers(1, 40, (3, 6)).astype(np.int32)
    whole = [np.concatenate([IDS[row][valid[row]], more[row]])[None] for row in range(3)]
    wanted = [run(model, params, ids, np.ones_like(ids, bool))[0] for ids in whole]

    def read(model, ids):
        return model.logits(model(model.embed(ids), valid, room=15))

    def step(model, ids, filled):
        return model.logits(model.step(model.embed(ids[:, None]), filled))

    x, kept = jax.jit(lambda i: model.apply({"params": params}, i, method=read, mutable=["cache"]))(IDS)
    assert {leaf.shape[-3] for leaf in jax.tree.leaves(kept["cache"])} == {4}
    go_on = jax.jit(lambda c, i, f: model.apply({"params": params, **c}, i, f, method=step, mutable=["cache"]))
    filled = valid.sum(axis=1).astype(np.int32)
    for row in range(3):
        np.testing.assert_allclose(x[row, : filled[row]], wanted[row][: filled[row]], atol=1e-5)
    for place in range(6):
        x, kept = go_on(kept, more[:, place], filled + place)
        for row in range(3):
            np.testing.assert_allclose(x[row, 0], wanted[row][filled[row] + place], atol=1e-5)
    two = jnp.asarray(more[:, :2]), jnp.asarray(filled)
    with pytest.raises(UserError, match="a cache of the window's 4 tokens takes one token at a time, not 2"):
        model.apply({"params": params, **kept}, *two, method=lambda m, i, f: m.step(m.embed(i), f), mutable=["cache"])


def test_samples_in_one_row_are_as_if_alone():
    model = Llama(**TINY, window=4)
    params = init(model)
    sample = np.repeat([[0, 1]], [5, 4], axis=1).repeat(3, axis=0)
    positions = np.concatenate([np.arange(5), np.arange(4)])[None].repeat(3, axis=0)
    x = run(model, params, IDS, ALL, positions, sample)
    np.testing.assert_allclose(x[:, :5], run(model, params, IDS[:, :5], ALL[:, :5]), atol=1e-5)
    np.testing.assert_allclose(x[:, 5:], run(model, params, IDS[:, 5:], ALL[:, 5:]), atol=1e-5)


@pytest.mark.parametrize("remat", [None, "full"])
def test_scanned_is_unrolled(remat):
    options = {**TINY, "qkv_bias": True, "mlp_bias": True, "out_bias": True, "tied": True}
    model, scanned = Llama(**options), Llama(**options, scan=True, remat=remat)
    params = init(model)
    assert "head" not in params and "bias" in params["transformer"]["block_2"]["mlp"]["gate"]

    def loss(model, params):
        return jnp.sum(jnp.sin(model.apply({"params": params}, IDS, ALL, method=text)))

    one = stack_blocks(jax.jit(jax.grad(lambda p: loss(model, p)))(params))
    two = jax.jit(jax.grad(lambda p: loss(scanned, p)))(stack_blocks(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3, rtol=1e-3), one, two)


def test_scaled_rotary_frequencies():
    at = jnp.array([[1]])

    def angles(scaling):
        found = rope(at, 8, 10_000.0, scaling)
        return np.arctan2(np.asarray(found.sin), np.asarray(found.cos))[0, 0, 0]

    np.testing.assert_allclose(angles(RopeScaling("linear", 4.0)), angles(None) / 4, rtol=1e-6)
    # Waves of 2π·(1, 10, 100, 1000) positions in a training of 600: 95, 9.5, 0.95 and 0.095 of them.
    scaled = angles(RopeScaling("llama3", 8.0, 1.0, 20.0, 600))
    kept = (600 / (2 * np.pi * 10) - 1) / 19
    np.testing.assert_allclose(scaled / angles(None), [1, kept + (1 - kept) / 8, 1 / 8, 1 / 8], rtol=1e-5)
