import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.stacking import stack_blocks, unstack_blocks
from mmjax.nn import masks
from mmjax.nn.dense import BlockInit, normal
from mmjax.nn.norm import LayerNorm
from mmjax.nn.position import rope
from mmjax.nn.transformer import Block, BlockSpec, Inputs, LayerInputs, Transformer

B, T, D, DEPTH = 3, 5, 16, 3
SPEC = BlockSpec(heads=2, mlp_dim=24, act="gelu", eps=1e-5)
X = jax.random.normal(jax.random.key(0), (B, T, D))


def replace(**changes):
    return BlockSpec(**{**{k: getattr(SPEC, k) for k in SPEC.__dataclass_fields__}, **changes})


def make(module, *args):
    """Random values for every parameter, biases too, without compiling the initialisers."""
    shapes = trees.flatten(nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(1), *args))["params"])
    rng = np.random.default_rng(0)
    fill = {k: rng.normal(k.endswith("scale"), 0.3, s.shape).astype(np.float32) for k, s in shapes.items()}
    return jax.tree.map(jnp.asarray, trees.unflatten(fill))


def close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def test_scan_equals_loop_in_values_gradients_and_forms():
    spec, inputs = replace(layer_scale=0.1), Inputs(mask=masks.causal(T))
    bias = jax.random.normal(jax.random.key(5), (DEPTH, 1, 2, T, T))
    loop, scan = Transformer(spec, DEPTH), Transformer(spec, DEPTH, scan=True)
    params = make(loop, X)
    assert set(params) == {"block_0", "block_1", "block_2"}
    stacked = stack_blocks(params)
    shapes = nn.meta.unbox(jax.eval_shape(lambda: scan.init(jax.random.key(0), X)))["params"]
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(lambda s: s.shape, shapes)

    def objective(module):
        loss = lambda p: (module.apply({"params": p}, X, inputs, layer_bias=bias) ** 2).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))

    (value, grads), (scan_value, scan_grads) = objective(loop)(params), objective(scan)(stacked)
    np.testing.assert_allclose(value, scan_value, rtol=1e-5)
    close(grads, unstack_blocks(scan_grads), atol=1e-3)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_neither_names_nor_results(scan, remat):
    spec = replace(dropout=0.3, drop_path=0.3)
    plain, saving = (Transformer(spec, DEPTH, scan, r) for r in (None, remat))
    params = make(plain, X)
    names = jax.eval_shape(lambda: saving.init(jax.random.key(0), X))["params"]
    assert jax.tree.structure(nn.meta.unbox(names)) == jax.tree.structure(params)

    def gradients(module):
        rngs = {"dropout": jax.random.key(3)}
        return jax.jit(jax.grad(lambda p: (module.apply({"params": p}, X, train=True, rngs=rngs) ** 2).sum()))

    close(gradients(plain)(params), gradients(saving)(params), atol=1e-3)
    text = str(jax.make_jaxpr(gradients(saving))(params))
    assert "remat" in text or "checkpoint" in text


def test_every_scanned_layer_starts_differently_and_has_its_own_dropout():
    module = Transformer(replace(dropout=0.5), DEPTH, scan=True)
    start = jax.jit(lambda: nn.meta.unbox(module.init(jax.random.key(0), X)["params"]["blocks"]["mlp"]))
    kernel = start()["fc1"]["kernel"]
    assert kernel.shape == (DEPTH, D, 24)
    assert not np.allclose(kernel[0], kernel[1]) and not np.allclose(kernel[1], kernel[2])
    # Blocks whose branches give a constant: with the same mask in each layer the sum would be a multiple of DEPTH.
    params = jax.tree.map(jnp.zeros_like, make(module, X))
    params["blocks"]["mlp"]["fc2"]["bias"] = jnp.ones((DEPTH, D))
    out = module.apply({"params": params}, 0 * X, train=True, rngs={"dropout": jax.random.key(1)})
    assert {float(v) for v in np.unique(out)} == {0.0, 2.0, 4.0, 6.0}


