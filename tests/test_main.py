"""The `main` that users run, on a CLIP of a few thousand parameters: results, and the same bits however interrupted."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mmjax import main, systems
from mmjax.core import config as configs
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.train import checkpoint, loop
from mmjax.train import stored as stored_step
from mmjax.train.writers import read_history

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
    c.data = ConfigDict({"train": "emoji:val", "batch_size": 16, "image": {"preset": "sprite"}, "workers": 0})
    common = {"lr": 1e-2, "warmup": 2, "clip": 1.0, "weight_decay": 0.1}
    c.stages = ConfigDict({
        "towers": {**common, "steps": 14, "train": ["img/.*", "img_proj/.*"]},
        "all": {**common, "steps": 26, "teacher": [".*"], "teacher_decay": 0.5, "evaluate": "teacher"},
    })
    c.evals = ConfigDict({"val": {"kind": "retrieval", "data": "emoji:val?style=fluent", "gallery": "emoji:val"}})
    c.every = ConfigDict({"log": 1, "save": 10, "evaluate": 20})
    c.keep = 20
    c.writers = ("jsonl", "csv")
    c.report = ("val",)
    return c
"""
LAST = 40
TIMES = {"samples_per_s", "step_s", "input_wait"}  # differ from run to run


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def finished(file, tmp_path_factory):
    """(work directory, metrics) of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, main.train(configs.load(file), workdir)


def rows(workdir):
    """What a run logged, less its times: [(step, {name: value})]."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_history(workdir / "metrics.jsonl")]


def csv_rows(workdir):
    header, *lines = [line.split(",") for line in (workdir / "metrics.csv").read_text().splitlines()]
    return [{k: v for k, v in zip(header, line, strict=True) if k not in TIMES} for line in lines]


