import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.nn import masks
from mmjax.nn.attention import MultiHeadAttention, attend
from mmjax.nn.position import rope, rotate

B, T, S, N, H, D = 2, 3, 5, 4, 6, 24


def randn(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def by_hand(q, k, v, scale, bias=None, mask=None):
    """One (example, query, head) at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b, t, n in np.ndindex(q.shape[:3]):
        kv = n // (q.shape[2] // k.shape[2])
        scores = scale * k[b, :, kv] @ q[b, t, n]
        if bias is not None:
            scores = scores + np.asarray(bias)[b % len(bias), n % bias.shape[1], t % bias.shape[2]]
        if mask is not None:
            scores = np.where(np.asarray(mask)[b % len(mask), n % mask.shape[1], t % mask.shape[2]], scores, -np.inf)
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights / weights.sum() @ v[b, :, kv]
    return out


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attend_with_bias_mask_and_shared_heads(kv_heads):
    q, k, v = randn(0, B, T, N, H), randn(1, B, S, kv_heads, H), randn(2, B, S, kv_heads, H)
    bias, mask = randn(3, 1, N, T, S), masks.padding(jnp.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]], bool))
    out = attend(q, k, v, scale=0.3, bias=bias, mask=mask)
    np.testing.assert_allclose(out, by_hand(q, k, v, 0.3, bias, mask), atol=1e-5)


def test_a_query_without_keys_averages_instead_of_nan():
    q, k, v = randn(0, 1, T, 1, H), randn(1, 1, S, 1, H), randn(2, 1, S, 1, H)
    out = attend(q, k, v, scale=1.0, mask=jnp.zeros((1, 1, 1, S), bool))
    np.testing.assert_allclose(out[0, 0, 0], v[0, :, 0].mean(0), atol=1e-6)


def params_of(module, *args):
    """Random values for every parameter, biases too, without compiling the initialisers."""
    shapes = nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(1), *args))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), jnp.float32), shapes)


def line(x, p):
    return x @ p["kernel"] + p.get("bias", jnp.zeros(1))[None, None]


def test_self_attention_is_its_parts():
    x, module = randn(0, B, T, D), MultiHeadAttention(heads=N)
    p = params_of(module, x)
    assert {k: v.shape for k, v in p["q"].items()} == {"kernel": (D, D), "bias": (D,)}
    q, k, v = (line(x, p[n]).reshape(B, T, N, H) for n in "qkv")
    expected = line(
        jnp.asarray(by_hand(q, k, v, H**-0.5, mask=masks.causal(T)), jnp.float32).reshape(B, T, D), p["out"]
    )
    np.testing.assert_allclose(module.apply({"params": p}, x, mask=masks.causal(T)), expected, atol=1e-4)


def test_options_of_other_families():
    x, context = randn(0, B, T, D), randn(1, B, S, 10)
    module = MultiHeadAttention(
        heads=N, kv_heads=2, head_dim=8, k_bias=False, scale=1.0, inner_eps=1e-5, out_features=7
    )
    p = params_of(module, x, context)
    assert "bias" not in p["k"] and p["k"]["kernel"].shape == (10, 16) and p["q"]["kernel"].shape == (D, 32)
    assert p["norm_inner"]["scale"].shape == (32,)
    q, k, v = line(x, p["q"]).reshape(B, T, N, 8), *(line(context, p[n]).reshape(B, S, 2, 8) for n in "kv")
    y = by_hand(q, k, v, 1.0).reshape(B, T, 32)
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    y = y * p["norm_inner"]["scale"][None, None] + p["norm_inner"]["bias"][None, None]
    np.testing.assert_allclose(module.apply({"params": p}, x, context), line(y, p["out"]), atol=1e-4)


def test_the_learned_key_and_value_are_never_masked():
    x, module = randn(0, B, T, D), MultiHeadAttention(heads=N, bias_kv=True)
    p = params_of(module, x)
    q, k, v = (line(x, p[n]) for n in "qkv")
    k, v = (jnp.concatenate([a, jnp.broadcast_to(p[n], (B, 1, D))], 1) for a, n in ((k, "bias_k"), (v, "bias_v")))
    mask = jnp.concatenate([masks.causal(T), jnp.ones((1, 1, T, 1), bool)], axis=3)
    y = by_hand(*(a.reshape(B, -1, N, H) for a in (q, k, v)), H**-0.5, mask=mask).reshape(B, T, D)
    out = module.apply({"params": p}, x, mask=masks.causal(T))
    np.testing.assert_allclose(out, line(jnp.asarray(y, jnp.float32), p["out"]), atol=1e-4)


def test_rope_turns_queries_and_keys():
    x, module = randn(0, 1, T, D), MultiHeadAttention(heads=N)
    p, angles = params_of(module, x), rope(jnp.arange(T)[None], H)
    q, k, v = (line(x, p[n]).reshape(1, T, N, H) for n in "qkv")
    y = by_hand(rotate(q, angles), rotate(k, angles), v, H**-0.5).reshape(1, T, D)
    out = module.apply({"params": p}, x, rope=angles)
    np.testing.assert_allclose(out, line(jnp.asarray(y, jnp.float32), p["out"]), atol=1e-4)


def test_bfloat16_scores_are_summed_in_float32():
    q, k = jnp.full((1, 1, 1, 512), 1.0, jnp.bfloat16), jnp.full((1, 2, 1, 512), 1.0, jnp.bfloat16)
    k = k.at[0, 1, 0, 0].set(2.0)  # scores 512 and 513: equal in bfloat16
    out = attend(q, k, k, scale=1.0)
    assert out.dtype == jnp.bfloat16
    weight = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(float(out[0, 0, 0, 0]), 1 + weight, atol=0.01)


def test_heads_that_do_not_divide_are_an_error():
    with pytest.raises(UserError, match="5 heads"):
        MultiHeadAttention(heads=5).init(jax.random.key(0), randn(0, B, T, D))


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_fused_kernel_gets_the_same_question(kv_heads, monkeypatch):
    """cuDNN itself needs a GPU: here jax computes what it is asked by its plain implementation."""
    asked, plain = [], jax.nn.dot_product_attention

    def compute(*args, implementation, **options):
        asked.append(implementation)
        return plain(*args, **options, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", compute)
    q, k, v = (
        x.astype(jnp.bfloat16) for x in (randn(0, B, T, N, H), randn(1, B, S, kv_heads, H), randn(2, B, S, kv_heads, H))
    )
    bias, mask = randn(3, 1, N, T, S), masks.padding(jnp.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]], bool))
    out = attend(q, k, v, scale=0.3, bias=bias, mask=mask, kernel="cudnn")
    ours = attend(q, k, v, scale=0.3, bias=bias, mask=mask)
    assert asked == ["cudnn"] and out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), ours.astype(jnp.float32), atol=0.03)


@pytest.mark.parametrize("kernel", ["cudnn", "flash"])
def test_a_kernel_that_cannot_or_does_not_exist(kernel):
    x = randn(0, B, T, N, H)
    with pytest.raises(UserError, match=f"{kernel}.*xla"):
        attend(x, x, x, scale=1.0, kernel=kernel)
