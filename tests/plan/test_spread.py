"""Places and exchanges against what they must be: one layer, its gradient, on a mesh of data and fsdp."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from mmjax.plan import compiled, liveness, program, spread

MESH = {"data": 2, "fsdp": 4, "tensor": 1}
BATCH, FSDP = ("data", "fsdp"), ("fsdp",)


def analysed(function, specs, *shapes, outs):
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    mesh = AbstractMesh(tuple(MESH.values()), tuple(MESH), axis_types=(AxisType.Auto,) * 3)
    with jax.sharding.use_abstract_mesh(mesh):
        whole = program.read(jax.jit(function).trace(*given).jaxpr)
    return whole, spread.spread(whole, specs, outs, MESH)


def test_sharded_parameters_are_gathered_and_their_gradient_scattered():
    def step(w, x):
        return w - jax.grad(lambda w: jnp.sum((x @ w) ** 2))(w)

    whole, found = analysed(step, [(FSDP, ()), (BATCH, ())], (16, 24), (32, 16), outs=[(FSDP, ())])
    weight = 16 * 24 * 4
    assert found.collectives == [
        spread.Collective("all-gather", weight, FSDP, 1),
        spread.Collective("reduce-scatter", weight, FSDP, 1),
        spread.Collective("all-reduce", weight // 4, ("data",), 1),
    ]
    assert found.flops == 2 * 2 * 32 * 16 * 24 // 8
    assert found.of(whole.outs[0]) == (FSDP, ())


def test_a_reshape_keeps_the_major_axis():
    found = spread.Spread(MESH)
    assert spread.reshaped((32, 6, 8), (BATCH, (), ()), (32, 48), found) == (BATCH, ())
    assert spread.reshaped((32, 48), (BATCH, FSDP), (32, 1, 6, 8), found) == (BATCH, (), (), ())
    assert spread.reshaped((32, 48), (BATCH, FSDP), (32, 8, 6), found) == (BATCH, FSDP, ())


def test_what_is_fused_is_not_stored():
    whole, found = analysed(
        lambda x, w: jnp.sum(jnp.maximum(2 * (x @ w) + 1, 0)), [(BATCH, ()), ((), ())], (32, 16), (16, 24), outs=[()]
    )
    assert liveness.peak(whole, found, 0, "gpu") == 32 * 24 * 4 // 8 + 4


def test_tiles():
    assert liveness.tiled((577, 577), 4) == (584, 640)
    assert liveness.tiled((3,), 4) == (128,)


def test_collectives_of_a_program_count_loops():
    text = """HloModule m
%body (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %a = f32[4]{0} all-reduce(%p), channel_id=1, to_apply=%sum
}
ENTRY %main (p: f32[4]) -> f32[4] {
  %w = f32[4]{0} while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  ROOT %g = bf16[8,4]{1,0} all-gather(%w), channel_id=2, dimensions={0}
}
"""
    assert compiled.collectives(text) == {"all-reduce": 12 * 16, "all-gather": 64}
