"""BLIP's configs: every one resolves, its teacher and tokens fit its system, and the small one trains."""

import json
import math
import pathlib

import pytest

from mmjax import inputs, main, model, systems
from mmjax.core import config as configs
from mmjax.core import trees
from mmjax.train.stage import make_stage
from mmjax.train.step import with_tasks

BLIP = pathlib.Path(__file__).parent.parent / "configs" / "blip"
NAMES = sorted(path.stem for path in BLIP.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", ["", ":smoke"])
def test_resolves(name: str, variant: str) -> None:
    config = configs.plain(configs.load(f"{BLIP / name}.py{variant}"))
    system = systems.build({**config["system"], "scan": False})
    stages = [make_stage(name, settings) for name, settings in config["stages"].items()]
    stage = stages[-1]
    for each in stages:
        with_tasks(system, each)
    assert inputs.text_length(config) <= system.txt.length
    if not variant and name != "emoji_scenes":
        assert system.txt.vocab == 30524 and stage.also_decay == (".*",) and stage.weight_decay == 0.05
    if stage.teacher and (variant or name == "emoji_scenes"):
        import jax

        from mmjax.core import sharding as shd

        made = jax.eval_shape(lambda b: system.init(jax.random.key(0), b), system.example(1))
        teacher, rest = trees.split(shd.unbox(made)["params"], stage.teacher, "teacher")
        assert set(teacher) == {"img", "txt", "img_proj", "txt_proj"}
        assert set(rest) == {"txt", "itm_head", "tau"} or set(rest) == {"itm_head", "tau"}
        if system.queue:
            assert system.queue % config["data"]["batch_size"] == 0


def read_rows(workdir: pathlib.Path) -> list[dict]:
    """What was logged of the steps."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


@pytest.mark.parametrize("name", ["emoji_scenes", pytest.param("caption_coco", marks=pytest.mark.slow),
                                  pytest.param("retrieval_coco", marks=pytest.mark.slow),
                                  pytest.param("vqa", marks=pytest.mark.slow)])  # fmt: skip
def test_smoke_trains(name: str, tmp_path: pathlib.Path) -> None:
    main.train(configs.load(f"{BLIP / name}.py:smoke"), tmp_path)
    rows = read_rows(tmp_path)
    assert len(rows) >= 3 and all(math.isfinite(row["loss"]) for row in rows)
    wanted = {"emoji_scenes": {"itc", "itm", "lm"}, "caption_coco": {"lm"}, "retrieval_coco": {"itc", "itm"}}
    assert wanted.get(name, {"answer"}) <= set(rows[-1])


@pytest.mark.parametrize(("form", "terms"), [
    ("captioner", {"lm"}), pytest.param("filter", {"itc", "itm"}, marks=pytest.mark.slow)])  # fmt: skip
def test_captioner_and_filter_begin_with_what_was_trained(form: str, terms: set, trained, tmp_path) -> None:
    config = configs.load(f"{BLIP}/emoji_scenes.py:{form}_smoke", [f"--config.init={trained}"])
    assert config.system == configs.load(f"{BLIP}/emoji_scenes.py:smoke").system
    main.train(config, tmp_path)
    rows = read_rows(tmp_path)
    assert len(rows) == 2 and {"itc", "itm", "lm"} & set(rows[-1]) == terms
    assert model.load(tmp_path).system == model.load(trained).system


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("blip") / "run"
    main.train(configs.load(f"{BLIP}/emoji_scenes.py:smoke"), workdir)
    return workdir
