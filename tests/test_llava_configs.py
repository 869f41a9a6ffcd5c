"""LLaVA's configs: the published recipes, and the small one, which trains its own eyes and words."""

import json
import math
import pathlib

import jax
import numpy as np
import pytest

from mmjax import inputs, main, systems
from mmjax.commands import models
from mmjax.core import config as configs
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.systems.llava import STAGES
from mmjax.train.stage import make_stage

LLAVA = pathlib.Path(__file__).parent.parent / "configs" / "llava"
PAPERS = {  # examples / batch, rate, and warm-up of 3 %, of both stages: the released scripts
    "v1_7b": ((4_652, 2e-3, 140), (14_786, 2e-5, 444)),
    "v1_5_7b": ((2_181, 1e-3, 66), (5_198, 2e-5, 156)),
    "v1_5_13b": ((2_181, 1e-3, 66), (5_198, 2e-5, 156)),
    "next_mistral_7b": ((2_181, 1e-3, 66), (5_938, 2e-5, 179)),
    "next_yi_34b": ((2_181, 1e-3, 66), (5_938, 2e-5, 179)),
}


@pytest.mark.parametrize("name", PAPERS)
def test_recipes_are_the_published_ones(name: str) -> None:
    config = configs.plain(configs.load(f"{LLAVA / name}.py"))
    stages = {key: make_stage(key, settings) for key, settings in config["stages"].items()}
    assert list(stages) == ["align", "instruct"]
    for stage, (steps, rate, warmup) in zip(stages.values(), PAPERS[name], strict=True):
        assert (stage.steps, stage.lr, stage.warmup, stage.weight_decay) == (steps, rate, warmup, 0.0)
        assert (stage.schedule, stage.optimizer) == ("cosine", "adamw")
    assert stages["align"].train == STAGES["align"]
    assert stages["instruct"].train == STAGES["next_instruct" if "next" in name else "instruct"]
    batch, system = inputs.stage_batch(config, stages["instruct"].data, 1), systems.build(config["system"])
    side = system.img.image_size
    assert batch["image"].shape == (1, 5 if "next" in name else 1, side, side, 3)
    assert batch["ids"].shape == (1, 4_096 if "next" in name else 2_048)
    captions = inputs.stage_batch(config, stages["align"].data, 1)
    assert captions["image"].shape[1] == 1 and captions["ids"].shape == (1, 2_048)
    assert [item["load"] for item in config["init"]] == [["img/.*"], ["llm/.*"]]
    with pytest.raises(UserError, match=r"config\.data\.train is empty"):
        inputs.data_of(config, stages["align"].data)


@pytest.mark.parametrize(
    ("name", "adapters"), [("v1_5_7b", 319_815_680), ("v1_5_13b", 500_695_040), ("next_yi_34b", 983_040_000)]
)
def test_adapters_train_in_the_place_of_the_language_model(name: str, adapters: int) -> None:
    config = configs.plain(configs.load(f"{LLAVA / name}.py:lora"))
    stage = make_stage("instruct", config["stages"]["instruct"])
    assert config["system"]["llm"]["lora"] == {"rank": 128, "alpha": 256.0, "dropout": 0.05}
    assert (stage.lr, dict(stage.lr_scale)["projector/.*"] * stage.lr) == (2e-4, pytest.approx(2e-5))
    system = systems.build({**config["system"], "dtype": "float32"})
    made = jax.eval_shape(lambda b: system.init(jax.random.key(0), b, train=False), system.example(1))
    free = trees.split(shd.unbox(made)["params"], stage.train, "train")[0]
    assert (
        set(free) == {"llm", "projector", *(["image_newline"] if "next" in name else [])}
        and trees.count(free["llm"]) == adapters
    )
    with pytest.raises(UserError, match=r"there are '' \(as published\), 'smoke' "):
        configs.load(f"{LLAVA}/v1_7b.py:lora")


def test_smollm2_is_what_its_file_says() -> None:
    """As a GGUF file of it is read, which says the heads' width in so many words."""
    said = {"vocab": 49152, "width": 576, "depth": 30, "heads": 9, "kv_heads": 3, "head_dim": 64, "mlp_dim": 1536,
            "act": "silu", "eps": 1e-05, "theta": 100000.0, "tied": True}  # fmt: skip
    config = configs.plain(configs.load(f"{LLAVA}/smollm2_emoji_scenes.py"))
    inputs.check_same_computation("a file", {"name": "language", "llm": said}, config["system"], {"llm"})
    with pytest.raises(UserError, match=r"llm\.theta: 10000\.0 there, 100000\.0 here"):
        other = {"name": "language", "llm": {**said, "theta": 10000.0}}
        inputs.check_same_computation("a file", other, config["system"], {"llm"})
    frozen = {make_stage(name, stage).train for name, stage in config["stages"].items()}
    assert frozen == {("projector/.*",), ("projector/.*", "img/.*")}  # never the language model


def rows_of(workdir: pathlib.Path) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict]:
    workdir = tmp_path_factory.mktemp("llava") / "run"
    return workdir, main.train(configs.load(f"{LLAVA}/v1_5_emoji_scenes.py:smoke"), workdir)


def test_smoke_trains_and_answers(trained: tuple[pathlib.Path, dict]) -> None:
    workdir, metrics = trained
    rows = rows_of(workdir)
    assert [row["step"] for row in rows] == [*range(1, 9)] and all(math.isfinite(row["loss"]) for row in rows)
    assert 0 <= metrics["test_vqa/accuracy"] <= 1 and {"test_vqa/accuracy/count", "test_vqa/accuracy/exists"} <= set(
        metrics
    )


def test_what_a_stage_does_not_train_stays_bit_for_bit(trained: tuple[pathlib.Path, dict]) -> None:
    config = configs.plain(configs.load(f"{LLAVA}/v1_5_emoji_scenes.py:smoke"))
    steps, at = {}, 0
    for name, stage in config["stages"].items():
        at += stage["steps"]
        steps[name] = trees.flatten(models.load(trained[0], step=at).variables["params"])
    for name, before in (("align", "see"), ("instruct", "align")):
        patterns = make_stage(name, config["stages"][name]).train
        moved = {path for path, array in steps[name].items() if not np.array_equal(array, steps[before][path])}
        free = {path for path in steps[name] if trees.matches(path, patterns)}
        assert moved <= free and {path.split("/")[0] for path in moved} == {path.split("/")[0] for path in free}
        assert {path.split("/")[0] for path in free} == {"align": {"projector"}, "instruct": {"projector", "llm"}}[name]


@pytest.mark.slow
@pytest.mark.parametrize("form", [*(f"{name}.py:smoke" for name in PAPERS), "v1_5_7b.py:lora_smoke"])
def test_smoke_of_a_recipe_trains(form: str, tmp_path: pathlib.Path) -> None:
    main.train(configs.load(LLAVA / form), tmp_path)
    rows = rows_of(tmp_path)
    assert len(rows) == 4 and all(math.isfinite(row["loss"]) for row in rows)
