import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.stacking import stack_blocks, unstack_blocks
from mmjax.fusion.multiway import LayerBias, Multiway, relative_index, relative_rows
from mmjax.nn import masks
from mmjax.nn.transformer import BlockSpec, Inputs, Transformer

B, D, LOW, TOP = 2, 16, 2, 1
TXT, IMG = ("txt", 3), ("img", 5)
SPEC = BlockSpec(heads=2, mlp_dim=24, act="gelu", eps=1e-6, layer_scale=0.1, k_bias=False)
OWN = dataclasses.replace(SPEC, separate=True, sub_norm=True, layer_scale=None, k_bias=True)
X = jax.random.normal(jax.random.key(0), (B, 8, D))


def every(module, x):
    """All experts once."""
    alone = [module(x[:, :n], ((name, n),))[0] for name, n in (TXT, IMG)]
    return module(x, (TXT, IMG))[0], alone


def make(module, x=X):
    shapes = trees.flatten(nn.meta.unbox(jax.eval_shape(lambda: module.init(jax.random.key(1), x, method=every))))
    rng = np.random.default_rng(0)
    fill = {k: rng.normal(k.endswith("scale"), 0.3, s.shape).astype(np.float32) for k, s in shapes.items()}
    return jax.tree.map(jnp.asarray, trees.unflatten(fill))["params"]


def apply(module, params, x, segments, **options):
    return module.apply({"params": params}, x, segments, **options)


def test_names_of_shared_and_separate_experts():
    shared, own = make(Multiway(SPEC, LOW, TOP)), make(Multiway(OWN, LOW))
    assert set(shared["low"]["block_0"]) == {
        "norm1", "attn", "scale1", "scale2", "mlp_img", "mlp_txt", "norm2_img", "norm2_txt"
    }  # fmt: skip
    assert set(shared["top"]["block_0"]) - set(shared["low"]["block_0"]) == {"mlp_vl", "norm2_vl"}
    assert set(shared) == {"low", "top", "norm_final"} and set(own) == {"low", "norm_final_img", "norm_final_txt"}
    experts = {f"{part}_{who}" for part in ("q", "k", "v", "out", "norm_inner") for who in ("img", "txt")}
    assert set(own["low"]["block_1"]["attn"]) == experts
    assert {"norm1_img", "norm1_txt", "norm2_img", "norm2_txt"} < set(own["low"]["block_1"])


@pytest.mark.parametrize("spec", [SPEC, OWN], ids=["shared", "separate"])
def test_experts_of_equal_weights_are_one_dense_stack(spec):
    """The same numbers as a Transformer; what differs between experts then differs at their tokens."""
    module, dense = Multiway(spec, LOW, norm_final=False), Transformer(spec, LOW)
    params = make(module)

    def single(tree, who):
        """The tree of one expert, with the dense stack's names."""
        if not isinstance(tree, dict):
            return tree
        other = "_txt" if who == "_img" else "_img"
        return {k.removesuffix(who): single(v, who) for k, v in tree.items() if not k.endswith(other)}

    def both(tree):
        """Texts get the experts of images."""
        return {k: both(tree[k.replace("_txt", "_img")]) for k in tree} if isinstance(tree, dict) else tree

    equal = both(params)
    expected = dense.apply({"params": single(equal["low"], "_img")}, X, Inputs())
    np.testing.assert_allclose(apply(module, equal, X, (TXT, IMG))[0], expected, atol=1e-5)
    first = Multiway(spec, 1, norm_final=False)
    one, other = ({"low": {"block_0": tree["low"]["block_0"]}} for tree in (equal, params))
    a, b = apply(first, one, X, (TXT, IMG))[0], apply(first, other, X, (TXT, IMG))[0]
    assert not np.allclose(a[:, :3], b[:, :3], atol=1e-3)
    if spec is SPEC:  # shared attention: images are the same in the first block
        np.testing.assert_allclose(a[:, 3:], b[:, 3:], atol=1e-5)


def test_gradients_reach_the_experts_that_were_used():
    module = Multiway(SPEC, LOW, TOP)
    params = make(module)

    def used(x, segments, **options):
        grad = jax.grad(lambda p: sum((y**2).sum() for y in apply(module, p, x, segments, **options)))(params)
        flat = {k: bool(jnp.any(v != 0)) for k, v in trees.flatten(grad).items() if "/mlp_" in k and "kernel" in k}
        return {k.replace("/block_0", "").replace("/fc1/kernel", "") for k, v in flat.items() if v and "fc1" in k
                and "block_0" in k}  # fmt: skip

    assert used(X, (TXT, IMG)) == {"low/mlp_txt", "low/mlp_img", "top/mlp_vl"}
    assert used(X[:, :5], (IMG,)) == {"low/mlp_img", "top/mlp_img"}
    assert used(X[:, :3], (TXT,), branches=(False, True)) == {"low/mlp_txt", "top/mlp_txt", "top/mlp_vl"}


