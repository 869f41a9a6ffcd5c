"""Checkpoints: bit-equal on any mesh, complete or not there at all, and readable without the run."""

import json
import os
import signal
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.train import checkpoint
from mmjax.train.state import State

SYSTEM = {"name": "clip", "embed_dim": 8}
META = {"stage": "train", "data": {"step": 4}, "evaluate": "student"}


class Words:
    """A tokenizer as far as checkpoints know one."""

    def __init__(self, text):
        self.text = text

    def save(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "words.txt").write_text(self.text)


def make_state(seed=0, step=4):
    draw = lambda i, *shape: jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), shape)  # noqa: E731
    params = {"txt": {"kernel": draw(0, 8, 4), "bias": draw(1, 4)}}
    return State(
        jnp.int32(step), params, {"img": {"kernel": draw(2, 4, 4)}}, {"batch_stats": {"img": {"mean": draw(3, 4)}}},
        optax.adam(1e-3).init(params), {"txt": {"kernel": draw(4, 8, 4)}}, jax.random.key(seed + 7),
    )  # fmt: skip


def shardings_of(state, mesh):
    names = {"txt": {"kernel": nn.LogicallyPartitioned(state.params["txt"]["kernel"], ("embed", "mlp"))}}
    known = trees.merge(jax.tree.map(lambda _: NamedSharding(mesh, P()), state.frozen), state.params)
    known = trees.merge(known, shd.param_shardings(jax.eval_shape(lambda: names), mesh))
    known["txt"]["bias"] = NamedSharding(mesh, P())
    return shd.state_shardings(jax.eval_shape(lambda: state), {"params": known}, mesh)


def assert_equal(one, two):
    for (path, a), (other, b) in zip(*(jax.tree_util.tree_leaves_with_path(t) for t in (one, two)), strict=True):
        assert path == other and a.dtype == b.dtype, path
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=trees.path_name(path))


@pytest.fixture(scope="module")
def meshes():
    return [shd.make_mesh({"data": 1}, jax.devices()[:1]), shd.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, meshes):
    """A directory with steps 4 and 6, saved on one device."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    saver = checkpoint.Checkpointer(directory, keep=2, description={"system": SYSTEM, "config": {"seed": 3}})
    for step in (2, 4, 6):
        saver.save(step, make_state(step=step), {**META, "evaluate": "teacher" if step == 6 else "student"})
    saver.close()
    checkpoint.save_tokenizer(directory, Words("a b c"))
    return directory


@pytest.mark.parametrize("which", [0, 1])
def test_states_come_back_bit_for_bit_on_any_mesh(saved, meshes, which):
    state = make_state(step=4)
    placed = shardings_of(state, meshes[which])
    saver = checkpoint.Checkpointer(saved)
    restored = saver.restore(4, jax.eval_shape(lambda: state), placed)
    meta = saver.meta(4)
    saver.close()
    assert meta == META
    assert_equal(restored, state)
    draw = lambda key: np.asarray(jax.random.normal(key, (3,)))  # noqa: E731
    np.testing.assert_array_equal(draw(restored.rng), draw(state.rng))
    kernel = restored.opt[0].mu["txt"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == ((8, 4), (4, 2))[which]
    jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(str(s)), restored, placed)


def test_the_latest_are_kept(saved):
    saver = checkpoint.Checkpointer(saved)
    assert saver.latest() == 6 and checkpoint.steps(saved) == [4, 6]
    saver.close()
    assert checkpoint.steps(saved / "nowhere") == []


def test_another_tree_or_shape_is_refused(saved, meshes):
    state, saver = make_state(), checkpoint.Checkpointer(saved)
    wider = state.replace(params={"txt": {"kernel": jnp.zeros((8, 6)), "bias": jnp.zeros(4)}})
    more = state.replace(frozen={"img": {"weight": jnp.zeros((4, 4))}})
    for wrong, text in (
        (wider, r"4 is of another state: .*shapes \['params/txt/kernel: float32\[8,4\] for float32\[8,6\]'\]"),
        (more, r"missing \['frozen/img/weight'\], unused \['frozen/img/kernel'\]"),
    ):
        placed = jax.tree.map(lambda _: NamedSharding(meshes[0], P()), wrong)
        with pytest.raises(UserError, match=text):
            saver.restore(4, jax.eval_shape(lambda wrong=wrong: wrong), placed)
    saver.close()


def test_a_model_reads_the_weights_that_evaluators_saw(saved):
    state = make_state(step=6)
    for path in (saved, saved.parent, saved / "6"):  # directory, work directory, step
        system, variables, tokenizer, config = checkpoint.load_model(path)
        assert (system, config, tokenizer) == (SYSTEM, {"seed": 3}, saved / "tokenizer")
        assert set(variables) == {"params", "batch_stats"}
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(variables))
        np.testing.assert_array_equal(variables["params"]["txt"]["kernel"], state.teacher["txt"]["kernel"])
        np.testing.assert_array_equal(variables["params"]["txt"]["bias"], state.params["txt"]["bias"])
        np.testing.assert_array_equal(variables["params"]["img"]["kernel"], state.frozen["img"]["kernel"])
    for student in (checkpoint.load_model(saved, 4), checkpoint.load_model(saved / "4")):
        np.testing.assert_array_equal(student[1]["params"]["txt"]["kernel"], state.params["txt"]["kernel"])


def test_what_is_not_there_is_named(saved, tmp_path):
    with pytest.raises(UserError, match=r"has no complete step 5; there are \[4, 6\]"):
        checkpoint.load_model(saved, 5)
    with pytest.raises(UserError, match=r"has no complete step 5; there are \[4, 6\]"):
        checkpoint.load_model(saved / "5")
    with pytest.raises(UserError, match=r"is no mmjax checkpoint: neither it nor .*checkpoints holds mmjax.json"):
        checkpoint.load_model(tmp_path)
    with pytest.raises(UserError, match="tokeniser is no mmjax checkpoint"):
        checkpoint.find(saved / "tokeniser")
    assert checkpoint.find(saved.parent) == checkpoint.find(saved / "4") == saved


def test_formats(tmp_path):
    checkpoint.write_description(tmp_path, {"system": SYSTEM})
    with pytest.raises(UserError, match=r"has no complete step; there are \[\]"):
        checkpoint.load_model(tmp_path)
    (tmp_path / checkpoint.DESCRIPTION).write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match=r"mmjax.json: format 99, this version reads 1"):
        checkpoint.read_description(tmp_path)
    (tmp_path / checkpoint.DESCRIPTION).write_text("{")
    with pytest.raises(UserError, match=r"mmjax.json is not JSON"):
        checkpoint.read_description(tmp_path)


def test_models_alone(tmp_path):
    variables = {
        "params": {"img": {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3)}},
        "batch_stats": {"m": np.ones(2)},
    }
    checkpoint.save_model(tmp_path / "m", SYSTEM, variables, tokenizer=Words("a"), config={"origin": 1})
    system, loaded, tokenizer, config = checkpoint.load_model(tmp_path / "m")
    assert system == SYSTEM and config == {"origin": 1} and (tokenizer / "words.txt").read_text() == "a"
    assert_equal(jax.tree.map(np.asarray, loaded), variables)
    # again, in the same place
    checkpoint.save_model(tmp_path / "m", SYSTEM, jax.tree.map(lambda x: x + 1, variables), tokenizer=Words("b"))
    _, loaded, tokenizer, config = checkpoint.load_model(tmp_path / "m")
    assert config is None and (tokenizer / "words.txt").read_text() == "b"
    np.testing.assert_array_equal(loaded["batch_stats"]["m"], 2.0)


def test_a_model_does_not_go_into_a_run(saved):
    with pytest.raises(UserError, match=r"holds a training run \(steps \[4, 6\]\)"):
        checkpoint.save_model(saved, SYSTEM, {"params": {"w": np.zeros(1)}})


KILLED = """
import os, signal, sys
import jax.numpy as jnp, numpy as np
import orbax.checkpoint as ocp
from mmjax.train import checkpoint
from mmjax.train.state import State
import jax

