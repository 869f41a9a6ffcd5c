"""Damaged checkpoints: whatever happens to a file, what was saved comes back, or the step is named and passed over."""

import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from mmjax.core.errors import UserError
from mmjax.train import checkpoint, stored
from mmjax.train.state import State

ROOT = pathlib.Path(__file__).parents[2]


def make_state(step):
    # Noise does not compress: most of the file is the numbers themselves, which the format does not protect.
    draw = lambda i, *shape: jax.random.normal(jax.random.key(100 * step + i), shape)  # noqa: E731
    params = {"txt": {"kernel": draw(0, 64, 32), "bias": draw(1, 4)}}
    return State(
        jax.numpy.int32(step), params, {"img": {"kernel": draw(2, 32, 32)}},
        {"batch_stats": {"img": {"mean": draw(3, 4)}}}, optax.adam(1e-3).init(params), {}, jax.random.key(step),
    )  # fmt: skip


def place(_meta=None):
    shapes = jax.eval_shape(lambda: make_state(0))
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return shapes, jax.tree.map(lambda _: where, shapes)


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint._storable(state))]


def assert_is_step(state, step):
    for found, expected in zip(leaves(state), leaves(make_state(step)), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    saver = checkpoint.Checkpointer(directory, keep=9, description={"system": {"name": "clip"}, "config": None})
    for step in (1, 2, 3):
        saver.save(step, make_state(step), {"stage": "a", "data": {"step": step}, "evaluate": "student"})
    saver.close()
    return directory


@pytest.fixture
def run(original, tmp_path):
    return pathlib.Path(shutil.copytree(original, tmp_path / "checkpoints"))


def numbers(directory, step):
    """The file that holds most of a step's numbers."""
    return max((p for p in (directory / str(step)).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 4
    path.write_bytes(data)


def restore(directory):
    saver = checkpoint.Checkpointer(directory)
    try:
        return saver.restore_last(place)
    finally:
        saver.close()


DAMAGES = {
    "numbers cut": lambda step: cut(numbers(step.parent, step.name)),
    "numbers flipped": lambda step: flip(numbers(step.parent, step.name)),
    "numbers missing": lambda step: numbers(step.parent, step.name).unlink(),
    "state missing": lambda step: shutil.rmtree(step / "state"),
    "empty folder": lambda step: [shutil.rmtree(step), step.mkdir()],
    "tree cut": lambda step: cut(step / "state" / "_METADATA"),
    "meta missing": lambda step: shutil.rmtree(step / "meta"),
    "meta cut": lambda step: cut(step / "meta" / "metadata"),
    "meta changed": lambda step: (step / "meta" / "metadata").write_text(
        (step / "meta" / "metadata").read_text().replace('"step": 3', '"step": 7').replace('"step":3', '"step":7')
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_training_goes_on_from_the_step_before(name, run, capsys):
    DAMAGES[name](run / "3")
    step, state, meta = restore(run)
    assert step == 2 and meta == {"stage": "a", "data": {"step": 2}, "evaluate": "student"}
    assert_is_step(state, 2)
    said = capsys.readouterr().err
    assert f"checkpoint {run / '3'} is damaged (" in said and "kept as 3.damaged, going on from step 2" in said
    assert checkpoint.steps(run) == [1, 2] and (run / "3.damaged").is_dir()
    saver = checkpoint.Checkpointer(run)  # the step is made again in its place
    saver.save(3, make_state(3), meta)
    saver.close()
    assert_is_step(restore(run)[1], 3)


def test_several_damaged_steps_are_passed_over(run, capsys):
    (run / "3.damaged").mkdir()
    for step in (2, 3):
        flip(numbers(run, step), 0.7)
    assert restore(run)[0] == 1
    said = capsys.readouterr().err
    assert said.count("is damaged") == 2 and {"2.damaged", "3.damaged", "3.damaged1"} <= {p.name for p in run.iterdir()}


def test_no_step_is_whole(run):
    for step in (1, 2, 3):
        cut(run / str(step) / "meta" / "metadata")
    with pytest.raises(UserError) as error:
        restore(run)
    text = str(error.value)
    assert "has no step that is whole: step 3: meta/metadata is not JSON" in text and "step 1: " in text
    assert text.endswith("put a copy back, or begin anew in another directory")
    assert checkpoint.steps(run) == [1, 2, 3]  # nothing was moved
    with pytest.raises(UserError, match="has no step that is whole"):
        checkpoint.load_model(run)


def test_models_are_read_from_the_last_whole_step(run, capsys):
    flip(numbers(run, 3))
    variables = checkpoint.load_model(run)[1]
    np.testing.assert_array_equal(variables["params"]["txt"]["kernel"], make_state(2).params["txt"]["kernel"])
    assert f"checkpoint {run / '3'} is damaged (" in capsys.readouterr().err and checkpoint.steps(run) == [1, 2, 3]
    with pytest.raises(UserError, match=r"damaged, step 3: .*; other steps are \[1, 2\]"):
        checkpoint.load_model(run, 3)


def test_a_model_alone(tmp_path):
    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    checkpoint.save_model(tmp_path, {"name": "clip"}, {"params": {"w": values}})
    flip(numbers(tmp_path, 0))
    with pytest.raises(UserError, match="has no step that is whole: step 0: "):
        checkpoint.load_model(tmp_path)


def test_checkpoints_of_before_have_no_digests_and_are_read(run):
    for step in (1, 2, 3):
        path = run / str(step) / "meta" / "metadata"
        meta = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("digests", "check")}
        path.write_text(json.dumps(meta))
    assert_is_step(restore(run)[1], 3)
    assert checkpoint.load_model(run)[1]["params"]["txt"]["bias"].shape == (4,)


def damage(path, rng):
    """One of what disks, copies and full disks do."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(("flip", "cut", "zeros", "noise", "missing", "longer")) if data else "missing"
    at = rng.randrange(len(data)) if data else 0
    if kind == "missing":
        return path.unlink()
    if kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "longer":
        data += rng.randbytes(rng.randrange(1, 99))
    else:
        size = min(rng.randrange(1, 512), len(data) - at)
        data[at : at + size] = bytes(size) if kind == "zeros" else rng.randbytes(size)
    return path.write_bytes(data)


def fuzz(original, tmp_path, seeds):
    """Either the last step comes back bit for bit, or the one before and the last is kept aside."""
    found = {2: 0, 3: 0}
    for seed in seeds:
        rng = random.Random(seed)
        run = pathlib.Path(shutil.copytree(original, tmp_path / f"fuzz{seed}"))
        damage(rng.choice(sorted(p for p in (run / "3").rglob("*") if p.is_file())), rng)
        step, state, meta = restore(run)
        assert meta["data"] == {"step": step}
        assert_is_step(state, step)
        assert (run / "3.damaged").is_dir() == (step == 2)
        found[step] += 1
        shutil.rmtree(run)
    return found


def test_random_damage(original, tmp_path):
    found = fuzz(original, tmp_path, range(25))
    assert min(found.values()) > 0, found  # some files are of no consequence


@pytest.mark.slow
def test_random_damage_five_hundred_times(original, tmp_path):
    found = fuzz(original, tmp_path, range(1000, 1500))
    assert min(found.values()) > 50, found


FULL = """
import resource, sys
import jax, numpy as np
from mmjax.core.errors import UserError
from mmjax.train import checkpoint, stored
from tests_damage import make_state

saver = checkpoint.Checkpointer(sys.argv[1], description={"system": {}, "config": {}})
saver.save(1, make_state(1), {"stage": "a", "data": {"step": 1}, "evaluate": "student"})
saver.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, resource.RLIM_INFINITY))
try:
    saver.save(2, make_state(2), {"stage": "a", "data": {"step": 2}, "evaluate": "student"})
    saver.close()
except UserError as error:
    print(f"UserError: {error}")
"""


def test_a_full_disk_keeps_what_was_finished(tmp_path):
    """The limit of a file's size stands for the disk's: the system refuses the write in the same way."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    (tmp_path / "tests_damage.py").write_text(pathlib.Path(__file__).read_text())
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "c"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "c could not be written: File too large" in done.stdout and "what was finished before is kept" in done.stdout
    step, state, _ = restore(tmp_path / "c")
    assert step == 1
    assert_is_step(state, 1)


def test_damage_that_another_process_meets_counts_for_all(monkeypatch):
    """What one cannot read nobody takes, and what is a mistake for one ends all."""
    told, others = [], [["damaged", "the array a is not what was saved"], None]

    def every(mine):
        told.append(mine)
        return [mine, others[len(told) - 1]]

    monkeypatch.setattr(stored.processes, "every", every)
    read = lambda step: (f"step {step}", {}, {})  # noqa: E731
    assert stored.last_whole([1, 2], read) == (1, "step 1", {2: "the array a is not what was saved"})
    assert told == [None, None]  # this one has met none
    told.clear()
    others[0] = ["mistake", "of another state"]
    with pytest.raises(UserError, match="of another state"):
        stored.last_whole([1, 2], read)
