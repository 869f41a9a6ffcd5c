import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import sharding, trees
from mmjax.core.stacking import stack_blocks
from mmjax.decoders.multimodal import MultimodalDecoder
from mmjax.nn.transformer import Block, BlockSpec, Inputs

X = jax.random.normal(jax.random.key(0), (2, 6, 16))
SEEN = jax.random.normal(jax.random.key(1), (2, 4, 12))


def random(net, *given, **options):
    shapes = trees.flatten(
        sharding.unbox(jax.eval_shape(lambda *a: net.init(jax.random.key(1), *a, **options), *given))
    )
    rng = np.random.default_rng(0)
    fill = {k: rng.normal(k.endswith("scale"), 0.3, s.shape).astype(np.float32) for k, s in shapes.items()}
    return jax.tree.map(jnp.asarray, trees.unflatten(fill))


def decoder(mlps):
    return MultimodalDecoder(vocab=20, width=16, depth=2, heads=2, mlps=mlps)


def both(net, x, seen):
    return net.logits(net(x, seen))


@pytest.mark.parametrize("mlps", [1, 2])
def test_a_word_sees_the_words_before_it_and_the_whole_image(mlps):
    net = decoder(mlps)
    p = random(net, X, SEEN, method=both)
    run = jax.jit(lambda x, seen: net.apply(p, x, seen, method=both))
    base = run(X, SEEN)
    assert base.shape == (2, 6, 20) and base.dtype == jnp.float32
    later = run(X.at[:, 3, 0].add(2.0), SEEN)  # one channel: norms hide what is added to all
    np.testing.assert_allclose(later[:, :3], base[:, :3], atol=1e-6)
    assert np.abs(later[:, 3:] - base[:, 3:]).max(axis=(0, 2)).min() > 1e-3
    other = run(X, SEEN.at[0, 3, 0].add(2.0))
    assert np.abs(other[0] - base[0]).max(axis=-1).min() > 1e-4
    np.testing.assert_array_equal(other[1], base[1])


def test_parameters_of_a_layer():
    """One MLP: 4D² + 4D·(D|E) + 8D² and biases; two: another MLP with its norm, and a norm of the image tokens."""
    D, E = 16, 12
    attn, cross, mlp, norm = 4 * D * D + 4 * D, 2 * D * D + 2 * D * E + 4 * D, 8 * D * D + 5 * D, 2 * D
    count = lambda mlps: trees.count(random(decoder(mlps), X, SEEN)["params"]["transformer"]["block_0"])  # noqa: E731
    assert count(1) == attn + cross + mlp + 3 * norm
    assert count(2) == attn + cross + 2 * mlp + 4 * norm + 2 * E


def test_two_mlps_are_a_block_without_and_one_with_cross_attention():
    """open_clip's layer: self-attention and MLP, then cross-attention to normed image tokens and another MLP."""
    spec = BlockSpec(2, 32, "gelu", 1e-5, cross=True, mid_mlp=True, norm_context=True)
    p = jax.device_get(random(Block(spec), X, None, Inputs(context=SEEN))["params"])
    out = Block(spec).apply({"params": p}, X, None, Inputs(context=SEEN))
    first = {"norm1": p["norm1"], "attn": p["attn"], "norm2": p["norm_mid"], "mlp": p["mlp_mid"]}
    half = Block(BlockSpec(2, 32, "gelu", 1e-5)).apply({"params": first}, X)
    seen = np.asarray(SEEN)
    seen = (seen - seen.mean(-1, keepdims=True)) / np.sqrt(seen.var(-1, keepdims=True) + 1e-5)
    seen = jnp.asarray(seen * p["norm_context"]["scale"] + p["norm_context"]["bias"])
    # A plain block with cross-attention whose self-attention adds nothing.
    silent = jax.tree.map(jnp.zeros_like, p["attn"])
    second = {"norm1": p["norm1"], "attn": silent, **{k: p[k] for k in ("norm_cross", "cross", "norm2", "mlp")}}
    plain = BlockSpec(2, 32, "gelu", 1e-5, cross=True)
    expected = Block(plain).apply({"params": second}, half, None, Inputs(context=seen))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_scanned_layers_compute_the_same():
    net = decoder(2)
    p = random(net, X, SEEN, method=both)
    scanned = net.clone(scan=True, remat="full")
    expected, made = net.apply(p, X, SEEN), scanned.apply(stack_blocks(p), X, SEEN)
    np.testing.assert_allclose(made, expected, atol=1e-5)
