import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.nn.mlp import ACTIVATIONS, Mlp, activation
from mmjax.nn.norm import LayerNorm, RMSNorm, norm

X = jnp.array([[1.0, 2.0, 4.0, 9.0], [0.0, -1.0, 1.0, 0.0]])


def test_layer_norm_by_hand_and_its_epsilon_counts():
    for eps in (1e-5, 0.5):
        params = {"params": {"scale": np.array([1.0, 2, 1, 1]), "bias": np.array([0.0, 0, 3, 0])}}
        out = LayerNorm(eps).apply(params, X)
        expected = (X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + eps)
        np.testing.assert_allclose(out, expected * np.array([[1, 2, 1, 1]]) + np.array([[0, 0, 3, 0]]), rtol=1e-5)
    with pytest.raises(TypeError):
        LayerNorm()


def test_rms_norm_by_hand():
    out = RMSNorm(0.5).apply({"params": {"scale": np.array([1.0, 2, 1, 1])}}, X)
    np.testing.assert_allclose(
        out, X / np.sqrt((X**2).mean(-1, keepdims=True) + 0.5) * np.array([[1, 2, 1, 1]]), rtol=1e-5
    )
    with pytest.raises(UserError, match="layer, rms"):
        norm("batch")


def test_bfloat16_keeps_float32_statistics():
    x = jnp.asarray(1000 + X, jnp.bfloat16).astype(jnp.float32)
    out = LayerNorm(1e-6, jnp.bfloat16).apply(
        {"params": {"scale": np.ones(4), "bias": np.zeros(4)}}, x.astype(jnp.bfloat16)
    )
    assert out.dtype == jnp.bfloat16
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(out.astype(np.float32), expected, atol=0.02)


def test_activations_at_one_and_minus_two():
    at = lambda name: [float(activation(name)(jnp.float32(x))) for x in (1.0, -2.0)]  # noqa: E731
    assert at("gelu") == pytest.approx([0.8413447, -0.0455003], abs=1e-6)
    assert at("gelu_tanh") == pytest.approx([0.8411920, -0.0454023], abs=1e-6)
    assert at("quick_gelu") == pytest.approx([0.8457958, -0.0643421], abs=1e-6)
    assert at("silu") == pytest.approx([0.7310586, -0.2384058], abs=1e-6)
    assert at("relu") == [1.0, 0.0]
    with pytest.raises(UserError) as error:
        activation("swish")
    assert all(name in str(error.value) for name in ACTIVATIONS)


def test_mlp_forms_by_hand():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    for options, names in (
        ({}, {"fc1", "fc2"}),
        ({"gated": True, "use_bias": False}, {"fc1", "gate", "fc2"}),
        ({"inner_eps": 1e-5}, {"fc1", "norm_inner", "fc2"}),
    ):
        module = Mlp(6, "silu", **options)
        p = nn.meta.unbox(module.init(jax.random.key(1), x))["params"]
        p = jax.tree.map(lambda v: v + 0.1 * jax.random.normal(jax.random.key(v.size), v.shape), p)
        assert set(p) == names
        line = lambda h, q: h @ q["kernel"] + q.get("bias", jnp.zeros(1))[None, None]  # noqa: E731
        h = line(x, p["fc1"])
        h = jax.nn.silu(line(x, p["gate"])) * h if "gate" in p else jax.nn.silu(h)
        if "norm_inner" in p:
            h = LayerNorm(1e-5).apply({"params": p["norm_inner"]}, h)
        np.testing.assert_allclose(module.apply({"params": p}, x), line(h, p["fc2"]), atol=1e-5)


def test_dropout_acts_in_training_alone():
    x = jnp.ones((2, 3, 4))
    module = Mlp(64, "gelu", dropout=0.5)
    params = nn.meta.unbox(module.init(jax.random.key(1), x))
    still = module.apply(params, x)
    rngs = {"dropout": jax.random.key(0)}
    assert not np.allclose(still, module.apply(params, x, train=True, rngs=rngs))
    np.testing.assert_array_equal(still, module.apply(params, x, rngs=rngs))
