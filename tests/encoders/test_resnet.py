import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.encoders.resnet import AttentionPool, Bottleneck, Conv, ModifiedResNet

NET = ModifiedResNet(image_size=64, layers=(1, 2, 1, 1), width=4, features=10)
IMAGE = jax.random.normal(jax.random.key(0), (4, 64, 64, 3))


@pytest.fixture(scope="module")
def variables():
    """Random values for every parameter, biases too, without compiling the initialisers."""
    shapes = trees.flatten(nn.meta.unbox(jax.eval_shape(NET.init, jax.random.key(1), IMAGE)))
    rng = np.random.default_rng(0)

    def fill(name, shape):
        values = rng.normal(name.endswith("scale"), 0.3, shape)
        return jnp.asarray(np.abs(values) + 0.5 if name.endswith("var") else values, jnp.float32)

    return trees.unflatten({name: fill(name, s.shape) for name, s in shapes.items()})


def test_a_strided_convolution_pads_both_sides():
    """A 3×3 kernel of ones on ones: with padding 1 and stride 2 the first window covers 2×2, the last 3×3."""
    conv = Conv(1, 3, 2)
    out = conv.apply({"params": {"kernel": jnp.ones((3, 3, 1, 1))}}, jnp.ones((1, 6, 6, 1)))[0, :, :, 0]
    assert out.tolist() == [[4, 6, 6], [6, 9, 9], [6, 9, 9]]


def test_names_and_shapes(variables):
    params = trees.flatten(variables["params"])
    assert {k: v.shape for k, v in params.items() if k.startswith(("conv", "attnpool"))} == {
        "conv1/kernel": (3, 3, 3, 2), "conv2/kernel": (3, 3, 2, 2), "conv3/kernel": (3, 3, 2, 4),
        "attnpool/pos": (5, 128),
        **{f"attnpool/{n}/kernel": (128, 128) for n in "qkv"}, **{f"attnpool/{n}/bias": (128,) for n in "qkv"},
        "attnpool/out/kernel": (128, 10), "attnpool/out/bias": (10,),
    }  # fmt: skip
    assert params["layer2_0/down_conv/kernel"].shape == (1, 1, 16, 32)
    assert "layer2_1/down_conv/kernel" not in params and "layer1_0/down_conv/kernel" in params
    assert {k.rsplit("/", 1)[1] for k in trees.flatten(variables["batch_stats"])} == {"mean", "var"}
    out = jax.jit(NET.apply)(variables, IMAGE)
    assert out.tokens.shape == (4, 4, 128) and out.pooled.shape == (4, 10)


def test_the_last_gain_of_a_bottleneck_starts_at_zero():
    @jax.jit
    def start():
        params = nn.meta.unbox(NET.init(jax.random.key(0), IMAGE))["params"]
        gains = {k: v["bn3"]["scale"] for k, v in params.items() if k.startswith("layer")}
        return gains, params["layer1_0"]["bn2"]["scale"], params["attnpool"]["q"]["kernel"]

    gains, inner, query = start()
    assert len(gains) == 5 and not any(gain.any() for gain in gains.values())
    assert np.unique(inner).tolist() == [1]
    assert np.std(query) == pytest.approx(128**-0.5, rel=0.05)


def test_a_strided_bottleneck_by_hand():
    """Inference, all kernels identities: relu(pool(relu(relu(x))) + pool(x)), batch norm being 1 / √(1 + eps)."""
    block = Bottleneck(width=2, stride=2)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    shapes = nn.meta.unbox(jax.eval_shape(lambda: block.init(jax.random.key(0), x, False)))
    v = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
    v["batch_stats"] = {k: {"mean": jnp.zeros_like(s["mean"]), "var": s["var"]} for k, s in v["batch_stats"].items()}
    p = v["params"]
    for name in ("bn1", "bn2", "bn3", "down_bn"):
        p[name]["bias"] = jnp.zeros_like(p[name]["bias"])
    p["conv1"]["kernel"] = jnp.eye(8, 2)[None, None]
    p["conv2"]["kernel"] = jnp.zeros((3, 3, 2, 2)).at[1, 1].set(jnp.eye(2))
    p["conv3"]["kernel"] = jnp.eye(2, 8)[None, None]
    p["down_conv"]["kernel"] = jnp.eye(8)[None, None]
    norm = (1 + 1e-5) ** -0.5
    pool = lambda a: a.reshape(1, 2, 2, 2, 2, 8).mean(axis=(2, 4))  # noqa: E731
    branch = pool(jnp.maximum(x, 0) * norm**2) * norm * jnp.array([1.0, 1, 0, 0, 0, 0, 0, 0])[None, None, None]
    expected = jnp.maximum(branch + pool(x) * norm, 0)
    np.testing.assert_allclose(block.apply(v, x, False), expected, atol=1e-5)