state = State(jnp.int32(1), {"w": jnp.arange(4.0)}, {}, {}, (), {}, jax.random.key(0))
saver = checkpoint.Checkpointer(sys.argv[1], description={"system": {}, "config": {}})
saver.save(1, state, {"stage": "a"})
saver.wait()
# The second save dies when its arrays are written and its name is not final yet.
rename = os.rename
os.rename = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
os.replace = os.rename
saver.save(2, state, {"stage": "a"})
saver.wait()
"""


def test_a_save_that_was_killed_leaves_the_last_complete_step(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "c")], capture_output=True, env={**os.environ})
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    left = {p.name for p in (tmp_path / "c").iterdir()}
    assert any(name.startswith("2.") for name in left), left  # it had begun
    assert checkpoint.steps(tmp_path / "c") == [1]
    _, variables, _, _ = checkpoint.load_model(tmp_path / "c")
    np.testing.assert_array_equal(variables["params"]["w"], np.arange(4.0))
    state = State(jnp.int32(2), {"w": jnp.ones(4)}, {}, {}, (), {}, jax.random.key(0))
    saver = checkpoint.Checkpointer(tmp_path / "c")
    assert saver.latest() == 1
    saver.save(2, state, META)  # the step is made again, over what was left
    saver.close()
    assert checkpoint.steps(tmp_path / "c") == [1, 2]
    np.testing.assert_array_equal(checkpoint.load_model(tmp_path / "c")[1]["params"]["w"], 1.0)


def test_saving_does_not_see_what_training_does_next(tmp_path):
    """The state's memory is given to the next step while the writer still works."""
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    params = {"w": jnp.zeros((512, 512))}
    saver = checkpoint.Checkpointer(tmp_path / "c", keep=9, description={"system": {}, "config": {}})
    for step in range(4):
        saver.save(step, State(jnp.int32(step), params, {}, {}, (), {}, jax.random.key(0)), META)
        params = advance(params)
    saver.close()
    for step in range(4):
        assert (checkpoint.load_model(tmp_path / "c", step)[1]["params"]["w"] == step).all()


def test_a_tokenizer_is_whole_or_not_there(tmp_path):
    class Broken(Words):
        def save(self, directory):
            super().save(directory)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_tokenizer(tmp_path, Broken("x"))
    assert not (tmp_path / "tokenizer").exists()
    checkpoint.save_tokenizer(tmp_path, Words("y"))
    assert (tmp_path / "tokenizer" / "words.txt").read_text() == "y"
    assert {p.name for p in tmp_path.iterdir()} == {"tokenizer"}
