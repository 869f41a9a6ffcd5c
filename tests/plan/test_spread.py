"""Places and exchanges against what they must be: one layer, its gradient, on a mesh of data and fsdp."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from mmjax.plan import program, spread

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


def test_a_repeated_bias_leaves_the_product_split():
    _, found = analysed(
        lambda x, w, b: jax.lax.add(x @ w, b[None]),
        [(BATCH, ()), ((), ("tensor",)), (("tensor",),)],
        (32, 16), (16, 24), (24,),
        outs=[(BATCH, ("tensor",))],
    )  # fmt: skip
    assert not found.collectives
    assert [spec for value, spec in found.specs.items() if value.shape == (32, 24)] == [(BATCH, ("tensor",))] * 2


def test_a_reshape_keeps_the_major_axis():
    found = spread.Spread(MESH)
    assert spread.reshaped((32, 6, 8), (BATCH, (), ()), (32, 48), found) == (BATCH, ())
    assert spread.reshaped((32, 48), (BATCH, FSDP), (32, 1, 6, 8), found) == (BATCH, (), (), ())
    assert spread.reshaped((32, 48), (BATCH, FSDP), (32, 8, 6), found) == (BATCH, FSDP, ())
