"""ALBEF's configs: every one resolves, its teacher fits its system, and the small one survives a kill."""

import itertools
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mmjax import inputs, main, systems
from mmjax.core import config as configs
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.train import checkpoint
from mmjax.train import stored as stored_step
from mmjax.train.stage import make_stage
from mmjax.train.writers import read_history

ALBEF = pathlib.Path(__file__).parent.parent / "configs" / "albef"
NAMES = sorted(path.stem for path in ALBEF.glob("[a-z]*.py"))
STEPS = 30
CHANGES = (f"--config.stages.scenes.steps={STEPS - 4}", "--config.every.save=4", "--config.keep=99")


@pytest.mark.parametrize(
    ("name", "variant"),
    [*itertools.product(NAMES, ("", ":smoke")), ("emoji_scenes", ":words"), ("emoji_scenes", ":fuse")],
)
def test_resolves(name, variant):
    config = configs.plain(configs.load(f"{ALBEF / name}.py{variant}"))
    system = systems.build({**config["system"], "scan": False})
    stages = [make_stage(name, settings) for name, settings in config["stages"].items()]
    stage = stages[-1]
    assert inputs.text_length(config) <= system.txt.length
    if stage.teacher and (variant or name == "emoji_scenes"):
        made = jax.eval_shape(lambda b: system.init(jax.random.key(0), b), system.example(1))
        teacher, rest = trees.split(shd.unbox(made)["params"], stage.teacher, "teacher")
        assert {"img", "txt"} <= set(teacher) and set(rest) <= {"itm_head", "tau"}
    if queue := getattr(system, "queue", 0):
        assert queue % config["data"]["batch_size"] == 0


def test_another_variant_is_named():
    with pytest.raises(UserError, match="'smok' does not exist"):
        configs.load(f"{ALBEF}/emoji_scenes.py:smok")


def stored(workdir):
    tree = stored_step.read(workdir / "checkpoints" / str(STEPS) / "state")
    return {trees.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def command(workdir):
    config = f"--config={ALBEF}/emoji_scenes.py:smoke"
    return [sys.executable, "-m", "mmjax.cli", "train", config, f"--workdir={workdir}", *CHANGES]


def killed(workdir, log):
    """Starts the run and kills it somewhere behind its first checkpoint; the step it had saved last."""
    with log.open("wb") as out:
        process = subprocess.Popen(command(workdir), stdout=out, stderr=out)
        metrics, deadline = workdir / "metrics.jsonl", time.monotonic() + 300
        while not (metrics.is_file() and any(f'"step": {step},' in metrics.read_text() for step in range(10, STEPS))):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.002)
        process.kill()
        assert process.wait(60) == -9
    return max(checkpoint.steps(workdir / "checkpoints"), default=0)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path):
    """Through the command that users run: student, teacher, queue, optimizer, and every logged number."""
    reached = killed(tmp_path / "cut", tmp_path / "log")
    assert 0 < reached < STEPS, reached
    for workdir in ("cut", "whole"):
        ended = subprocess.run(command(tmp_path / workdir), capture_output=True, text=True, env=dict(os.environ))
        assert ended.returncode == 0, ended.stderr[-2000:]
    one, two = stored(tmp_path / "whole"), stored(tmp_path / "cut")
    assert one.keys() == two.keys()
    assert {"stats/queue/past/img", "stats/queue/past/pointer", "teacher/img/cls"} <= one.keys()
    assert {path for path in one if not np.array_equal(one[path], two[path])} == set()
    times = {"samples_per_s", "step_s", "input_wait"}
    rows = [
        [{k: v for k, v in row.items() if k not in times} for row in read_history(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "cut")
    ]
    assert rows[0] == rows[1] and len(rows[0]) >= STEPS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emoji_scenes", "pretrain_4m"])
def test_smoke_trains(name, tmp_path):
    main.train(configs.load(f"{ALBEF / name}.py:smoke"), tmp_path)
    rows = read_history(tmp_path / "metrics.jsonl")
    # The small config's first stages train masked words alone; the last, as the paper's only one, all three.
    assert {"itc", "itm", "mlm", "loss"} <= set.union(*map(set, rows)) and {"mlm", "loss"} <= set(rows[0])
    assert ("itc" in rows[0]) is (name == "pretrain_4m")
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)


@pytest.mark.slow
def test_text_assignment_trains(tmp_path):
    main.train(configs.load(f"{ALBEF}/nlvr2.py:assign_smoke"), tmp_path)
    rows = [row for row in read_history(tmp_path / "metrics.jsonl") if "loss" in row]
    assert len(rows) == 4 and all(np.isfinite(row["assign"]) for row in rows)


def test_the_forms_of_nlvr2():
    forms = {"assign": ("assign_256", 9_960), "assign_smoke": ("assign_256", 4), "direct": ("nlvr2_384", 6_740),
             "direct_smoke": ("nlvr2_384", 4)}  # fmt: skip
    for form, (size, steps) in forms.items():
        config = configs.plain(configs.load(f"{ALBEF}/nlvr2.py:{form}"))
        stage = make_stage("train", config["stages"]["train"])
        assert config["system"]["size"] == size and stage.steps == steps
        assert isinstance(config["init"], str) == ("smoke" in form)
        systems.build(config["system"])
        if form == "assign":
            assert (stage.lr, stage.end_lr, stage.warmup, stage.teacher) == (2e-5, 2e-5, 100, ())
    with pytest.raises(UserError, match="'assigned' does not exist"):
        configs.load(f"{ALBEF}/nlvr2.py:assigned")