def stored(workdir, step):
    """Every array of a checkpoint."""
    tree = stored_step.read(workdir / "checkpoints" / str(step) / "state")
    return {trees.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def differences(one, two):
    assert one.keys() == two.keys()
    return {path for path in one if not np.array_equal(one[path], two[path])}


def assert_same_run(workdir, finished):
    """The same numbers, files and bits as the run that nothing interrupted."""
    reference, metrics = finished
    assert rows(workdir) == rows(reference)
    assert csv_rows(workdir) == csv_rows(reference)
    assert json.loads((workdir / "metrics.json").read_text()) == metrics
    steps = checkpoint.steps(reference / "checkpoints")
    assert steps[-1] == LAST
    for step in {*steps} & {*checkpoint.steps(workdir / "checkpoints")}:
        assert not differences(stored(reference, step), stored(workdir, step))


# ---------------------------------------------------------------- one run


def test_a_run_leaves_all_that_it_promises(finished):
    workdir, metrics = finished
    names = {path.name for path in workdir.iterdir()}
    assert {"checkpoints", "metrics.jsonl", "metrics.csv", "metrics.json", "report.html", "curves.png"} <= names
    assert metrics["val/image_to_text_R@1"] >= 0 and json.loads((workdir / "metrics.json").read_text()) == metrics
    trained = [row for row in rows(workdir) if "loss" in row]
    assert [row["step"] for row in trained] == list(range(1, LAST + 1))
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert trained[0].keys() == {"step", "loss", "contrastive", "grad_norm", "param_norm", "lr", "epoch"}
    assert trained[1]["lr"] == pytest.approx(5e-3) and trained[14]["lr"] == 0.0  # each stage warms up
    evaluated = [row["step"] for row in rows(workdir) if "val/image_to_text_R@1" in row]
    assert evaluated == [14, 34, LAST]  # the end of stage 1, step 20 of stage 2, its end
    assert {k: v for k, v in rows(workdir)[-1].items() if k != "step"} == metrics
    assert checkpoint.steps(workdir / "checkpoints") == [10, 14, 24, 34, 40]


def test_stages_train_what_they_name(finished):
    workdir, _ = finished
    first, last, end = (stored(workdir, step) for step in (10, 14, LAST))
    moved = differences(first, last)
    weights = {path for path in moved if path.startswith(("params/", "frozen/"))}
    assert weights and {path.split("/")[1] for path in weights} == {"img", "img_proj"}
    assert {path.split("/")[1] for path in last if path.startswith("frozen/")} == {"txt", "txt_proj", "log_scale"}
    assert not [path for path in end if path.startswith("frozen/")]
    for path in ("txt/pos", "log_scale"):  # stage 2 goes on from stage 1's, and moves it
        assert not np.array_equal(end[f"params/{path}"], last[f"frozen/{path}"])


def test_a_checkpoint_is_enough(finished):
    workdir, _ = finished
    system, variables, tokenizer, config = checkpoint.load_model(workdir)
    assert config["seed"] == 5 and (tokenizer / "tokenizer_config.json").is_file()
    model = systems.build(system)
    out = model.apply(variables, np.zeros((1, 16, 16, 3), np.uint8), method="embed_image")
    assert out.shape == (1, 8)
    teacher = stored(workdir, LAST)["teacher/img/pos"]
    np.testing.assert_array_equal(variables["params"]["img"]["pos"], teacher)  # what was evaluated


def test_a_finished_run_returns_at_once(finished, file, monkeypatch, capsys):
    workdir, metrics = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    monkeypatch.setattr(main, "initial_variables", lambda *_: pytest.fail("nothing is left to train"))
    monkeypatch.setattr(main.systems, "build", lambda *_: pytest.fail("nothing is left to evaluate"))
    assert main.train(configs.load(file), workdir) == metrics
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before
    assert "finished at step 40" in capsys.readouterr().out


def test_another_config_is_refused_with_what_differs(finished, file):
    workdir, _ = finished
    config = configs.load(file, ["--config.seed=6", "--config.stages.all.lr=0.02"])
    with pytest.raises(UserError) as error:
        main.train(config, workdir)
    text = str(error.value)
    assert "holds a run of another config" in text and "Give another --workdir" in text
    assert "config.seed: 5 -> 6; config.stages.all.lr: 0.01 -> 0.02" in text


def test_an_imported_model_is_no_run(file, tmp_path):
    checkpoint.save_model(tmp_path / "checkpoints", {"name": "clip"}, {"params": {"w": np.zeros(1)}})
    with pytest.raises(UserError, match="holds an imported model, not a run"):
        main.train(configs.load(file), tmp_path)


def test_weights_to_begin_with(finished, file):
    workdir, _ = finished
    mesh = shd.make_mesh()
    config = configs.plain(configs.load(file, [f"--config.init={workdir}"]))
    for scan in (False, True):  # a scanned model begins with the weights of an unrolled one
        system = systems.build({**config["system"], "scan": scan})
        with shd.use_mesh(mesh):
            variables, _ = main.initial_variables(system, config, mesh, jax.random.key(0))
        loaded = checkpoint.load_model(workdir)[1]["params"]
        kernel = loaded["txt"]["transformer"]["block_0"]["attn"]["q"]["kernel"]
        blocks = variables["params"]["txt"]["transformer"]
        begun = (blocks["blocks"] if scan else blocks["block_0"])["attn"]["q"]["kernel"]
        np.testing.assert_array_equal(begun[0] if scan else begun, kernel)
        np.testing.assert_array_equal(variables["params"]["img"]["pos"], loaded["img"]["pos"])
    wider = {**config, "system": {**config["system"], "embed_dim": 12}}
    with shd.use_mesh(mesh), pytest.raises(UserError, match=r"shapes \[.*img_proj/kernel"):
        main.initial_variables(systems.build(wider["system"]), wider, mesh, jax.random.key(0))


# ---------------------------------------------------------------- mistakes are found before anything runs


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sede": 1}, r'config.sede does not exist; did you mean "seed"\?'),
        ({"stages": {}}, "config.stages is missing or empty"),
        ({"every": {"logs": 1}}, r'config.every.logs does not exist; did you mean "log"\?'),
        ({"report": ["vall"]}, r"config.report names \['vall'\], which config.evals lacks; it has \['val'\]"),
        ({"keep": 0}, "config.keep = 0; valid: at least 1"),
        ({"mesh": {"model": 2}}, r"mesh axis \['model'\] does not exist"),
        ({"stages": {"a": {"steps": 1, "lr": 1.0}, "b": {"steps": 1, "lr": 1.0, "data": {"batch_size": 12}}}},
         "batch size 12 does not divide over 8 devices"),
        ({"stages": {"a": {"steps": 1, "lr": 1.0}, "b": {"steps": 1, "lr": 1.0, "data": {"worker": 1}}}},
         r'config.data.worker does not exist; did you mean "workers"\?'),
        ({"stages": {"a": {"steps": 1, "lr": 1.0}, "b": {"steps": 1, "lr": 1.0, "train": ["image/.*"]}}},
         r"train \['image/\.\*'\] matches no parameter; top-level modules: \['img'"),
        ({"tokenizer": {"train_on": "emoji:val", "vocab_size": 401}},
         "config.system.txt.vocab = 400, but the tokenizer has 401"),
        ({"writers": ["csvv"]}, r"metric writer \['csvv'\] does not exist"),
    ],
)  # fmt: skip
def test_mistakes(file, tmp_path, change, text):
    config = {**configs.plain(configs.load(file)), **change}
    with pytest.raises(UserError, match=text):
        main.train(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())  # the same directory takes the mended config


