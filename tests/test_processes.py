"""Runs of several processes: the same examples and losses however many there are, however they end and begin again."""

import importlib.util
import json
import pathlib
import random
import re
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from PIL import Image

from mmjax.core import processes as shared
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.train import checkpoint
from mmjax.train.writers import read_history

spec = importlib.util.spec_from_file_location("processes", pathlib.Path(__file__).with_name("processes.py"))
assert spec is not None and spec.loader is not None
processes = sys.modules["processes"] = importlib.util.module_from_spec(spec)  # by its path: tests are no package
spec.loader.exec_module(processes)
Job, HEARTBEAT, LOST = processes.Job, processes.HEARTBEAT, shared.LOST

BATCH, STEPS = 16, 24
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    c = ConfigDict()
    c.title = "tiny"
    c.seed = 5
    c.init = ""
    c.system = ConfigDict({
        "name": "clip", "embed_dim": 8,
        "img": {"image_size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2},
        "txt": {"vocab": 400, "length": 8, "width": 16, "depth": 1, "heads": 2, "dropout": 0.1},
    })
    c.tokenizer = ConfigDict({"train_on": "emoji:val", "vocab_size": 400})
    c.data = ConfigDict({"train": "SOURCE", "batch_size": 16, "image": {"preset": "sprite"}, "max_bad": 0.5})
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.stages = ConfigDict({"train": {"lr": 1e-3, "warmup": 2, "clip": 1.0, "weight_decay": 0.1, "steps": 24}})
    c.evals = ConfigDict({"val": {"kind": "retrieval", "data": "emoji:val?style=fluent", "gallery": "emoji:val",
                                  "limit": 60, "resamples": 20}})
    c.every = ConfigDict({"log": 1, "save": 3, "evaluate": 12})
    c.keep = 20
    c.writers = ("jsonl", "csv")
    c.report = ("val",)
    return c
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty pictures, five of them of no use, and the config of a run on them."""
    folder = tmp_path_factory.mktemp("data")
    rng, lines = np.random.default_rng(0), []
    for i in range(60):
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
        if i in (7, 31):
            path.unlink()
        if i in (12, 40, 55):
            path.write_bytes(path.read_bytes()[:60])
        lines.append(json.dumps({"image": path.name, "text": f"a picture of {i} things"}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    config = CONFIG.replace("SOURCE", f"jsonl:{folder / 'pairs.jsonl'}")
    (folder / "tiny.py").write_text(config)
    (folder / "bare.py").write_text(config.replace("    return c\n", "    c.evals, c.report = {}, ()\n    return c\n"))
    return folder


def argv(folder, workdir, config="tiny", **mesh):
    shape = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
    return ["train", f"--config={folder / config}.py", f"--workdir={workdir}", *shape]


def losses(workdir):
    """Step -> (loss, gradient norm); a step has one row."""
    rows = [row for row in read_history(workdir / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in rows}


@pytest.fixture(scope="module")
def reference(folder, tmp_path_factory):
    """The work directory of one process on four devices that nothing interrupted."""
    base = tmp_path_factory.mktemp("reference")
    with Job(argv(folder, base / "run"), base, devices=4) as job:
        assert job.wait() == [0], job.said(0)[-3000:]
    return base / "run"


def assert_same_run(workdir, reference, base):
    """The examples, the losses and the ledger of the run that nothing interrupted."""
    one, two = losses(reference), losses(workdir)
    assert list(one) == list(two) == list(range(1, STEPS + 1))
    for step in one:
        assert two[step][0] == pytest.approx(one[step][0], rel=1e-6), step
        assert two[step][1] == pytest.approx(one[step][1], rel=1e-5), step  # of a gradient that the clipping cuts
    seen = processes.examples(base)
    assert {step: len(rows) for step, rows in seen.items()} == dict.fromkeys(range(1, STEPS + 1), BATCH)
    assert seen == processes.examples(reference.parent)
    assert (workdir / "ledger.jsonl").read_text() == (reference / "ledger.jsonl").read_text() != ""


def lines_of_ours(job, place):
    return [line for line in job.said(place).splitlines() if line.startswith("mmjax")]


def steps(workdir):
    return checkpoint.steps(workdir / "checkpoints")


@pytest.mark.slow
def test_killed_and_started_again_on_other_counts_and_meshes(folder, reference, tmp_path):
    workdir, rng, reached = tmp_path / "run", random.Random(4), 0
    for count, devices, mesh in ((1, 2, {}), (2, 2, {"data": 2, "fsdp": 2}), (4, 1, {"fsdp": 2, "tensor": 2})):
        with Job(argv(folder, workdir, **mesh), tmp_path / f"{count}", count, devices) as job:
            job.wait_until(lambda before=reached: steps(workdir)[-1:] > [before])
            time.sleep(rng.random() * 0.15)
            victim = rng.randrange(count)
            job.kill(victim)
            codes = job.wait(HEARTBEAT + 10)
            assert codes.pop(victim) == -signal.SIGKILL and codes == [LOST] * (count - 1)
            reached = steps(workdir)[-1]
            for place in {*range(count)} - {victim}:
                (said,) = lines_of_ours(job, place)
                assert f"process {place} of {count}: a peer was lost" in said
                assert (
                    f"start the same command again, on any number of processes: it goes on from step {reached}" in said
                )
        assert reached < STEPS, "killed too late: the run was over"
    with Job(argv(folder, workdir, data=2, tensor=2), tmp_path / "last", devices=4) as job:
        assert job.wait() == [0], job.said(0)[-3000:]
    assert_same_run(workdir, reference, tmp_path)
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (workdir, reference)]
    assert metrics[0] == pytest.approx(metrics[1])


@pytest.mark.slow
def test_damage_signals_and_silence(folder, reference, tmp_path):
    """Two processes, found as under SLURM: both pass over a step that cannot be read, stop together, and end together
    where one of them does nothing any more."""
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    directory = workdir / "checkpoints"
    for step in steps(workdir):
        if step > 12:
            shutil.rmtree(directory / str(step))
    tree = directory / "12" / "state" / "_METADATA"
    tree.write_bytes(tree.read_bytes()[:-9])

    with Job(argv(folder, workdir, fsdp=2), tmp_path / "signal", 2, 2, slurm=True) as job:
        job.wait_until(lambda: 15 in steps(workdir))
        job.send(1, signal.SIGTERM)
        assert job.wait(60) == [143, 143], job.said(0)[-3000:]
        said = [line for line in job.said(0).splitlines() if line.startswith("checkpoint ")]
        assert len(said) == 1 and "12 is damaged (" in said[0] and "going on from step 9" in said[0], said
        assert not [line for line in job.said(1).splitlines() if line.startswith("checkpoint ")]
        assert (directory / "12.damaged").is_dir() and 12 in steps(workdir)
    last = steps(workdir)[-1]
    assert list(losses(workdir))[-1] == last < STEPS  # not one step was lost

    with Job(argv(folder, workdir), tmp_path / "silence", 2, 2) as job:
        job.wait_until(lambda: list(losses(workdir))[-1] > last)
        begun = time.monotonic()
        job.send(1, signal.SIGSTOP)
        assert job.processes[0].wait(HEARTBEAT + 15) == LOST, job.said(0)[-3000:]
        assert time.monotonic() - begun > HEARTBEAT / 2
        assert len(lines_of_ours(job, 0)) == 1
    assert steps(workdir)[-1] >= last


def half_written(workdir):
    """Folders of steps that orbax has begun to write, and not yet renamed."""
    return [p.name for p in (workdir / "checkpoints").glob("*orbax-checkpoint-tmp*") if any(p.rglob("*"))]


@pytest.mark.slow
def test_killed_in_the_middle_of_a_save(folder, reference, tmp_path):
    """Two processes are killed with a step half on disk; one goes on from the step before it."""
    workdir = tmp_path / "run"
    with Job(argv(folder, workdir, "bare"), tmp_path / "two", 2, 2) as job:
        # Halted first, to be sure that the step was not completed between the look and the kill.
        job.wait_until(
            lambda: (
                steps(workdir)[:1] == [3] and half_written(workdir) and job.stop_while(lambda: half_written(workdir))
            )
        )
        (partial,) = half_written(workdir)
        for place in (0, 1):
            job.kill(place)
        assert job.wait(10) == [-signal.SIGKILL] * 2
    whole = steps(workdir)[-1]
    assert half_written(workdir) == [partial] and int(partial.partition(".")[0]) == whole + 3
    assert list(losses(workdir))[-1] > whole  # steps that are lost, and done again
    with Job(argv(folder, workdir, "bare"), tmp_path / "one", devices=4) as job:
        assert job.wait() == [0], job.said(0)[-3000:]
    begun = min(processes.examples(tmp_path / "one"))
    assert begun == whole + 1
    assert_same_run(workdir, reference, tmp_path)


def stored_arrays(workdir, step):
    variables = checkpoint.load_model(workdir, step)[1]
    return {path: np.asarray(x) for path, x in trees.flatten(variables).items()}


def assert_same_bits(one, two, steps):
    first, second = losses(one), losses(two)
    assert list(first) == list(second) == list(range(1, steps + 1)) and first == second
    first, second = stored_arrays(one, steps), stored_arrays(two, steps)
    assert first.keys() == second.keys()
    for path, array in first.items():
        np.testing.assert_array_equal(array, second[path], err_msg=path)


@pytest.mark.slow
def test_same_bits_and_damage_that_one_process_meets(folder, tmp_path):
    """Two devices reduce sums of two terms, whose order is no matter: in one process and in two all bits are equal.
    Then the part of a step that process 1 alone reads is damaged: both pass over the step, and arrive at the same."""
    few = ["--config.stages.train.steps=6", "--config.every.save=2"]
    alone, pair = tmp_path / "alone", tmp_path / "pair"
    for workdir, count in ((alone, 1), (pair, 2)):
        with Job([*argv(folder, workdir, "bare", fsdp=2), *few], tmp_path / f"{count}", count, 2 // count) as job:
            assert job.wait() == [0] * count, job.said(0)[-3000:]
    assert_same_bits(alone, pair, 6)

    directory = pair / "checkpoints"
    shutil.rmtree(directory / "6")
    parts = [p for p in (directory / "4" / "state").rglob("*") if p.is_file() and "ocdbt.process_1" in str(p)]
    assert parts, sorted(map(str, (directory / "4").rglob("*")))
    for part in parts:
        content = part.read_bytes()
        part.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with Job([*argv(folder, pair, "bare", fsdp=2), *few], tmp_path / "again", 2, 1) as job:
        assert job.wait() == [0, 0], job.said(0)[-3000:]
        assert processes.damage_met(tmp_path / "again") == {1: [4]}
        (said,) = [line for line in job.said(0).splitlines() if line.startswith("checkpoint ")]
        assert "4 is damaged (" in said and "going on from step 2" in said
    assert_same_bits(alone, pair, 6)


@pytest.mark.slow
def test_evaluation_is_the_same(reference, tmp_path):
    """Metrics of two processes, each of which reads its share of the pictures, equal those of one, bit for bit."""
    found = []
    for count in (1, 2):
        line = ["eval", f"--checkpoint={reference}", f"--json={tmp_path / f'{count}.json'}", "--batch-size=32"]
        with Job(line, tmp_path / f"{count}", count, 4 // count) as job:
            assert job.wait() == [0] * count, job.said(0)[-3000:]
            found.append(json.loads((tmp_path / f"{count}.json").read_text()))
            if count == 2:
                assert "val/image_to_text_R@1" in job.said(0) and "val/" not in job.said(1)
    assert found[0] == found[1] and "val/image_to_text_R@1" in found[0]


@pytest.mark.slow
def test_processes_that_do_not_meet(folder, tmp_path):
    """One line and exit code 2."""
    mistakes = {
        "coordinator_address=localhost:9,num_processes=2": "JAX finds no job here .* that gives process_id; give them",
        "coordinator_address=localhost:9,num_processes=2,process_id=1,initialization_timeout=2":
            "the processes did not meet at localhost:9 within initialization_timeout=2 seconds",
    }  # fmt: skip
    for number, (text, says) in enumerate(mistakes.items()):
        with Job([*argv(folder, tmp_path / "run"), f"--distributed={text}"], tmp_path / f"{number}") as job:
            assert job.wait(60) == [2], job.said(0)[-3000:]
            (said,) = lines_of_ours(job, 0)
            assert re.search(says, said), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "coordinator=localhost:1",
            r"'coordinator=localhost:1'; expected KEY=VALUE with KEY one of coordinator_address",
        ),
        ("process_id", "expected KEY=VALUE"),
        ("coordinator_address=localhost", "expected HOST:PORT, of process 0"),
        ("num_processes=0", "num_processes=0; expected a whole number, at least 1"),
        ("process_id=-1", "process_id=-1; expected a whole number, at least 0"),
        ("num_processes=4,process_id=4", "process_id=4 of num_processes=4; expected 0 to 3"),
        ("heartbeat_timeout_seconds=soon", "expected a whole number"),
    ],
)
def test_mistakes_in_the_argument(text, says):
    with pytest.raises(UserError, match=re.escape("--distributed: ")) as error:
        shared.parse(text)
    assert re.search(says, str(error.value))


def test_the_argument():
    assert shared.parse("") == {}
    found = shared.parse("coordinator_address=[::1]:1234, num_processes=2,process_id=0,heartbeat_timeout_seconds=10")
    assert found == {"coordinator_address": "[::1]:1234", "num_processes": 2, "process_id": 0,
                     "heartbeat_timeout_seconds": 10}  # fmt: skip


def test_one_process_agrees_with_itself():
    assert shared.agree({"a": [1, None]}) == {"a": [1, None]} and shared.every("x") == ["x"]
    assert not shared.is_loss(ValueError("Gloo AllGather failed"))  # there is no other