def test_running_statistics_move_by_a_tenth_in_training_alone(variables):

    @jax.jit
    def run(v):
        return NET.apply(v, IMAGE, train=True, mutable=["batch_stats"])[1]["batch_stats"]["bn1"]

    moved = run(variables)
    dims = ("NHWC", "HWIO", "NHWC")
    first = jax.lax.conv_general_dilated(
        IMAGE, variables["params"]["conv1"]["kernel"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=dims
    )
    before = variables["batch_stats"]["bn1"]
    np.testing.assert_allclose(moved["mean"], 0.9 * before["mean"] + 0.1 * first.mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(moved["var"], 0.9 * before["var"] + 0.1 * first.var(axis=(0, 1, 2)), atol=1e-4)
    _, same = jax.jit(lambda v: NET.apply(v, IMAGE, mutable=["batch_stats"]))(variables)
    jax.tree.map(np.testing.assert_array_equal, same["batch_stats"], variables["batch_stats"])


def test_the_pool_attends_from_the_mean_token():
    x = jax.random.normal(jax.random.key(0), (2, 4, 8))
    pool = AttentionPool(heads=2, features=3)
    shapes = nn.meta.unbox(jax.eval_shape(pool.init, jax.random.key(1), x))["params"]
    p = jax.tree.map(lambda s: jax.random.normal(jax.random.key(s.size), s.shape), shapes)
    tokens = np.concatenate([x.mean(1, keepdims=True), x], axis=1) + np.asarray(p["pos"])[None]
    q, k, v = (tokens @ p[n]["kernel"] + np.asarray(p[n]["bias"])[None, None] for n in "qkv")
    out = []
    for n in (slice(0, 4), slice(4, 8)):
        weights = jax.nn.softmax(np.einsum("bh,bsh->bs", q[:, 0, n], k[:, :, n]) / 2, axis=-1)
        out.append(np.einsum("bs,bsh->bh", weights, v[:, :, n]))
    expected = np.concatenate(out, axis=-1) @ p["out"]["kernel"] + np.asarray(p["out"]["bias"])[None]
    np.testing.assert_allclose(pool.apply({"params": p}, x), expected, atol=1e-4)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="takes 96x96"):
        ModifiedResNet(96, (1, 1, 1, 1), 4, 10).init(jax.random.key(0), IMAGE)
    with pytest.raises(UserError, match="3 heads do not divide the 128 channels"):
        ModifiedResNet(64, (1, 1, 1, 1), 4, 10, heads=3).init(jax.random.key(0), IMAGE)


def test_recomputing_changes_nothing(variables):
    """Loss, gradients and running statistics in training, with bottlenecks recomputed in the backward pass."""

    def value_and_grad(net):
        def loss(params):
            out, stats = net.apply({**variables, "params": params}, IMAGE, train=True, mutable=["batch_stats"])
            return jnp.mean(out.pooled**2), stats

        return jax.value_and_grad(loss, has_aux=True)

    kept, recomputed = value_and_grad(NET), value_and_grad(NET.clone(remat="full"))
    params = variables["params"]
    (one, grads), (other, regrads) = (jax.jit(f)(params) for f in (kept, recomputed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6), one, other)
    # The largest gradient sets the scale: that of a key's bias is nothing but rounding.
    most = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5 * most), grads, regrads)
    convolutions = [str(jax.make_jaxpr(f)(params)).count("conv_general_dilated[") for f in (kept, recomputed)]
    assert convolutions[1] > convolutions[0]
