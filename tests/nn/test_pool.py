import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core import sharding, trees
from mmjax.nn.pool import AttentionalPooler

X = jax.random.normal(jax.random.key(0), (2, 5, 12))
NET = AttentionalPooler(queries=3, width=8, heads=2, eps=1e-5, eps_out=1e-2)


def params(net=NET):
    shapes = trees.flatten(sharding.unbox(jax.eval_shape(net.init, jax.random.key(1), X)))
    rng = np.random.default_rng(0)
    fill = {k: rng.normal(k.endswith("scale"), 0.4, s.shape).astype(np.float32) for k, s in shapes.items()}
    return jax.tree.map(jnp.asarray, trees.unflatten(fill))


def _norm(x, p, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def test_it_is_attention_from_normed_queries_to_normed_tokens():
    p = params()
    out = jax.jit(NET.apply)(p, X)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)["params"]
    q, kv = _norm(p["query"], p["norm_q"]), _norm(np.asarray(X, np.float64), p["norm_kv"])
    q, k, v = (x @ p["attn"][n]["kernel"] + p["attn"][n]["bias"] for n, x in (("q", q), ("k", kv), ("v", kv)))
    made = np.zeros((2, 3, 8))
    for b in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            scores = q[:, head] @ k[b, :, head].T / 2
            weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            made[b, :, head] = weights @ v[b, :, head]
    expected = _norm(made @ p["attn"]["out"]["kernel"] + p["attn"]["out"]["bias"], p["norm_out"], 1e-2)
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_tokens_that_are_not_valid_are_not_seen():
    p, valid = params(), jnp.array([[True, True, False, True, False], [True] * 5])
    base = NET.apply(p, X, valid)
    changed = NET.apply(p, X.at[0, 2].add(3.0).at[0, 4].add(-2.0), valid)
    np.testing.assert_array_equal(changed, base)
    np.testing.assert_allclose(base[1], NET.apply(p, X)[1], atol=1e-6)
    assert np.abs(NET.apply(p, X)[0] - base[0]).max() > 1e-3


def test_without_the_outer_norm_there_is_no_parameter_for_it():
    p = params()["params"]
    bare = NET.clone(eps_out=None)
    rest = {k: v for k, v in p.items() if k != "norm_out"}
    normed = NET.apply({"params": p}, X)
    raw = bare.apply({"params": rest}, X)
    np.testing.assert_allclose(_norm(np.asarray(raw), jax.device_get(p["norm_out"]), 1e-2), normed, atol=1e-5)
