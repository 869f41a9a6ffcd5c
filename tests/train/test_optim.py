"""Optimizers against updates written by hand; schedules, decay and rates per parameter, in loop and in scan form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.core import sharding, trees
from mmjax.core.errors import UserError
from mmjax.core.stacking import stack_blocks
from mmjax.train.optim import decay_mask, learning_rate, make_optimizer, rate_factors
from mmjax.train.stage import Stage

DEPTH = 3


def block(seed):
    draw = np.random.default_rng(seed).normal
    return {"norm1": {"scale": draw(size=(4,))}, "attn": {"q": {"kernel": draw(size=(4, 4)), "bias": draw(size=(4,))}}}


@pytest.fixture(scope="module")
def params():
    """As in a ViT with a text table and a free scalar."""
    draw = np.random.default_rng(9).normal
    img = {
        "patch": {"kernel": draw(size=(2, 2, 3, 4))},
        "cls": draw(size=(4,)),
        "pos": draw(size=(5, 4)),
        "transformer": {f"block_{i}": block(i) for i in range(DEPTH)},
        "norm_post": {"scale": draw(size=(4,))},
    }
    txt = {"embed": {"embedding": draw(size=(6, 4))}}
    tree = {"img": img, "txt": txt, "img_proj": {"kernel": draw(size=(4, 2))}, "log_scale": np.float64(1.0)}
    return jax.tree.map(np.float32, tree)


def values(tree):
    return {path: np.asarray(value).tolist() for path, value in trees.flatten(tree).items()}


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, {0: 0.8, 5: 0.8, 9: 0.8}),
        ({"schedule": "constant", "warmup": 4}, {0: 0.0, 1: 0.2, 3: 0.6, 4: 0.8, 9: 0.8}),
        ({"schedule": "linear", "warmup": 2, "end_lr": 0.4}, {0: 0.0, 1: 0.4, 2: 0.8, 6: 0.6, 10: 0.4}),
        ({"schedule": "exponential", "warmup": 2, "end_lr": 0.2}, {1: 0.4, 2: 0.8, 6: 0.4, 10: 0.2, 12: 0.2}),
        ({"schedule": "cosine"}, {0: 0.8, 5: 0.4, 10: 0.0}),
        # half way of the eight steps after warm-up; a quarter: (1 + cos 45°) / 2
        ({"warmup": 2}, {0: 0.0, 1: 0.4, 2: 0.8, 4: 0.8 * (1 + 0.5**0.5) / 2, 6: 0.4, 10: 0.0}),
        ({"warmup": 2, "end_lr": 0.2}, {2: 0.8, 6: 0.5, 10: 0.2}),
        ({"warmup": 10}, {0: 0.0, 5: 0.4, 9: 0.72, 10: 0.8}),
    ],
)  # fmt: skip
def test_schedules(settings, expected):
    rate = learning_rate(Stage(steps=10, lr=0.8, **settings))
    np.testing.assert_allclose([rate(step) for step in expected], list(expected.values()), atol=1e-7)


def test_a_rate_of_zero_is_zero_everywhere():
    assert learning_rate(Stage(steps=4, lr=0.0))(2) == 0.0


# ---------------------------------------------------------------- which parameters


def test_decay_spares_gains_biases_and_scalars(params):
    decayed = {path for path, on in trees.flatten(decay_mask(params)).items() if on}
    kernels = {f"img/transformer/block_{i}/attn/q/kernel" for i in range(DEPTH)}
    assert decayed == kernels | {"img/patch/kernel", "img/pos", "txt/embed/embedding", "img_proj/kernel"}


def test_a_scanned_bias_is_no_matrix(params):
    mask = trees.flatten(decay_mask(stack_blocks(params)))
    assert mask["img/transformer/blocks/attn/q/kernel"]
    assert not mask["img/transformer/blocks/attn/q/bias"] and not mask["img/transformer/blocks/norm1/scale"]


def test_no_decay_patterns(params):
    mask = trees.flatten(decay_mask(params, ("img/pos", "txt/.*")))
    assert not mask["img/pos"] and not mask["txt/embed/embedding"] and mask["img/patch/kernel"]
    every = (r"img/transformer/block_\d+/attn/q/kernel",)
    assert not trees.flatten(decay_mask(stack_blocks(params), every))["img/transformer/blocks/attn/q/kernel"]
    with pytest.raises(UserError, match=r"some layers of the scanned img/transformer/blocks/attn/q/kernel"):
        decay_mask(stack_blocks(params), ("img/transformer/block_0/.*",))
    with pytest.raises(UserError, match=r"no_decay \['img/positions'\] matches no parameter"):
        decay_mask(params, ("img/positions",))


ABOVE = {"layers": (("txt/embed/.*", "above"),)}  # the text table has no blocks: where it stands must be said


def test_layer_decay_falls_from_the_head_to_the_embeddings(params):
    flat = trees.flatten(rate_factors(params, Stage(steps=1, lr=1.0, layer_decay=0.5, **ABOVE)))
    assert flat["img_proj/kernel"] == flat["log_scale"] == flat["img/norm_post/scale"] == 1.0
    assert [flat[f"img/transformer/block_{i}/norm1/scale"] for i in (2, 1, 0)] == [0.5, 0.25, 0.125]
    assert flat["img/patch/kernel"] == flat["img/pos"] == flat["img/cls"] == 0.0625
    assert flat["txt/embed/embedding"] == 1.0


@pytest.mark.parametrize("frozen", ["block_[12]/.*", "block_0/.*"])
def test_layer_decay_counts_frozen_blocks(params, frozen):
    """A block's factor is its own, whatever else of the tower trains."""
    stage = Stage(steps=1, lr=1.0, layer_decay=0.5, train=(".*",), **ABOVE)
    _, trainable = trees.split(params, (f"img/transformer/{frozen}",))
    all_factors = trees.flatten(rate_factors(params, stage))
    flat = trees.flatten(rate_factors(trainable, stage, params))
    assert flat == {path: all_factors[path] for path in flat} and len(flat) < len(all_factors)


