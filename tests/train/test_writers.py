import csv
import json
import sys
import types

import jax
import pytest

from mmjax.core.errors import UserError
from mmjax.train.writers import MetricWriter, read_history

ROWS = [
    (10, {"loss": 2.0, "lr": 1e-4}),
    (20, {"loss": 1.5, "lr": 2e-4}),
    (20, {"val/R@1": 0.25}),
    (30, {"loss": 1.0, "grad_norm": 0.1}),
    (40, {"loss": 0.1 + 0.2, "late": 7.0}),
]


def write(workdir, rows, **options):
    writer = MetricWriter(workdir, **options)
    for step, values in rows:
        writer.write(step, values)
    writer.close()


def contents(workdir):
    return {name: (workdir / name).read_text() for name in ("metrics.jsonl", "metrics.csv")}


def test_rows_and_growing_columns(tmp_path):
    write(tmp_path, ROWS)
    assert read_history(tmp_path / "metrics.jsonl") == [{"step": step, **values} for step, values in ROWS]
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert list(rows[0]) == ["step", "loss", "lr", "val/R@1", "grad_norm", "late"]
    assert [{k: float(v) for k, v in row.items() if v} for row in rows] == [{"step": s, **v} for s, v in ROWS]


@pytest.mark.parametrize("killed_at", range(1, len(ROWS) + 1))
@pytest.mark.parametrize("resume_step", [0, 10, 20, 30])
def test_a_resumed_run_leaves_the_files_of_an_uninterrupted_one(tmp_path, killed_at, resume_step):
    write(tmp_path / "whole", ROWS)
    cut = tmp_path / "cut"
    rows = ROWS[:killed_at]
    saved = [row for row in rows if row[0] <= resume_step]
    if saved != [row for row in ROWS if row[0] <= resume_step]:
        resume_step = rows[-1][0] - 10  # killed before that checkpoint: an earlier one is resumed
    write(cut, rows)
    write(cut, [row for row in ROWS if row[0] > resume_step], resume_step=resume_step)
    assert contents(cut) == contents(tmp_path / "whole")


def test_lines_that_a_kill_cut_short_are_dropped(tmp_path):
    write(tmp_path, ROWS[:2])
    for name, fragment in (("metrics.jsonl", '{"step": 20, "lo'), ("metrics.csv", "20,1.")):
        with (tmp_path / name).open("a") as file:
            file.write(fragment)
    write(tmp_path, ROWS[2:], resume_step=20)
    write(tmp_path / "whole", ROWS)
    assert contents(tmp_path) == contents(tmp_path / "whole")


def test_a_fresh_run_replaces_an_old_one(tmp_path):
    write(tmp_path, ROWS)
    write(tmp_path, ROWS[:1])
    assert [row["step"] for row in read_history(tmp_path / "metrics.jsonl")] == [10]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2


def test_what_is_not_finite_stays_valid_json(tmp_path):
    write(tmp_path, [(1, {"loss": float("nan")})], writers=("jsonl",))
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail) == {"step": 1, "loss": None}


def test_a_broken_history_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"line 2.*nonsense"):
        read_history(path)


def test_stdout(tmp_path, capsys):
    write(tmp_path, ROWS[:1], writers=("stdout",))
    assert capsys.readouterr().out == "step 10  loss 2  lr 0.0001\n"
    assert not list(tmp_path.iterdir())


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    write(tmp_path / "run", ROWS, writers=("jsonl", "csv", "stdout"))
    assert not (tmp_path / "run").exists()


def test_unknown_and_missing_back_ends(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"\['tensorbord'\] does not exist; valid: .*'tensorboard'"):
        MetricWriter(tmp_path, writers=("jsonl", "tensorbord"))
    for extra, package in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf"pip install 'mmjax\[{extra}\]'"):
            MetricWriter(tmp_path, writers=(extra,))


def test_tensorboard_is_told_where_the_run_resumes(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, logdir, purge_step, flush_secs):
            calls.append((logdir.rsplit("/", 1)[1], purge_step))

        def add_scalar(self, *args):
            calls.append(args)

        def close(self):
            calls.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    write(tmp_path, [(30, {"v/R@1": 0.5})], writers=("tensorboard",), resume_step=20)
    assert calls == [("tensorboard", 21), ("v/R_at_1", 0.5, 30), "closed"]


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    started, logged = [], []

    def init(**options):
        started.append((options["id"], options["resume"]))
        return types.SimpleNamespace(
            id=options["id"] or f"run{len(started)}", log=lambda v, step: logged.append((step, v)), finish=lambda: None
        )

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    write(tmp_path, ROWS[:1], writers=("wandb",))
    write(tmp_path, ROWS[1:2], writers=("wandb",), resume_step=10)
    write(tmp_path, [], writers=("wandb",))
    assert started == [(None, None), ("run1", "allow"), (None, None)]
    assert logged == ROWS[:2]