@pytest.mark.parametrize("spec", [SPEC, OWN], ids=["shared", "separate"])
def test_scan_and_remat_change_nothing(spec):
    loop, scan = Multiway(spec, LOW, 2), Multiway(spec, LOW, 2, scan=True, remat="full")
    params = make(loop)
    stacked = stack_blocks(params)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, make(scan))
    bias = jax.random.normal(jax.random.key(5), (4, 1, 2, 8, 8))

    def value_and_grad(module):
        return jax.jit(jax.value_and_grad(lambda p: (apply(module, p, X, (TXT, IMG), layer_bias=bias)[0] ** 2).sum()))

    (a, grads), (b, others) = value_and_grad(loop)(params), value_and_grad(scan)(stacked)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-3), grads, unstack_blocks(others))


def test_padding_changes_no_valid_token():
    module = Multiway(SPEC, LOW, TOP)
    params, valid = make(module), jnp.array([[1, 1, 0, 1, 1, 1, 1, 1]] * B, bool)
    run = lambda x: apply(module, params, x, (TXT, IMG), mask=masks.padding(valid))[0]  # noqa: E731
    a, b = run(X), run(X.at[:, 2].set(7.0))
    np.testing.assert_allclose(a[:, valid[0]], b[:, valid[0]], atol=1e-5)


def test_drop_path_grows_over_both_stacks(monkeypatch):
    seen = []
    monkeypatch.setattr(jax.random, "bernoulli", lambda key, keep, shape: seen.append(float(keep)) or jnp.ones(shape))
    module = Multiway(dataclasses.replace(SPEC, drop_path=0.4), 3, 2)
    params = make(module)
    module.apply({"params": params}, X, (TXT, IMG), train=True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(seen, 1 - np.repeat(np.linspace(0, 0.4, 5), 2), atol=1e-6)


def test_an_expert_costs_only_where_its_tokens_are():
    """FLOPs of the compiled programs: a Multiway stack does the work of a dense one."""
    x = jax.ShapeDtypeStruct((2, 48, 64), jnp.float32)
    spec = dataclasses.replace(SPEC, mlp_dim=256)
    multiway, dense = Multiway(spec, 2, norm_final=False), Transformer(spec, 2)
    segments = (("txt", 16), ("img", 32))

    def flops(module, *args):
        shapes = nn.meta.unbox(jax.eval_shape(lambda x: module.init(jax.random.key(0), x, *args), x))
        out = jax.jit(lambda v, x: module.apply(v, x, *args)).lower(shapes, x).compile()
        return out.cost_analysis()["flops"]

    assert flops(multiway, segments) == pytest.approx(flops(dense), rel=0.02)


def test_wrong_segments():
    module = Multiway(SPEC, 1)
    with pytest.raises(UserError, match="do not cover the 8 tokens"):
        jax.eval_shape(lambda: module.init(jax.random.key(0), X, (("txt", 3), ("img", 4))))
    with pytest.raises(UserError, match="there are 'img' and 'txt'"):
        jax.eval_shape(lambda: module.init(jax.random.key(0), X, (("audio", 8),)))


# ---------------------------------------------------------------- relative positions


def test_relative_index_by_hand():
    """Two patches side by side, texts of at most 4 tokens: rows 3 + 3 of the image, 2 between, 8 of the text."""
    assert relative_rows(1, 2, 4) == 3 + 3 + 2 + 8 and relative_rows(14, 14, 196) == 1126
    image = [[5, 3, 3], [4, 1, 0], [4, 2, 1]]  # i - j
    np.testing.assert_array_equal(relative_index(1, 2, 4), image)
    text = [[15, 13, 13], [14, 10, 11], [14, 9, 10]]  # j - i: the zero offset is row 8 + 2
    np.testing.assert_array_equal(relative_index(1, 2, 4, text=3, image=False), text)
    both = relative_index(1, 2, 4, text=3)
    np.testing.assert_array_equal(both[:3, :3], text)
    np.testing.assert_array_equal(both[3:, 3:], image)
    assert (both[:3, 3:] == 6).all() and (both[3:, :3] == 7).all()
    # No offset of the longest text leaves its rows.
    longest = relative_index(1, 2, 4, text=4, image=False)
    assert longest[1:, 1:].min() == 8 and longest[1:, 1:].max() == 12
    with pytest.raises(UserError, match="5 tokens, but the table has rows for 4"):
        relative_index(1, 2, 4, text=5)


def test_layer_bias_is_cut_by_layer_then_head():
    module, index = LayerBias(rows=3, depth=2, heads=2), np.array([[0, 1], [2, 0]])
    table = jnp.arange(12, dtype=jnp.float32).reshape(3, 4)
    out = module.apply({"params": {"table": table}}, index)
    assert out.shape == (2, 1, 2, 2, 2)
    np.testing.assert_array_equal(out[1, 0, 0], [[2, 6], [10, 2]])
