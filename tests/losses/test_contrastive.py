"""All forms of the contrastive losses against a float64 reference written out by hand, on one and on eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.core.errors import UserError
from mmjax.losses.contrastive import sigmoid_contrastive, softmax_contrastive

MESHES = [(1, 1, 1), (8, 1, 1), (4, 2, 1), (2, 2, 2)]
BOTH = ("data", "fsdp")


def make_mesh(shape):
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def pairs(batch, width=12, noise=2.0, seed=0):
    """Unit vectors; texts are the images and noise."""
    draw = np.random.default_rng(seed).standard_normal((2, batch, width))
    img, txt = draw[0], draw[0] + noise * draw[1]
    return [(z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32) for z in (img, txt)]


def by_hand(img, txt, scale, bias):
    """For softmax and sigmoid: loss and gradients (img, txt, scale, bias), in float64."""
    img, txt, n = np.asarray(img, np.float64), np.asarray(txt, np.float64), len(img)
    cosine, eye = img @ txt.T, np.eye(n)
    logits = scale * cosine
    above = np.exp(logits - logits.max())  # float64 has the range for one common maximum here
    p, q = above / above.sum(1, keepdims=True), above / above.sum(0, keepdims=True)
    softmax = -0.5 * (np.log(np.diag(p)) + np.log(np.diag(q))).mean(), 0.5 * (p + q - 2 * eye) / n
    sign, logits = 2 * eye - 1, logits + bias
    sigmoid = np.log1p(np.exp(-sign * logits)).sum() / n, -sign / (1 + np.exp(sign * logits)) / n
    return [
        (loss, (scale * slope @ txt, scale * slope.T @ img, (slope * cosine).sum(), slope.sum()))
        for loss, slope in (softmax, sigmoid)
    ]


def compute(img, txt, scale, bias, **form):
    """For softmax and sigmoid: loss and gradients (img, txt, scale[, bias]); one program, to compile it once."""
    softmax = jax.value_and_grad(lambda *a: softmax_contrastive(*a, **form).mean, argnums=(0, 1, 2))
    sigmoid = jax.value_and_grad(lambda *a: sigmoid_contrastive(*a, **form).mean, argnums=(0, 1, 2, 3))
    both = jax.jit(lambda i, t, s, b: [softmax(i, t, s), sigmoid(i, t, s, b)])
    return both(img, txt, jnp.float32(scale), jnp.float32(bias))


def assert_same(got, want, rtol):
    """Within rtol of the largest entry of each array."""
    for (loss, grads), (true_loss, true_grads) in zip(got, want, strict=True):
        np.testing.assert_allclose(loss, true_loss, rtol=rtol)
        for grad, true in zip(grads, true_grads, strict=False):  # the softmax has no gradient by the bias
            assert grad.shape == np.shape(true)
            np.testing.assert_allclose(grad, true, rtol=0, atol=rtol * np.abs(true).max())


def test_plain_is_the_equation():
    img, txt = pairs(24)
    assert_same(compute(img, txt, 8.0, -6.0), by_hand(img, txt, 8.0, -6.0), 2e-6)


@pytest.mark.parametrize("block", [None, 1, 7, 23, 100])
def test_blocked_with_any_block(block):
    img, txt = pairs(24)
    assert_same(compute(img, txt, 8.0, -6.0, form="blocked", block=block), by_hand(img, txt, 8.0, -6.0), 2e-6)


@pytest.mark.parametrize("shape", MESHES)
def test_plain_and_ring_on_any_devices(shape):
    """The negatives are those of the global batch, wherever its rows lie."""
    img, txt = pairs(24)
    want = by_hand(img, txt, 8.0, -6.0)
    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
        img, txt = jax.device_put((img, txt), NamedSharding(mesh, PartitionSpec(BOTH)))
        assert_same(compute(img, txt, 8.0, -6.0), want, 2e-6)
        ring = compute(img, txt, 8.0, -6.0, form="ring", axis=BOTH)
        assert_same(ring, want, 2e-6)
        assert ring[0][1][0].sharding.is_equivalent_to(img.sharding, 2)


@pytest.mark.parametrize(("axis", "block"), [("data", None), (BOTH, 2), (("fsdp", "data"), 1), (("fsdp",), 5)])
def test_ring_over_any_axes_in_any_blocks(axis, block):
    img, txt = pairs(24)
    with jax.set_mesh(make_mesh((4, 2, 1))):
        got = compute(img, txt, 8.0, -6.0, form="ring", axis=axis, block=block)
    assert_same(got, by_hand(img, txt, 8.0, -6.0), 2e-6)


def test_blocked_with_a_sharded_batch(mesh8):
    img, txt = pairs(24)
    with jax.set_mesh(mesh8):
        sharded = jax.device_put((img, txt), NamedSharding(mesh8, PartitionSpec("data")))
        got = compute(*sharded, 8.0, -6.0, form="blocked", block=5)
    assert_same(got, by_hand(img, txt, 8.0, -6.0), 2e-6)


def test_ring_without_jit(mesh8):
    img, txt = map(jnp.asarray, pairs(16))
    with jax.set_mesh(mesh8):
        grads = jax.value_and_grad(lambda x, y: softmax_contrastive(x, y, 8.0, form="ring").mean, argnums=(0, 1))
        assert_same([grads(img, txt)], by_hand(img, txt, 8.0, 0.0)[:1], 2e-6)


@pytest.mark.parametrize("form", ["blocked", "ring"])
def test_gradients_stay_exact_near_convergence(form, mesh8):
    """At scale 100 and all pairs found, the loss is far below float32's resolution of the logits."""
    img, txt = pairs(16, width=16, noise=0.6)
    want = by_hand(img, txt, 100.0, -50.0)
    assert 1e-12 < want[0][0] < 1e-5  # float64 itself stops at 1e-16
    with jax.set_mesh(mesh8):
        # what is left is the rounding of the logits themselves: 100 · 2^-24, a few times over
        assert_same(compute(img, txt, 100.0, -50.0, form=form), want, 5e-5)


