"""Meshes and placement: errors that say what would fit, and rules that place every leaf of a state."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.core import sharding as shd
from mmjax.core.errors import UserError


def abstract(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def boxed(names, *shape):
    return nn.LogicallyPartitioned(abstract(*shape), names)


@pytest.fixture(scope="module")
def mesh():
    return shd.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [(None, (8, 1, 1)), ({"data": -1, "fsdp": 4}, (2, 4, 1)), ({"data": 1, "fsdp": 1, "tensor": 8}, (1, 1, 8)),
     ({"fsdp": -1}, (1, 8, 1))],
)  # fmt: skip
def test_sizes_of_a_mesh(asked, sizes):
    mesh = shd.make_mesh(asked)
    assert tuple(mesh.shape.values()) == sizes and mesh.axis_names == ("data", "fsdp", "tensor")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"model": 2}, r"mesh axis \['model'\] does not exist; the axes are \['data', 'fsdp', 'tensor'\]"),
        ({"data": -1, "fsdp": -1}, "at most one may be -1"),
        ({"data": 0}, "sizes are positive"),
        ({"data": -2}, "sizes are positive"),
        ({"data": 3}, "data=3 x fsdp=1 x tensor=1 asks for 3 devices, but there are 8"),
        ({"data": -1, "fsdp": 3}, "data=2 x fsdp=3 x tensor=1 asks for 6 devices, but there are 8"),
        ({"data": -1, "fsdp": 16}, "asks for 16 devices, but there are 8"),
    ],
)
def test_a_mesh_that_does_not_fit(asked, text):
    with pytest.raises(UserError, match=text):
        shd.make_mesh(asked)


def test_batch_sizes(mesh):
    shd.check_batch_size(16, mesh)
    with pytest.raises(UserError, match=r"batch size 18 does not divide over 4 devices .*e.g. 16 would"):
        shd.check_batch_size(18, mesh)
    with pytest.raises(UserError, match=r"e\.g\. 4 would"):
        shd.check_batch_size(3, mesh)
    shd.check_batch_size(16, mesh, chunks=4)
    with pytest.raises(UserError, match=r"size 16 does not divide into chunks=8 .* 4 devices .*e.g. 32 would"):
        shd.check_batch_size(16, mesh, chunks=8)
    assert shd.batch_sharding(mesh).shard_shape((16, 3)) == (4, 3)


def test_parameters_are_placed_by_their_logical_names(mesh):
    tree = {
        "fc1": {"kernel": boxed(("embed", "mlp"), 8, 16), "bias": abstract(16)},
        "blocks": {"q": boxed(("layers", "embed", "heads"), 3, 8, 4)},
        "embed": boxed(("vocab", "embed"), 10, 8),
        "scale": abstract(),
    }
    specs = jax.tree.map(lambda s: s.spec, shd.param_shardings(tree, mesh))
    assert specs["fc1"] == {"kernel": P("fsdp", "tensor"), "bias": P()}
    assert specs["blocks"]["q"] == P(None, "fsdp", "tensor")
    assert specs["embed"] == P("tensor", "fsdp") and specs["scale"] == P()
    assert shd.unbox(tree)["fc1"]["kernel"] == abstract(8, 16)


def test_dimensions_that_do_not_divide_stay_whole(mesh):
    specs = shd.param_shardings({"kernel": boxed(("embed", "heads"), 8, 3)}, mesh)
    assert specs["kernel"].spec == P("fsdp", None)


def test_an_unknown_logical_name_is_named_with_its_parameter(mesh):
    with pytest.raises(UserError, match=r"parameter txt/fc/kernel: logical axis \['mpl'\] has no rule; known: .*'mlp'"):
        shd.param_shardings({"txt": {"fc": {"kernel": boxed(("embed", "mpl"), 4, 4)}}}, mesh)


def test_what_belongs_to_a_parameter_lies_where_it_lies(mesh):
    place = lambda *spec: NamedSharding(mesh, P(*spec))  # noqa: E731
    shardings = {"pos": place("tensor"), "txt": {"pos": place("fsdp", None), "bias": place()}, "bias": place("fsdp")}
    params = {"pos": abstract(8), "txt": {"pos": abstract(8, 4), "bias": abstract(4)}, "bias": abstract(8)}
    state = {
        "params": params,
        "opt": [{"mu": params, "count": abstract()}, {"factored": {"txt": {"pos": abstract(8)}}}],
        "teacher": {"txt": {"pos": abstract(8, 4)}},
        "stats": {"bn": {"mean": abstract(8)}},
    }
    placed = jax.tree.map(lambda s: s.spec, shd.state_shardings(state, {"params": shardings}, mesh))
    assert placed["params"] == placed["opt"][0]["mu"] == jax.tree.map(lambda s: s.spec, shardings)
    # "txt/bias" is replicated, which is no reason to take the shorter "bias"; so for a moment of another rank.
    assert placed["opt"][0]["mu"]["txt"]["bias"] == P() and placed["opt"][1]["factored"]["txt"]["pos"] == P()
    assert placed["teacher"]["txt"]["pos"] == P("fsdp", None)
    assert placed["opt"][0]["count"] == P() and placed["stats"]["bn"]["mean"] == P()


def test_constraints_are_lowered_under_use_mesh(mesh):
    def f(x):
        return nn.with_logical_constraint(x, ("batch", "mlp")) * 2

    with shd.use_mesh(mesh):
        y = jax.jit(f)(np.ones((8, 4), np.float32))
    assert y.sharding.shard_shape(y.shape) == (2, 2)