@pytest.mark.parametrize(
    "settings",
    [
        {"layer_decay": 0.5, **ABOVE},
        {"lr_scale": (("img/transformer/block_0/.*", 0.1), ("img/.*", 0.5), (".*/kernel", 3.0))},
        {"lr_scale": (("img/.*", 0.5),), "layer_decay": 0.9, **ABOVE},
    ],
)
def test_loop_and_scan_have_the_same_factors(params, settings):
    stage = Stage(steps=1, lr=1.0, **settings)
    full = lambda tree: jax.tree.map(lambda p, f: np.broadcast_to(f, p.shape), tree, rate_factors(tree, stage))  # noqa: E731
    loop, scan = full(params), full(stack_blocks(params))
    assert values(stack_blocks(loop)) == values(scan)


def test_the_first_matching_pattern_scales(params):
    stage = Stage(steps=1, lr=1.0, lr_scale=((".*/pos", 0.0), ("img/.*", 0.1)))
    flat = trees.flatten(rate_factors(params, stage))
    assert (flat["img/pos"], flat["log_scale"]) == (0.0, 1.0)
    assert flat["img/cls"] == pytest.approx(0.1)


def test_a_scale_for_nothing_is_an_error_that_lists_parameters(params):
    stage = Stage(steps=1, lr=1.0, lr_scale=(("image/.*", 0.1),))
    with pytest.raises(UserError, match=r"lr_scale \['image/\.\*'\] matches no parameter; .*'img', 'img_proj'"):
        make_optimizer(stage, params)


# ---------------------------------------------------------------- updates

SMALL = {"w": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "b": jnp.array([0.3, -0.1])}
GRADS = [{"w": jnp.array([[0.1, -0.4], [0.0, 2.0]]) * k, "b": jnp.array([1.0, -1.0]) * k} for k in (1.0, -0.5, 3.0)]


def run(stage, grads=GRADS, params=SMALL):
    tx = make_optimizer(stage, params)
    opt = tx.init(params)
    for grad in grads:
        updates, opt = tx.update(grad, opt, params)
        params = optax.apply_updates(params, updates)
    return params


def by_hand(stage, rule, grads=GRADS):
    """Decoupled decay on matrices only; `rule(moments, gradient, step)` -> (direction, moments)."""
    rate, out = learning_rate(stage), {}
    for name, start in SMALL.items():
        p, moments = np.asarray(start, np.float64), (0.0, 0.0)
        for step, grad in enumerate(grads):
            direction, moments = rule(moments, np.asarray(grad[name], np.float64), step + 1)
            decay = stage.weight_decay if p.ndim > 1 else 0.0
            p = p - float(rate(step)) * (direction + decay * p)
        out[name] = p
    return out


def assert_close(params, expected):
    for name in expected:
        np.testing.assert_allclose(params[name], expected[name], rtol=2e-6)


def test_adamw():
    stage = Stage(steps=3, lr=0.1, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.2, schedule="linear")

    def adam(moments, g, t):
        m, v = 0.8 * moments[0] + 0.2 * g, 0.95 * moments[1] + 0.05 * g * g
        return (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-3), (m, v)

    assert_close(run(stage), by_hand(stage, adam))


def test_lion():
    stage = Stage(steps=3, lr=0.1, b1=0.9, b2=0.99, weight_decay=0.2, optimizer="lion")

    def lion(moments, g, _):
        return np.sign(0.9 * moments[0] + 0.1 * g), (0.99 * moments[0] + 0.01 * g, 0.0)

    assert_close(run(stage), by_hand(stage, lion))