@pytest.mark.parametrize("form", ["plain", "blocked", "ring"])
def test_batch_of_one(form):
    img, txt = pairs(1)
    with jax.set_mesh(make_mesh((1, 1, 1))):
        got = compute(img, txt, 8.0, -6.0, form=form)
    softmax, (true_loss, true_grads) = by_hand(img, txt, 8.0, -6.0)
    jax.tree.map(lambda x: np.testing.assert_allclose(x, 0.0, atol=1e-6), (softmax, got[0]))  # nothing to tell apart
    assert_same(got[1:], [(true_loss, true_grads)], 2e-6)


def test_term_keeps_sum_and_count_apart():
    img, txt = map(jnp.asarray, pairs(6))
    for term in (softmax_contrastive(img, txt, 3.0), sigmoid_contrastive(img, txt, 3.0, -1.0)):
        assert (float(term.count), term.weight) == (6.0, 1.0)
        assert term.sum.dtype == term.count.dtype == jnp.float32
        assert term.sum.shape == term.count.shape == ()


@pytest.mark.parametrize("form", ["plain", "blocked"])
def test_losses_are_computed_in_float32(form):
    img, txt = (jnp.asarray(z, jnp.bfloat16) for z in pairs(24))
    for (loss, grads), (true_loss, _) in zip(
        compute(img, txt, 8.0, -6.0, form=form), by_hand(img, txt, 8.0, -6.0), strict=True
    ):
        assert loss.dtype == jnp.float32
        assert grads[0].dtype == jnp.bfloat16
        np.testing.assert_allclose(loss, true_loss, rtol=2e-6)


def temporaries(batch, **form):
    """Bytes of temporary memory of loss and gradients on one device."""
    loss = functools.partial(softmax_contrastive, **form)
    grad = jax.jit(jax.grad(lambda x, y: loss(x, y, 10.0).mean, argnums=(0, 1)))
    rows = jax.ShapeDtypeStruct((batch, 32), jnp.float32)
    if form["form"] == "ring":
        mesh = make_mesh((8, 1, 1))
        rows = jax.ShapeDtypeStruct(rows.shape, rows.dtype, sharding=NamedSharding(mesh, PartitionSpec("data")))
        with jax.set_mesh(mesh):
            compiled = grad.lower(rows, rows).compile()
        assert "all-gather" not in compiled.as_text()
        assert "collective-permute" in compiled.as_text()
    else:
        compiled = grad.lower(rows, rows).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_no_form_but_plain_holds_the_logits():
    plain, matrix = temporaries(4096, form="plain"), 4096 * 4096 * 4
    assert plain >= matrix
    assert temporaries(4096, form="blocked", block=256) < matrix / 16
    assert temporaries(4096, form="ring", block=256) < matrix / 16


ONES = np.ones((16, 4), np.float32)
WRONG = [
    ({"txt": ONES[:6]}, r"\(8, 4\).*\(6, 4\)"),
    ({"img": ONES[:8, :3]}, r"\(8, 3\).*\(8, 4\)"),
    ({"img": ONES[:0], "txt": ONES[:0]}, "at least 1"),
    ({"form": "auto"}, "'auto'.*plain, blocked, ring"),
    ({"block": 4}, "block=4.*plain"),
    ({"form": "blocked", "block": 0}, "block=0"),
    ({"form": "ring"}, "needs a mesh"),
    ({"form": "ring", "mesh": True, "axis": "dataa"}, "dataa.*fsdp"),
    ({"form": "ring", "mesh": True, "axis": ()}, "the mesh has"),
    ({"form": "ring", "mesh": True, "axis": BOTH, "img": ONES[:9], "txt": ONES[:9]}, "9 does not divide.*8"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_mistakes_are_named(change, message, mesh8):
    call = {"img": ONES[:8], "txt": ONES[:8], "scale": 1.0} | change
    mesh = call.pop("mesh", False)
    for loss in (softmax_contrastive, functools.partial(sigmoid_contrastive, bias=0.0)):
        with pytest.raises(UserError, match=message):
            arguments = {key: jnp.asarray(x) if key in ("img", "txt") else x for key, x in call.items()}
            if mesh:
                with jax.set_mesh(mesh8):
                    loss(**arguments)
            else:
                loss(**arguments)