def test_orders_of_the_norm_by_hand():
    zero = BlockInit(*[normal(0.0)] * 4)
    for order, expected in {
        "pre": lambda x, n1, n2, c: x + c,
        "post": lambda x, n1, n2, c: n2(n1(x) + c),
        "branch": lambda x, n1, n2, c: x + n1(jnp.zeros_like(x)) + n2(jnp.zeros_like(x) + c),
    }.items():
        module = Block(replace(order=order, inits=zero))
        params = make(module, X)
        params["attn"] = jax.tree.map(jnp.zeros_like, params["attn"])
        params["mlp"] = jax.tree.map(jnp.zeros_like, params["mlp"])
        params["mlp"]["fc2"]["bias"] = jnp.arange(D, dtype=jnp.float32)
        n1, n2 = (LayerNorm(1e-5).bind({"params": params[n]}) for n in ("norm1", "norm2"))
        constant = jnp.arange(D, dtype=jnp.float32)[None, None]
        np.testing.assert_allclose(module.apply({"params": params}, X), expected(X, n1, n2, constant), atol=1e-5)
    with pytest.raises(UserError, match="pre, post, branch"):
        make(Block(replace(order="sandwich")), X)


def test_cross_attention_reads_the_context_and_is_skipped_without_one():
    context = jax.random.normal(jax.random.key(2), (B, 4, 10))
    valid = jnp.array([[1, 1, 1, 0]] * B, bool)
    module = Block(replace(cross=True, order="post"))
    inputs = Inputs(context=context, context_mask=masks.padding(valid))
    params = make(module, X, None, inputs)
    assert set(params) == {"attn", "norm1", "cross", "norm_cross", "mlp", "norm2"}
    assert params["cross"]["k"]["kernel"].shape == (10, D)
    apply = lambda c: module.apply({"params": params}, X, None, inputs.replace(context=c))  # noqa: E731
    assert not np.allclose(apply(context), apply(context.at[:, 0].add(1.0)))
    np.testing.assert_allclose(apply(context), apply(context.at[:, 3].add(1.0)), atol=1e-6)
    assert np.isfinite(apply(None)).all() and not np.allclose(apply(None), apply(context))


def test_layer_scale_starts_at_its_value_and_multiplies_the_branch():
    module = Block(replace(layer_scale=0.25))
    start = jax.jit(lambda: module.init(jax.random.key(0), X)["params"]["scale2"])()
    assert np.unique(start).tolist() == [0.25]
    params = make(module, X)
    off = {**params, "scale1": jnp.zeros(D), "scale2": jnp.zeros(D)}
    np.testing.assert_array_equal(module.apply({"params": off}, X), X)
    assert not np.allclose(module.apply({"params": params}, X), X)


def test_drop_path_drops_whole_examples_and_rescales():
    module = Block(SPEC, train=True)
    x = jax.random.normal(jax.random.key(0), (400, 2, D))
    params = make(module, x)
    params["mlp"]["fc2"] = jax.tree.map(jnp.zeros_like, params["mlp"]["fc2"])  # the attention branch alone
    branch = module.apply({"params": params}, x) - x
    out = module.apply({"params": params}, x, LayerInputs(drop_path=0.25), rngs={"dropout": jax.random.key(7)}) - x
    kept = np.abs(np.asarray(out)).max(axis=(1, 2)) > 0
    assert 0.68 < kept.mean() < 0.82
    np.testing.assert_allclose(out[kept], branch[kept] / 0.75, atol=1e-5)