def test_adafactor():
    """A matrix of two axes of 128 or more is factored; b2 bounds the decay; then clipping, momentum, decay."""
    draw = np.random.default_rng(3).normal
    params = {"w": np.float32(draw(size=(128, 130))), "b": np.float32(draw(size=5))}
    grads = [{"w": np.float32(draw(size=(128, 130)) * s), "b": np.float32(draw(size=5))} for s in (0.1, 3.0, 1.0, 0.2)]
    settings = {"lr": 0.1, "b1": 0.9, "b2": 0.5, "weight_decay": 0.2, "schedule": "constant"}
    found = run(Stage(steps=4, optimizer="adafactor", **settings), grads, params)
    p = {k: v.astype(np.float64) for k, v in params.items()}
    rows, columns, v, momentum = np.zeros((128, 1)), np.zeros((1, 130)), np.zeros(5), {"w": 0.0, "b": 0.0}
    for step, g in enumerate(grads):
        beta = min(1 - (step + 1) ** -0.8, 0.5)
        square = np.float64(g["w"]) ** 2
        rows = beta * rows + (1 - beta) * square.mean(1, keepdims=True)
        columns = beta * columns + (1 - beta) * square.mean(0, keepdims=True)
        v = beta * v + (1 - beta) * np.float64(g["b"]) ** 2
        update = {"w": g["w"] / np.sqrt(rows * columns / rows.mean()), "b": g["b"] / np.sqrt(v)}
        for k, decayed in (("w", 0.2), ("b", 0.0)):
            update[k] = update[k] / max(1.0, np.sqrt(np.mean(update[k] ** 2)))
            momentum[k] = 0.9 * momentum[k] + 0.1 * update[k]
            p[k] = p[k] - 0.1 * (momentum[k] + decayed * p[k])
    for k in p:
        np.testing.assert_allclose(found[k], p[k], rtol=2e-4, atol=1e-5)


def test_adafactor_keeps_one_moment_and_sums(mesh8):
    """Momentum as large as the parameters, and for the second moment a row and a column; all find their place."""
    params = {"w": jnp.zeros((256, 512)), "bias": jnp.zeros(512)}
    tx = make_optimizer(Stage(steps=1, lr=1.0, optimizer="adafactor"), params)
    state = jax.eval_shape(tx.init, params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 256 * 512 + 3 * 512 + 256 + 20
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, mesh8.devices.reshape(-1))
    placed = {"w": NamedSharding(mesh, P("fsdp", "tensor")), "bias": NamedSharding(mesh, P("tensor"))}
    found = sharding.state_shardings(state, {"params": placed}, mesh)
    assert jax.jit(tx.init, out_shardings=found)(params) is not None
    used = {str(s.spec) for s in jax.tree.leaves(found)}
    assert str(P("fsdp", "tensor")) in used and str(P("tensor")) in used


def test_clipping_is_by_the_global_norm():
    # An epsilon that is large against the gradients makes Adam's update proportional to them: it hides no factor.
    tx = make_optimizer(Stage(steps=1, lr=1.0, b1=0.0, b2=0.0, eps=1e6, schedule="constant", clip=2.0), SMALL)
    for grads in GRADS:
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in grads.values()))
        updates, _ = tx.update(grads, tx.init(SMALL), SMALL)
        for name in SMALL:
            np.testing.assert_allclose(updates[name] * -1e6, grads[name] * min(1, 2 / norm), rtol=1e-4)


def test_scaled_rates_scale_the_whole_update_with_its_decay():
    plain, scaled = ({"lr_scale": s, "steps": 1, "lr": 0.1, "weight_decay": 0.5} for s in ((), (("w", 0.25),)))
    one, two = (run(Stage(**settings), GRADS[:1]) for settings in (plain, scaled))
    np.testing.assert_allclose(two["w"] - SMALL["w"], 0.25 * (one["w"] - SMALL["w"]), rtol=1e-5)
    np.testing.assert_array_equal(two["b"], one["b"])


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "adafactor"])
def test_loop_and_scan_take_the_same_steps(params, optimizer):
    stage = Stage(steps=4, lr=0.1, weight_decay=0.1, layer_decay=0.7, optimizer=optimizer, clip=1.0, **ABOVE)
    grads = jax.tree.map(lambda p: jnp.cos(3 * p), params)
    loop = run(stage, [grads, grads], params)
    scan = run(stage, [stack_blocks(grads)] * 2, stack_blocks(params))
    for path, leaf in trees.flatten(stack_blocks(loop)).items():
        np.testing.assert_allclose(trees.flatten(scan)[path], leaf, rtol=1e-5, atol=1e-6, err_msg=path)
