import functools

import jax
import jax.numpy as jnp
import pytest

from mmjax.plan import liveness, program, spread

MIB = 2**20


def peak(function, *shapes, platform, dtype=jnp.float32):
    """Bytes beside arguments and results, on one device."""
    given = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    whole = program.read(jax.jit(function).trace(*given).jaxpr, platform)
    found = spread.spread(whole, [((),) * len(s) for s in shapes], [((),) * len(v.shape) for v in whole.outs], {})
    return liveness.peak(whole, found, len(whole.outs), platform)


def test_what_is_fused_is_not_stored():
    assert peak(lambda x, w: jnp.sum(jnp.maximum(2 * (x @ w) + 1, 0)), (256, 256), (256, 1024), platform="gpu") == MIB


def test_results_of_a_loop_do_not_take_the_place_of_what_it_reads():
    def loop(x):
        rows = jax.lax.scan(lambda c, row: (c, row @ row), 0.0, x @ x)[1]
        return jnp.sum(rows)

    assert peak(loop, (4, 256, 256), platform="gpu") == pytest.approx(2 * MIB, rel=0.01)


def test_rematerialised_blocks_that_are_not_in_a_loop_save_memory_but_on_cpus():
    """XLA's compiler for CPUs shares what they compute with the forward pass again."""

    def loss(w, x, remat):
        def block(x):
            return jnp.sin(jnp.sin(x @ w) @ w)

        for _ in range(4):
            x = (jax.checkpoint(block) if remat else block)(x)
        return jnp.sum(x * x)

    n, found = 256, {}
    for platform in ("cpu", "gpu"):
        for remat in (False, True):
            gradient = jax.grad(functools.partial(loss, remat=remat))
            found[platform, remat] = peak(gradient, (n, n), (8 * n, n), platform=platform)
    assert found["cpu", True] == found["cpu", False]
    assert found["gpu", True] < 0.8 * found["gpu", False]


def test_a_value_that_crosses_a_barrier_is_stored():
    def step(x):
        y = jnp.sin(x) + 1
        return jnp.sum(jax.lax.optimization_barrier(y) * 2)

    assert peak(step, (256, 1024), platform="tpu") == MIB
    assert peak(step, (256, 1024), platform="cpu") == 0


def test_a_tpu_copies_where_the_last_axis_is_cut():
    def step(x, w):
        heads = (x @ w).reshape(128, 16, 3, 64)
        return jnp.sum(jnp.einsum("btnh,bsnh->bnts", heads, heads))

    shapes = ((2048, 192), (192, 192))
    tiled = 128 * 16 * 8 * 128 * 4  # 3 heads fill 8 rows at worst, or 16 tokens two; 64 columns fill 128
    assert peak(step, *shapes, platform="tpu") >= 128 * 16 * 3 * 128 * 4
    assert peak(step, *shapes, platform="gpu") < tiled


def test_tiles():
    assert liveness.tiled((577, 577), 4) == (584, 640)
    assert liveness.tiled((3,), 4) == (128,)
    assert liveness.tiled((128, 16, 577, 577), 4) == (128, 16, 640, 577)  # not the 128 examples along a tile
