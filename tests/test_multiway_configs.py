"""The configs of VLMo, BEiT-3 and VQ-KD train in the form `:smoke`, through the real main."""

import json
import math
import pathlib

import jax
import numpy as np
import pytest

from mmjax import initial, main
from mmjax.commands import models
from mmjax.core import config as configs
from mmjax.core import trees
from mmjax.data.sources import open_source
from mmjax.train import checkpoint

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
# System -> the terms of each stage; steps of a stage; metrics at the end.
STAGES = {"vlmo": [{"mim"}, {"mlm"}, {"mlm"}, {"itc", "itc_vl", "itm", "mlm"}],
          "beit3": [{"image", "text", "pair_image", "pair_text"}, {"caption", "vqa"}],
          "vqkd": [{"distil", "commit", "used"}]}  # fmt: skip
STEPS = {"vlmo": 2, "beit3": 2, "vqkd": 3}
METRICS = {"vlmo": {"scenes/text_to_image_R@1", "scenes/cosine/text_to_image_R@1"},
           "beit3": {"captions/CIDEr", "answers/accuracy"}, "vqkd": set()}  # fmt: skip


@pytest.mark.parametrize("system", STAGES)
def test_smoke_trains(system, tmp_path):
    main.train(configs.load(f"{CONFIGS / system}/emoji_scenes.py:smoke"), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps, trained = STEPS[system], [row for row in rows if "loss" in row]
    assert len(trained) == steps * len(STAGES[system])
    assert all(math.isfinite(row["loss"]) for row in trained)
    for number, terms in enumerate(STAGES[system]):
        known = set().union(*STAGES[system])
        assert all(known & set(row) == terms for row in trained[steps * number : steps * (number + 1)])
    assert METRICS[system] <= set(json.loads((tmp_path / "metrics.json").read_text()))
    found = trees.flatten(models.load(tmp_path).variables)
    assert all(np.isfinite(array).all() for array in found.values())
    if system == "vqkd":
        assert "codebook/quantize/vectors" in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "terms"),
    [
        ("beit3/retrieval_coco", {"itc"}),
        ("beit3/caption_coco", {"caption"}),
        ("beit3/easy_vqa", {"vqa"}),
        ("beit3/base", STAGES["beit3"][0]),
    ],
)
def test_smoke_of_one_stage(path, terms, tmp_path):
    main.train(configs.load(f"{CONFIGS / path}.py:smoke"), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    assert len(rows) == 3 and all(math.isfinite(row["loss"]) and terms <= set(row) for row in rows)


def test_easy_vqa_has_a_class_for_every_answer():
    config = configs.plain(configs.load(f"{CONFIGS}/beit3/easy_vqa.py"))
    asked = [
        pair for split in ("train", "test") for _, pairs in open_source(f"easy_vqa:{split}").items for pair in pairs
    ]
    assert {answer for _, answer in asked} == set(config["data"]["task"]["classes"])
    assert config["evals"]["answers"]["candidates"] == config["data"]["task"]["classes"]
    assert len(asked) == 38_575 + 9_673
    # A word is a piece: its question mark, begin and end besides.
    assert max(len(question.split()) for question, _ in asked) + 3 <= config["data"]["text_length"]


@pytest.mark.slow
@pytest.mark.parametrize("system", ["beit3", "vlmo"])
def test_kinds_have_sources_of_their_own(system, tmp_path):
    """Trained through main: images and texts alone from other sources than the pairs."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a red fox beside a tree\nthe sun over a house\n" * 30)
    changes = [f"--config.data.alone.text.train=text:{corpus}",
               "--config.data.alone.image.train=emoji_scenes:train?parts=image&length=150"]  # fmt: skip
    config = configs.load(f"{CONFIGS / system}/base.py:smoke", changes)
    main.train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    known = {"image", "text", "pair_image", "pair_text"} if system == "beit3" else {"mim", "mlm", "itc", "itm"}
    assert known <= set().union(*rows) and all(math.isfinite(row["loss"]) for row in rows if "loss" in row)


def test_the_tokenizer_begins_with_a_clip_and_beit3_with_the_tokenizer(tmp_path):
    """Names and shapes of what one small config's run gives the next one, without a training."""

    def form(path, *changes):
        return configs.plain(configs.load(f"{CONFIGS}/{path}", changes))

    def shapes(config):
        return models.shapes(models.spelled_out(config["system"]))

    def given(config):
        abstract = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes(config).items()}
        return initial.given(config, trees.unflatten(abstract))

    def save(config, name):  # what is read of a checkpoint here is its system alone
        checkpoint.save_model(tmp_path / name, config["system"], {"params": {"x": np.zeros(1, np.float32)}})
        return f"--config.init[0].path={tmp_path / name}"

    taught = form("vqkd/emoji_scenes.py:clip_smoke", save(form("clip/emoji_scenes.py:smoke"), "clip"))
    teacher = {path.partition("/")[2] for path in shapes(taught) if path.startswith("params/teacher")}
    assert given(taught) == teacher and "teacher_proj/kernel" in teacher
    model = form("beit3/emoji_scenes.py:vqkd_smoke", save(taught, "vqkd"))
    wanted = {path.partition("/")[2] for path in shapes(model) if path.split("/")[1] == "tokenizer"}
    assert given(model) == wanted and "tokenizer/quantize/vectors" in wanted
    for system in ("vqkd", "beit3"):  # without a run to begin with: random, on purpose
        assert form(f"{system}/emoji_scenes.py")["init"] == "random"
