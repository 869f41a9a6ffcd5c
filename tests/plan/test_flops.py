"""FLOPs counted by hand, exactly: products, convolutions, loops, rematerialisation, shard_map; and a transformer's."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from mmjax.nn.transformer import BlockSpec, Transformer
from mmjax.plan import flops, program


def counted(function, *shapes, platform="gpu"):
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flops.count(program.read(jax.jit(function).trace(*given).jaxpr, platform))


def test_product():
    assert counted(jnp.dot, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert counted(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), (4, 3, 5), (4, 5, 7)) == 2 * 4 * 3 * 5 * 7


def test_gradient_of_a_product_is_two_more():
    square = lambda x, y: jnp.sum(jnp.dot(x, y) ** 2)  # noqa: E731
    assert counted(jax.grad(square, (0, 1)), (3, 5), (5, 7)) == 3 * 2 * 3 * 5 * 7


def test_convolution():
    def conv(x, w, stride, padding):
        return jax.lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    patches = counted(lambda x, w: conv(x, w, 4, "VALID"), (2, 8, 8, 3), (4, 4, 3, 5))
    assert patches == 2 * (2 * 2 * 2) * (4 * 4 * 3) * 5
    # 3 taps over 8 positions with a pad of 1 on both sides: 3 * 8 - 2 fall on the input, along both axes.
    assert counted(lambda x, w: conv(x, w, 1, "SAME"), (2, 8, 8, 3), (3, 3, 3, 5)) == 2 * 2 * 22 * 22 * 3 * 5
    both = jax.grad(lambda x, w: jnp.sum(conv(x, w, 4, "VALID") ** 2), (0, 1))
    assert counted(both, (2, 8, 8, 3), (4, 4, 3, 5)) == 3 * patches


def test_loop_and_remat():
    def scanned(x, w):
        return jnp.sum(jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=6)[0])

    once = 2 * 3 * 5 * 5
    assert counted(scanned, (3, 5), (5, 5)) == 6 * once
    block = lambda x, w: jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w))  # noqa: E731
    assert counted(jax.grad(block, (0, 1)), (3, 5), (5, 5)) == 6 * once
    # Recomputed: the first product, for the second's input, and the second, for the derivative of its tanh.
    again = jax.value_and_grad(jax.checkpoint(block), (0, 1))
    assert counted(again, (3, 5), (5, 5)) == 8 * once
    assert counted(again, (3, 5), (5, 5), platform="cpu") == 6 * once  # shared with the forward pass


def test_custom_derivative_and_branches():
    @jax.custom_vjp
    def f(x, w):
        return x @ w

    f.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T, jnp.zeros_like(saved[1])))
    assert counted(jax.grad(lambda x, w: jnp.sum(f(x, w) ** 2)), (3, 5), (5, 7)) == 2 * 2 * 3 * 5 * 7
    either = lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: (x @ w) @ w)  # noqa: E731
    assert counted(either, (3, 5), (5, 5)) == 2 * 2 * 3 * 5 * 5


def test_the_code_of_the_platform_is_counted():
    def twice_on_cpu(x, w):
        return jax.lax.platform_dependent(x, w, cpu=lambda x, w: (x @ w) @ w, default=lambda x, w: x @ w)

    traced = jax.jit(twice_on_cpu).trace(jnp.zeros((3, 5)), jnp.zeros((5, 5))).jaxpr
    once = 2 * 3 * 5 * 5
    counts = {platform: flops.count(program.read(traced, platform)) for platform in ("cpu", "gpu", "tpu")}
    assert counts == {"cpu": 2 * once, "gpu": once, "tpu": once}


def test_shard_map_counts_all_parts_once(mesh8):
    with jax.set_mesh(mesh8):
        split = jax.shard_map(jnp.dot, in_specs=(P("data"), P()), out_specs=P("data"))
        assert counted(split, (16, 5), (5, 7)) == 2 * 16 * 5 * 7


@pytest.mark.parametrize("scan", [False, True])
def test_closed_form_of_a_transformer(scan):
    """Forward: 24·B·T·D² + 4·B·T²·D a layer (mlp 4·D); backward twice that; with remat the forward once more, less
    the product that a block ends in, whose value no derivative needs."""
    B, T, D, L = 2, 6, 8, 3
    layer = 24 * B * T * D**2 + 4 * B * T**2 * D
    last = 2 * B * T * 4 * D * D
    for remat, expected in ((None, 3 * layer * L), ("full", (4 * layer - last) * L)):
        model = Transformer(BlockSpec(heads=2, mlp_dim=4 * D, act="gelu", eps=1e-5), L, scan=scan, remat=remat)
        x = jnp.zeros((B, T, D))
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        step = jax.value_and_grad(lambda v, x, m=model: jnp.sum(m.apply(v, x) ** 2), (0, 1))
        assert flops.count(program.read(jax.jit(step).trace(variables, x).jaxpr, "gpu")) == expected
