"""Gradients that are written out against those that jax derives from the plain formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.attention import softmax
from mmjax.nn.dense import product
from mmjax.nn.mlp import ACTIVATIONS, activation
from mmjax.nn.norm import standardise


def randn(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def check(written, plain, *arguments):
    """Equal values, and equal gradients by every argument of a sum weighted at random."""
    out = plain(*arguments)
    weights = randn(99, *out.shape)
    np.testing.assert_allclose(written(*arguments), out, atol=1e-6)
    every = tuple(range(len(arguments)))
    ours, theirs = (
        jax.jit(jax.grad(lambda *args, f=f: jnp.sum(weights * f(*args)), every))(*arguments) for f in (written, plain)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * max(1.0, float(jnp.abs(b).max())))


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_standardise(centre, eps):
    def plain(x):
        x = x - x.mean(-1, keepdims=True) if centre else x
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + eps)

    check(lambda x: standardise(x, eps, centre), plain, 3 * randn(0, 2, 5, 16) + 1)


def test_softmax_with_masked_places():
    scores = jnp.where(randn(1, 2, 3, 4, 7) > -0.5, 4 * randn(0, 2, 3, 4, 7), jnp.finfo(jnp.float32).min)

    def plain(x):
        e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
        return e / e.sum(-1, keepdims=True)

    check(softmax, plain, scores)
    assert (softmax(jnp.full((1, 4), jnp.finfo(jnp.float32).min)) == 0.25).all()


@pytest.mark.parametrize("shape", [(7, 4, 9), (7, 9, 4), (5, 6, 6), (3, 1, 2)])
def test_product_of_wide_and_of_narrow_kernels(shape):
    rows, inputs, outputs = shape
    check(product, lambda x, k: jnp.einsum("md,df->mf", x, k), randn(0, rows, inputs), randn(1, inputs, outputs))


def test_only_a_cpu_transposes_beforehand():
    """The program for another platform has the plain product: no barrier in it."""
    x, k = randn(0, 8, 6), randn(1, 6, 4)
    grad = jax.jit(jax.grad(lambda x, k: product(x, k).sum(), (0, 1)))
    texts = {name: grad.trace(x, k).lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu", "cuda")}
    assert {name: "optimization_barrier" in text for name, text in texts.items()} == {
        "cpu": True, "tpu": False, "cuda": False,
    }  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    check(activation(name), ACTIVATIONS[name], 3 * randn(0, 4, 33))


def test_an_activation_keeps_its_input_alone():
    _, pull = jax.vjp(functools.partial(activation("quick_gelu")), randn(0, 4, 33))
    assert sum(leaf.size for leaf in jax.tree.leaves(pull) if jnp.issubdtype(leaf.dtype, jnp.floating)) == 4 * 33
