"""Kernels in 8 bits: how near they are, that they stay as they are, and adapters that train beside them."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from mmjax import main, systems
from mmjax.commands import models
from mmjax.core import placement, trees
from mmjax.core import sharding as shd
from mmjax.core.errors import UserError
from mmjax.train.stage import Stage
from mmjax.train.state import begin
from mmjax.train.step import train_step
from mmjax.weights import int8

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "llava15" / "a"
LLM = {"vocab": 40, "width": 24, "depth": 2, "heads": 2, "mlp_dim": 20, "init_std": 0.2}
BATCH = {
    "ids": np.random.default_rng(0).integers(1, 40, (8, 9)).astype(np.int32),
    "valid": np.ones((8, 9), bool),
    "mask_loss": np.ones((8, 9), bool),
}


def test_a_kernel_is_rounded_to_half_a_step():
    kernel = np.random.default_rng(0).normal(size=(2, 30, 7)).astype(np.float32)
    kernel[1, :, 3] = 0
    whole, scale = int8.quantize(kernel)
    assert whole.dtype == np.int8 and scale.shape == (2, 7) and np.abs(whole).max() == 127
    assert (np.abs(whole * scale[:, None] - kernel) <= scale[:, None] * 0.5001).all()
    assert (np.abs(whole[1, :, 3]).max(), scale[1, 3]) == (0, 1)


@pytest.mark.parametrize("scan", [False, True])
def test_a_rounded_decoder_computes_what_its_numbers_stand_for(scan):
    config = {"name": "language", "llm": {**LLM, "qkv_bias": True}, "scan": scan, "dtype": "float32"}
    model = systems.build(config)
    variables = jax.tree.map(np.asarray, shd.unbox(model.init(jax.random.key(0), BATCH)))
    system, small = int8.rounded(config, variables)
    rounded = systems.build(system)
    wanted = jax.eval_shape(lambda b: shd.unbox(rounded.init(jax.random.key(0), b)), BATCH)
    kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), wanted)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), small) == kinds
    back, again, found = int8.restored(system, small)
    assert found and back == config and trees.flatten(again).keys() == trees.flatten(variables).keys()
    one, two, exact = (
        np.asarray(m.apply(v, BATCH, method="logits"))
        for m, v in ((rounded, small), (model, again), (model, variables))
    )
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert 0 < np.abs(one - exact).max() < 0.1 * np.abs(exact).max()
    with pytest.raises(UserError, match="its kernels are already"):
        int8.rounded(system, small)


def test_through_a_checkpoint_and_back_to_a_published_layout(tmp_path):
    found = models.load(GOLDEN)
    small = models.round_to_int8(found)
    models.save(small, "mmjax", tmp_path / "small")
    sharding = shd.replicated(shd.make_mesh())
    again = models.load(tmp_path / "small", place=lambda _, array: placement.put(array, sharding))
    assert again.system["llm"] == small.system["llm"] and again.system["llm"]["int8"]
    for path, array in trees.flatten(again.variables).items():
        before = trees.flatten(small.variables)[path]
        assert array.dtype == before.dtype
        np.testing.assert_array_equal(array, before)
    assert sum(leaf.dtype == np.int8 for leaf in jax.tree.leaves(again.variables)) == 7 * found.system["llm"]["depth"]
    models.save(models.from_int8(again), "hf", tmp_path / "hf")
    near, exact = (trees.flatten(models.load(folder).variables) for folder in (tmp_path / "hf", GOLDEN))
    assert near.keys() == exact.keys()
    vocab = found.system["llm"]["vocab"]
    for path, array in near.items():  # the vocabulary has a token for pictures besides
        array = array[:vocab] if path.endswith("llm/embed/embedding") else array
        array = array[:, :vocab] if path.endswith("llm/head/kernel") else array
        np.testing.assert_allclose(array, exact[path], atol=np.abs(exact[path]).max() / 127)


def test_adapters_train_beside_it_and_it_does_not():
    config = {"name": "language", "llm": {**LLM, "int8": True, "lora": {"rank": 2, "alpha": 4.0}}, "dtype": "float32"}
    system, mesh = systems.build(config), shd.make_mesh()
    with shd.use_mesh(mesh):
        made, _, shardings = main.abstract_variables(system, {"system": config, "data": {"text_length": 9}}, mesh)
        variables = jax.jit(lambda key: shd.unbox(made(key)), out_shardings=shardings)(jax.random.key(0))
        with pytest.raises(UserError, match=r"names 14 kernels of 8 bits, such as llm/.* which cannot train; .*_lora"):
            main.optimizer(Stage(1, 0.1, train=("llm/.*",)), variables, shardings, mesh)
        stage = Stage(3, 0.05, train=(".*_lora/.*",))
        tx, placed = main.optimizer(stage, variables, shardings, mesh)
        state = jax.jit(functools.partial(begin, stage, tx), out_shardings=placed)(variables, jax.random.key(1))
        frozen = jax.tree.map(np.array, state.frozen)
        step = main.compiled_step(functools.partial(train_step, system, tx, stage), placed, mesh)
        losses = []
        for _ in range(3):
            state, metrics = step(state, BATCH)
            losses.append(float(metrics["loss"]))
    assert losses[2] < losses[0] and {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {
        np.dtype(np.int8),
        np.dtype(np.float32),
    }
    jax.tree.map(np.testing.assert_array_equal, frozen, jax.tree.map(np.asarray, state.frozen))
