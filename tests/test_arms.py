"""What experiments share to run their arms: once each, and again only where the config has changed."""

import importlib.util
import json
import pathlib
import sys

import pytest

EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"
CONFIG = str(EXPERIMENTS.parent / "configs" / "albef" / "emoji_scenes.py")


def load(name: str):
    """A module of the folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"experiments{name}", EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


arms = load("_arms")


def test_cores_are_dealt_out():
    assert list(arms.shares(2, {4, 3, 2, 1, 0})) == [{0, 2, 4}, {1, 3}]
    assert list(arms.shares(2, {7})) == [{7}, {7}]


def test_a_result_is_of_its_config_alone(tmp_path):
    arm = arms.Arm("base", CONFIG, ("system.alpha=0.2",), 1)
    folder = arm.folder(tmp_path)
    assert folder == tmp_path / "base" / "seed1"
    folder.parent.mkdir()
    kept = {"arm": "base", "digest": arm.digest(), "overrides": [f"init={tmp_path}/start"]}
    arms.result_file(folder).write_text(json.dumps(kept))
    found = arms.run_arms([arm], tmp_path)  # nothing is trained
    assert found == [{**kept, "overrides": ["init=WORKDIR/start"]}]
    for other in (arms.Arm("base", CONFIG, ("system.alpha=0.3",), 1), arms.Arm("base", CONFIG, ("system.alpha=0.2",))):
        assert arms.read_result(folder, other.digest()) is None


def test_runs_in_one_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="share a name and a seed"):
        arms.run_arms([arms.Arm("a", CONFIG), arms.Arm("a", CONFIG, ("system.alpha=0.3",))], tmp_path)


def test_a_run_that_fails_says_why(tmp_path):
    (tmp_path / "log").write_text("of the run before\n")
    command = [sys.executable, "-c", "import os; print(os.sched_getaffinity(0)); raise SystemExit('no room')"]
    core = min(arms.os.sched_getaffinity(0))
    with pytest.raises(SystemExit, match="ended with 1; the end of ") as failed:
        arms.call(command, tmp_path / "log", {core})
    assert (
        "no room" in str(failed.value) and "run before" not in str(failed.value) and f"{{{core}}}" in str(failed.value)
    )
    arms.call([sys.executable, "-c", "pass"], tmp_path / "log", {core})