def test_missing_keys(file, tmp_path):
    config = configs.plain(configs.load(file))
    del config["tokenizer"]
    with pytest.raises(UserError, match="tokenizer is missing or empty: kind, and"):
        main.train(config, tmp_path)


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(file, tmp_path):
    config = configs.plain(configs.load(file))
    stages = {
        "good": {**config["stages"]["towers"], "steps": 2},
        "bad": {"steps": 3, "lr": 1e30, "schedule": "constant"},
    }
    config |= {"stages": stages, "every": {"log": 2, "save": 1}, "evals": {}, "report": []}
    with pytest.raises(loop.DivergedError, match=r"step 3: .*param_norm = (inf|nan)"):
        main.train(config, tmp_path)
    assert checkpoint.steps(tmp_path / "checkpoints") == [1, 2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(checkpoint.load_model(tmp_path)[1]))


# ---------------------------------------------------------------- interruptions


def command(file, workdir, *more):
    return [sys.executable, "-m", "mmjax.cli", "train", f"--config={file}", f"--workdir={workdir}", *more]


def start(file, workdir, *more, **options):
    with (workdir.parent / "log").open("ab") as log:
        return subprocess.Popen(command(file, workdir, *more), stdout=log, stderr=log, **options)


def wait_for(workdir, step, process):
    """Returns when the process has logged `step`, past all that was saved before; it is somewhere behind it then."""
    log, begun, deadline = workdir / "metrics.jsonl", time.time_ns(), time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode}: {(workdir.parent / 'log').read_text()[-2000:]}")
        # An older file is what an earlier process left: the rows behind its last checkpoint come again.
        lines = log.read_text().splitlines() if log.is_file() and log.stat().st_mtime_ns > begun else []
        if any(f'"step": {s},' in lines[-1] for s in range(step, LAST + 1) if lines):
            return
        time.sleep(0.002)
    pytest.fail(f"step {step} never came")


def end_of_group(process, signum, log):
    """Sends the signal to a run and its data workers, as terminals and schedulers do; (exit code, what it printed)."""
    os.killpg(process.pid, signum)
    code, deadline = process.wait(60), time.monotonic() + 30
    while time.monotonic() < deadline:  # what Python leaves behind to clean up prints last
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return code, log.read_text()
        time.sleep(0.02)
    pytest.fail("a process of the run's group is still there")


def test_sigterm_then_sigkill_then_the_end_equal_the_uninterrupted_run(file, finished, tmp_path):
    workdir = tmp_path / "run"
    process = start(file, workdir, "--config.data.workers=1", start_new_session=True)
    wait_for(workdir, random.randrange(1, 8), process)
    code, text = end_of_group(process, signal.SIGTERM, tmp_path / "log")
    assert code == 143 and "SIGTERM: saved; the same command goes on from here" in text
    assert "resource_tracker" not in text and "Traceback" not in text  # no shared memory is left, no worker complains
    at = checkpoint.steps(workdir / "checkpoints")[-1]
    assert rows(workdir)[-1]["step"] == at  # not one step was lost

    process = start(file, workdir, "--config.data.workers=1")
    wait_for(workdir, random.randrange(max(at + 1, 16), 34), process)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    reached = checkpoint.steps(workdir / "checkpoints")[-1]
    assert reached < LAST, f"killed too late: the run was over (at {reached})"

    metrics = main.train(configs.load(file), workdir)  # without workers: the batches are the same
    assert metrics == finished[1]
    assert_same_run(workdir, finished)