def test_the_drop_path_rate_grows_linearly_from_zero():
    module = Transformer(replace(drop_path=0.999), 3)
    x = jax.random.normal(jax.random.key(0), (200, 1, D))
    params = jax.tree.map(jnp.zeros_like, make(module, x))
    for i in range(3):  # block i adds 10^i, rescaled by its keep rate: 1, 0.5, 0.001
        params[f"block_{i}"]["mlp"]["fc2"]["bias"] = jnp.full(D, 10.0**i)
    out = module.apply({"params": params}, 0 * x, train=True, rngs={"dropout": jax.random.key(7)})[:, 0, 0]
    assert (out >= 1).all() and set(np.round(out[out < 50]).tolist()) == {1, 21}
    close(module.apply({"params": params}, 0 * x)[:, 0, 0], np.full(200, 111.0))


def test_unknown_remat_is_an_error():
    with pytest.raises(UserError, match="None, 'full', 'dots'"):
        make(Transformer(SPEC, 1, remat="some"), X)


def test_kernels_carry_logical_names_and_the_scan_adds_layers():
    spec = nn.get_partition_spec(jax.eval_shape(lambda: Transformer(SPEC, 2, scan=True).init(jax.random.key(0), X)))
    block = spec["params"]["blocks"]
    assert tuple(block["attn"]["q"]["kernel"]) == ("layers", "embed", "heads")
    assert tuple(block["attn"]["out"]["kernel"]) == ("layers", "heads", "embed")
    assert tuple(block["mlp"]["fc1"]["kernel"]) == ("layers", "embed", "mlp")
    assert tuple(block["mlp"]["fc2"]["kernel"]) == ("layers", "mlp", "embed")
    assert tuple(block["norm1"]["scale"]) == ()


def test_a_sharded_stack_gives_the_same_values(mesh8):
    module = Transformer(SPEC, 2)
    params, x = make(module, X), jax.random.normal(jax.random.key(9), (8, T, D))
    expected = module.apply({"params": params}, x)
    rules = (("batch", "data"), ("embed", None), ("heads", None), ("mlp", None))
    with jax.set_mesh(mesh8), nn.logical_axis_rules(rules):
        lowered = jax.jit(module.apply).lower({"params": params}, x)
        out = jax.jit(module.apply)({"params": params}, x)
    assert "sharding_constraint" in lowered.as_text() or "Sharding" in lowered.as_text()
    assert out.sharding.spec[0] == "data"
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_a_llama_style_stack_scans_with_rope_and_shared_key_heads():
    spec = replace(norm="rms", gated=True, act="silu", kv_heads=1, q_bias=False, k_bias=False, v_bias=False,
                   out_bias=False, mlp_bias=False)  # fmt: skip
    inputs = Inputs(rope=rope(jnp.arange(T)[None], D // 2), mask=masks.causal(T))
    loop, scan = Transformer(spec, 2), Transformer(spec, 2, scan=True, remat="full")
    params = make(loop, X)
    assert not any(name.endswith("bias") for name in trees.flatten(params))
    expected = loop.apply({"params": params}, X, inputs)
    np.testing.assert_allclose(scan.apply({"params": stack_blocks(params)}, X, inputs), expected, atol=1e-5)
    assert not np.allclose(loop.apply({"params": params}, X, inputs.replace(rope=None)), expected, atol=1e-3)


def test_states_between_the_blocks_are_the_same_scanned():
    loop, scan = Transformer(SPEC, DEPTH), Transformer(SPEC, DEPTH, scan=True)
    params, taps = make(loop, X), (0, 2, -2, -1)
    first = Transformer(SPEC, 2).apply({"params": {k: v for k, v in params.items() if k != "block_2"}}, X)
    whole, tapped = loop.apply({"params": params}, X, taps=taps)
    close(loop.apply({"params": params}, X), whole)
    close((X, first, first, whole), tapped)
    close(scan.apply({"params": stack_blocks(params)}, X, taps=taps), (whole, tapped))
    with pytest.raises(UserError, match="do not exist; valid: 0 to 3"):
        loop.apply({"params": params}, X, taps=(4,))
