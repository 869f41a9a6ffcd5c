"""The experiment on ALBEF's claims: its intervals, its comparisons, and its smoke form from end to end."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from mmjax.core import config as configs

EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def modules():
    """(what experiments share, the driver); they are no packages."""
    before, found = list(sys.path), []
    sys.path.insert(0, str(EXPERIMENTS / "fusion"))
    for name, path in (("_summary", "_summary.py"), ("fusion_run", "fusion/run.py")):
        spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.append(module)
    sys.path[:] = before
    return found


def test_interval_over_seeds(modules):
    summary, _ = modules
    assert summary.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / 3**0.5, rel=1e-6)  # t of 2 degrees, s = 1
    assert summary.half_width([1.0]) is None
    assert summary.signed(2.25, None) == "+2.2 (one seed)" and summary.signed(-1.0, 0.5) == "-1.0 ± 0.5"


def test_results_replace_those_before(modules, tmp_path):
    summary, _ = modules
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{summary.BEGIN}\n\nnot run yet\n\n{summary.END}\n\nmore\n")
    for text in ("first", "second"):
        summary.fill(readme, text)
    assert readme.read_text() == f"# Title\n\n{summary.BEGIN}\n\nsecond\n\n{summary.END}\n\nmore\n"
    readme.write_text("# Title\n")
    with pytest.raises(ValueError, match="no place for results"):
        summary.fill(readme, "third")


def test_differences_are_paired_by_seed(modules):
    _, run = modules
    results = []
    for seed in (0, 1):
        for place, arm in enumerate(run.ARMS):
            value = 0.1 * seed + 0.01 * place
            metrics = {
                f"{order}{metric}{end}": value + (0.05 if order == run.FUSED else 0) + more
                for order in run.ORDERS
                for metric in run.METRICS
                for end, more in (("", 0.0), ("_lo", -0.02), ("_hi", 0.02))
            }
            results.append({"arm": arm, "seed": seed, "metrics": metrics})
    rows = list(run.rows(results[::-1]))
    assert len(rows) == len(run.METRICS) * (1 + 2 + 6)
    reranked = next(row for row in rows if row["question"] == "reranking")
    assert reranked["differences"] == pytest.approx([5.0, 5.0]) and reranked["half"] == pytest.approx(0, abs=1e-9)
    assert reranked["without"]["mean"] == pytest.approx(5.0) and reranked["without"]["queries"] == pytest.approx([3, 7])
    hard = next(row for row in rows if row["question"] == "negatives")
    assert hard["difference"] == pytest.approx(-1.0)  # base is the first arm, random the second
    taught = next(row for row in rows if row["compared"] == "40 % wrong, cosine")
    assert taught["difference"] == pytest.approx(-1.0)


def test_arms_change_what_they_say(modules):
    _, run = modules
    base = configs.plain(configs.load(run.CONFIG))
    assert base["system"]["hard_negatives"] is True and base["system"]["alpha"] == 0.4
    for name, changes in run.ARMS.items():
        found = configs.plain(configs.load(run.CONFIG, [f"--config.{change}" for change in changes]))
        assert found["system"]["hard_negatives"] is (name != "random")
        assert found["system"]["alpha"] == (0.0 if name.endswith("alone") else 0.4)
        noise = f"&noise=0.{name[5]}" if name.startswith("noise") else ""
        assert found["data"]["train"] == base["data"]["train"] + noise


@pytest.mark.slow
def test_smoke_form_once_and_again(modules, tmp_path):
    """Table, plot and README; a second call trains nothing, and writes the same."""
    _, run = modules
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(EXPERIMENTS / "fusion" / "README.md", out)
    command = [sys.executable, str(EXPERIMENTS / "fusion" / "run.py"), "--smoke", f"--workdir={tmp_path / 'runs'}",
               f"--out={out}"]  # fmt: skip
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    said = []
    for _ in range(2):
        ended = subprocess.run(command, env=env, capture_output=True, text=True, cwd=EXPERIMENTS.parent)
        assert ended.returncode == 0, ended.stderr[-2000:]
        said.append(ended.stdout)
    assert said[0].count("begins") == len(run.ARMS) and "begins" not in said[1]
    data = json.loads((out / "results" / "fusion.json").read_text())
    assert {row["question"] for row in data["rows"]} == set(run.QUESTIONS) and data["evaluator_s"]["re-ranked"] > 0
    assert (out / "fusion.png").stat().st_size > 10_000
    readme = (out / "README.md").read_text()
    assert (out / "results" / "fusion.md").read_text().strip() in readme and "Not run yet" not in readme
    logs = sorted((tmp_path / "runs").glob("*/seed0.log"))
    assert len(logs) == len(run.ARMS) and all("stage train: 4 steps" in log.read_text() for log in logs)