@pytest.mark.slow
def test_killed_at_random_again_and_again(file, finished, tmp_path):
    workdir, kills = tmp_path / "run", []
    for number in range(6):
        process = start(file, workdir, "--config.data.workers=2", "--config.every.save=4", start_new_session=True)
        done = max(checkpoint.steps(workdir / "checkpoints"), default=0)
        wait_for(workdir, min(done + random.randrange(1, 9), LAST - 1), process)
        time.sleep(random.random() * 0.1)
        if number % 3 == 2:  # to the whole group, data workers included: as `timeout` and schedulers do
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.kill()
        kills.append((done, process.wait(60)))
        if kills[-1][1] == 0:
            break
    assert {code for _, code in kills} <= {143, -signal.SIGKILL, 0}, (kills, (tmp_path / "log").read_text()[-3000:])
    assert kills[-1][0] > 0, kills  # it got on
    subprocess.run(command(file, workdir, "--config.data.workers=2"), check=True, capture_output=True)
    assert_same_run(workdir, finished)


@pytest.mark.slow
def test_killed_while_it_evaluates_or_reports(file, finished, tmp_path, monkeypatch):
    """The rows of an evaluation come once, whether it was lost before or after they were written."""
    workdir = tmp_path / "run"

    class Killed(BaseException):
        pass

    calls = []

    def dying(self, step, values, original=main.writers.MetricWriter.write):
        evaluation = "val/image_to_text_R@1" in values
        if evaluation and (step, "before") not in calls:
            calls.append((step, "before"))
            raise Killed
        original(self, step, values)
        if evaluation and (step, "after") not in calls:
            calls.append((step, "after"))
            raise Killed

    monkeypatch.setattr(main.writers.MetricWriter, "write", dying)
    config = configs.load(file)
    for _ in range(20):
        try:
            main.train(config, workdir)
            break
        except Killed:
            continue
    assert calls == [(step, when) for step in (14, 34, LAST) for when in ("before", "after")]
    assert_same_run(workdir, finished)


def test_damaged_checkpoints_are_passed_over_and_made_again(file, finished, tmp_path, capsys):
    """The run goes on from the last step that is whole, says so, and ends with the bits of one that nothing befell."""
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    for name in ("metrics.json", "report.html"):
        (workdir / name).unlink()
    directory = workdir / "checkpoints"
    tree = directory / str(LAST) / "state" / "_METADATA"
    tree.write_bytes(tree.read_bytes()[:-9])
    shutil.rmtree(directory / "34" / "meta")
    assert main.train(configs.load(file), workdir) == finished[1]
    said = capsys.readouterr().err
    for step in (34, LAST):
        assert f"checkpoint {directory / str(step)} is damaged (" in said and f"kept as {step}.damaged" in said
    assert "going on from step 24" in said
    assert checkpoint.steps(directory) == [10, 14, 24, 34, LAST]
    assert_same_run(workdir, finished)


FULL_DISK = """
import pathlib, resource, sys, threading, time
from mmjax import cli

def fill():
    while not (pathlib.Path(sys.argv[1]) / "checkpoints" / "10").is_dir():
        time.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, resource.RLIM_INFINITY))

threading.Thread(target=fill, daemon=True).start()
sys.exit(cli.main(["train", f"--config={sys.argv[2]}", f"--workdir={sys.argv[1]}"]))
"""


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_one_line(file, finished, tmp_path):
    """The limit of a file's size stands for the disk's. What was finished is there, and the run can go on."""
    workdir = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, workdir, file], capture_output=True, text=True,
                          env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"})  # fmt: skip
    assert done.returncode == 2, done.stderr[-3000:]
    said = [
        line for line in done.stderr.splitlines() if "samples/s" not in line and "WARNING: Logging before" not in line
    ]
    assert len(said) == 1, done.stderr[-3000:]
    assert "could not be written: File too large" in said[0] and "what was finished before is kept" in said[0]
    assert checkpoint.steps(workdir / "checkpoints")[0] == 10
    assert main.train(configs.load(file), workdir) == finished[1]
    assert_same_run(workdir, finished)


def test_more_evaluators_after_the_end(finished, file, tmp_path):
    """Evaluators may change between a run and its continuation; its training is not repeated."""
    workdir = tmp_path / "run"
    (workdir / "checkpoints").mkdir(parents=True)
    source, _ = finished
    for name in ("mmjax.json", "tokenizer", str(LAST)):
        subprocess.run(["cp", "-r", source / "checkpoints" / name, workdir / "checkpoints" / name], check=True)
    config = configs.load(file)
    with config.unlocked():
        config.evals.other = {"kind": "retrieval", "data": "emoji:test?style=fluent", "gallery": "emoji:test"}
    metrics = main.train(config, workdir)
    assert {name.split("/")[0] for name in metrics} == {"val", "other"}
    assert {k: v for k, v in metrics.items() if k in finished[1]} == finished[1]
    assert [row["step"] for row in rows(workdir)] == [LAST]
