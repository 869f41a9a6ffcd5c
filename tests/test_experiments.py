"""The experiments that train: intervals, comparisons, what arms change, and the smoke forms from end to end."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mmjax.core import config as configs

EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"


def module(path):
    """A file of an experiment; they are no packages, and each has a `plot` of its own."""
    before = list(sys.path)
    sys.path.insert(0, str((EXPERIMENTS / path).parent))
    sys.modules.pop("plot", None)
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), EXPERIMENTS / path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    sys.path[:] = before
    return found


@pytest.fixture(scope="module")
def modules():
    """(what experiments share, the driver of the one on fusion)."""
    return module("_summary.py"), module("fusion/run.py")


@pytest.fixture(scope="module")
def compare():
    """How experiments compare their runs."""
    return module("_compare.py")


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


def test_differences_are_paired_by_seed(modules, compare):
    _, run = modules
    results = []
    for seed in (0, 1):
        for place, arm in enumerate(run.ARMS):
            value = 0.1 * seed + 0.01 * place
            metrics = {
                f"{order}{metric}{end}": value + (0.05 if order == run.FUSED else 0) + more
                for order in run.ORDERS
                for metric in run.RECALLS
                for end, more in (("", 0.0), ("_lo", -0.02), ("_hi", 0.02))
            }
            results.append({"arm": arm, "seed": seed, "metrics": metrics})
    rows = list(compare.rows(results[::-1], run.QUESTIONS, list(run.RECALLS)))
    assert len(rows) == len(run.RECALLS) * (1 + 2 + 6)
    reranked = next(row for row in rows if row["question"] == "reranking")
    assert reranked["differences"] == pytest.approx([5.0, 5.0]) and reranked["half"] == pytest.approx(0, abs=1e-9)
    assert reranked["without"]["mean"] == pytest.approx(5.0) and reranked["without"]["queries"] == pytest.approx([3, 7])
    hard = next(row for row in rows if row["question"] == "negatives")
    assert hard["difference"] == pytest.approx(-1.0)  # base is the first arm, random the second
    taught = next(row for row in rows if row["compared"] == "40 % wrong, cosine")
    assert taught["difference"] == pytest.approx(-1.0)


def test_arms_change_what_they_say(modules):
    _, run = modules
    base = configs.plain(configs.load(run.config("fuse", False)))
    assert list(base["stages"]) == ["scenes"] and "kinds" not in base["data"]["train"]
    assert base["system"]["hard_negatives"] is True and base["system"]["alpha"] == 0.4
    for name, changes in run.ARMS.items():
        found = configs.plain(configs.load(run.config("fuse", False), [f"--config.{change}" for change in changes]))
        assert found["system"]["hard_negatives"] is (name != "random")
        assert found["system"]["alpha"] == (0.0 if name.endswith("alone") else 0.4)
        noise = f"&noise=0.{name[5]}" if name.startswith("noise") else ""
        assert found["data"]["train"] == base["data"]["train"] + noise


def test_start_and_arms_are_the_config_in_two_parts(modules):
    """With no change they are the stages of the whole config, one after the other, and the same model."""
    _, run = modules
    whole, start, arm = (configs.plain(configs.load(path)) for path in (
        run.CONFIG, run.config("words", False), run.config("fuse", False)))  # fmt: skip
    assert whole["stages"] == {**start["stages"], **arm["stages"]} and not set(start["stages"]) & set(arm["stages"])
    assert whole["system"] == start["system"] == arm["system"]


def test_stages_and_pairs_get_the_same_steps_and_pairs():
    run = module("stagewise/run.py")
    stages, pairs = (configs.plain(configs.load(arm.config, arm.arguments())) for arm in run.arms(2, smoke=False))
    assert list(stages["stages"]) == ["images", "text", "names", "pairs"] and list(pairs["stages"]) == [
        "names",
        "pairs",
    ]
    totals = [sum(stage["steps"] for stage in one["stages"].values()) for one in (stages, pairs)]
    assert totals[0] == totals[1] and stages["seed"] == pairs["seed"] == 2
    for one in (stages, pairs):
        assert one["data"]["train"].endswith("&length=3000")
        assert one["stages"]["names"]["data"]["train"].endswith("&kinds=1&length=1000")
    for name in ("images", "text"):  # images and texts alone are plentiful
        assert "length" not in stages["stages"][name]["data"]["train"]


def test_ways_of_pretraining_get_equal_time_and_the_same_fine_tuning(tmp_path):
    run = module("masked_data/run.py")
    steps = run.pretraining_steps(400, {"codes": 0.8, "pixels": 0.5, "contrast": 0.4})
    assert steps == {"codes": 500, "pixels": 800, "contrast": 1000}
    teacher, codes = run.tokenizer(tmp_path, smoke=False)
    taught = configs.plain(configs.load(codes.config, codes.arguments()))
    assert taught["init"][0]["path"] == str(teacher.folder(tmp_path)) and taught["system"]["teacher"]["width"] == 128
    found = {arm.name: configs.plain(configs.load(arm.config, arm.arguments()))
             for arm in run.arms(codes.folder(tmp_path), steps, 2, smoke=False)}  # fmt: skip
    assert list(found) == [*run.WAYS, "none"] and list(found["none"]["stages"]) == ["finetune"]
    for name, one in found.items():
        assert one["seed"] == 2 and one["data"]["batch_size"] == 32
        assert one["stages"]["finetune"] == found["codes"]["stages"]["finetune"]
        assert one["stages"]["finetune"]["tasks"] == ["caption", "vqa"]
        assert name == "none" or one["stages"]["pretrain"]["steps"] == steps[name]
        assert (one["init"] == "random") == (name != "codes")
    assert found["codes"]["init"][0]["path"] == str(codes.folder(tmp_path))
    assert found["codes"]["system"]["tokenizer"]["img"].items() >= {"width": 128, "depth": 1}.items()
    kinds = {name: (one["system"].get("target"), one["stages"]["pretrain"]["tasks"])
             for name, one in found.items() if name != "none"}  # fmt: skip
    assert kinds == {"codes": (None, ["mdm"]), "pixels": ("pixels", ["mdm"]), "contrast": (None, ["retrieval"])}
    # The codes are those of the tokenizer that the model has.
    for part in ("img", "decoder"):
        assert taught["system"][part] == found["codes"]["system"]["tokenizer"][part]


def test_threshold_at_which_the_worse_share_is_best():
    run = module("capfilt/run.py")
    true, wrong = [0.9, 0.8, 0.7, 0.6, 0.2], [0.5, 0.4, 0.3, 0.1, 0.65]
    found = {"score": np.array(true + wrong), "true": np.array([True] * 5 + [False] * 5)}
    threshold = run.best_threshold(found)
    assert 0.5 < threshold <= 0.6
    curve = run.curve(found)
    at = curve["threshold"].index(0.56)
    assert (curve["right_kept"][at], curve["wrong_removed"][at], curve["precision"][at]) == (0.8, 0.8, 0.8)


def test_equal_time_gives_steps_by_their_cost():
    run = module("fusion_cost/run.py")
    costs = {"coca": {"names": 0.3, "scenes": 0.3}, "albef": {"names": 0.3, "words": 0.3, "scenes": 0.6}}
    steps = run.stage_steps(300, costs)
    assert steps == {"coca": {"names": 300, "scenes": 700}, "albef": {"names": 300, "words": 200, "scenes": 250}}
    for system, counts in steps.items():
        arm = run.arm(system, counts, 1, smoke=False)
        config = configs.plain(configs.load(arm.config, arm.arguments()))
        assert {name: stage["steps"] for name, stage in config["stages"].items()} == counts and config["seed"] == 1
    sizes = [configs.plain(configs.load(run.config(name, False)))["system"] for name in ("coca", "albef")]
    for key in ("image_size", "patch", "patch_stride", "width", "depth", "heads"):
        assert sizes[0]["img"][key] == sizes[1]["img"][key], key
    for key in ("width", "mlp_dim", "heads"):
        assert sizes[0]["txt"][key] == sizes[1]["txt"][key], key
    assert sizes[0]["txt"]["depth"] + sizes[0]["dec"]["depth"] == sizes[1]["txt"]["depth"]


def test_arms_of_instruct_differ_in_what_they_say(tmp_path):
    run = module("instruct/run.py")
    starts, arms = run.arms(1, tmp_path, smoke=False)
    loaded = {arm.name: configs.plain(configs.load(arm.config, arm.arguments())) for arm in (*starts, *arms)}
    whole = configs.plain(configs.load(run.CONFIG))
    assert whole["stages"] == {**loaded["start"]["stages"], **loaded["base"]["stages"]}
    assert loaded["base"]["init"] == [{"path": str(tmp_path / "start" / "seed1"), "load": ["img/.*", "llm/.*"]}]
    assert (loaded["base"]["system"]["layers"], loaded["linear"]["system"]["layers"]) == (2, 1)
    for name in ("start_silent", "silent"):
        assert run.SHORT not in json.dumps([loaded[name]["data"], loaded[name]["stages"]])
    assert run.SHORT in loaded["base"]["data"]["task"]["short"]
    assert run.SHORT in loaded["silent"]["evals"]["test_vqa"]["template"]  # both are asked alike
    for name in ("start_small", "squashed", "anyres"):
        assert loaded[name]["system"]["img"]["image_size"] == 32
    assert loaded["squashed"]["stages"] == loaded["anyres"]["stages"]
    assert loaded["anyres"]["data"]["task"]["grids"] == [[64, 64]] and loaded["anyres"]["system"]["newline"]
    assert run.is_word("two dogs") and not run.is_word("There are two dogs.") and not run.is_word("")
    assert run.is_sentence("There are two.") and not run.is_sentence("two")


def test_smollm_builds_on_the_tower_and_the_weights_that_exist(tmp_path):
    run = module("smollm/run.py")
    tower, arm = run.arms(0, tmp_path, tmp_path / "model.gguf", tmp_path / "tokenizer")
    config = configs.plain(configs.load(arm.config, arm.arguments()))
    paths = [item["path"] for item in config["init"]]
    assert paths == [str(tower.folder(tmp_path)), str(tmp_path / "model.gguf")]
    assert config["tokenizer"] == {"spec": str(tmp_path / "tokenizer")}
    assert config["system"]["img"] == configs.plain(configs.load(tower.config))["system"]["img"]
    asked = [("count", "2"), ("count", "5"), ("zone", "dogs"), ("colour", "red"), ("total", "4")]
    assert [run.kind_of(kind, [answer]) for kind, answer in asked] == [
        "count to three", None, "which object", "colour", None,
    ]  # fmt: skip
    blank = run.Blank(type("One", (list,), {"name": "one"})([{"image": np.zeros((2, 2, 3), np.uint8), "key": "a"}]))
    assert (blank[0]["image"] == 128).all() and blank[0]["key"] == "a" and len(blank) == 1


def test_scenes_are_told_apart_by_their_things():
    run = module("instruct/run.py")
    boxes = [[[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.7, 0.7]], [[0.1, 0.1, 0.3, 0.3], [0.4, 0.4, 0.85, 0.8]]]
    scenes = [{"boxes": np.array(each, np.float32)} for each in boxes]
    assert run.by_size(scenes) == {"small": [0], "big": [1]}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "runs"), [("fusion", 8), ("fusion_cost", 2), ("capfilt", 5), ("stagewise", 2),
                                            ("instruct", 8), ("smollm", 2), ("masked_data", 6)])  # fmt: skip
def test_smoke_form_once_and_again(name, runs, tmp_path):
    """Table, plot and README; a second call trains nothing, and writes the same."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(EXPERIMENTS / name / "README.md", out)
    command = [sys.executable, str(EXPERIMENTS / name / "run.py"), "--smoke", f"--workdir={tmp_path / 'runs'}",
               f"--out={out}"]  # fmt: skip
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    said = []
    for _ in range(2):
        ended = subprocess.run(command, env=env, capture_output=True, text=True, cwd=EXPERIMENTS.parent)
        assert ended.returncode == 0, ended.stderr[-2000:]
        said.append(ended.stdout)
    assert said[0].count("begins") == runs and "begins" not in said[1]
    assert (out / f"{name}.png").stat().st_size > 10_000
    readme = (out / "README.md").read_text()
    assert (out / "results" / f"{name}.md").read_text().strip() in readme and "ot run yet" not in readme
    data = json.loads((out / "results" / f"{name}.json").read_text())
    if name == "capfilt":
        assert data["seeds"][0]["counts"]["web"] == 5 * 72 and set(data["seeds"][0]["curve"]) >= {"precision"}
    else:
        shared = {"fusion": 1, "instruct": 3, "masked_data": 2}.get(name, 0)  # what all arms begin with
        assert len(data["runs"]) == runs - shared and data["machine"]["cores"] > 0
