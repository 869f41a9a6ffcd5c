"""The configs of VLMo, BEiT-3 and VQ-KD train in the form `:smoke`, through the real main."""

import json
import math
import pathlib

import numpy as np
import pytest

from mmjax import main
from mmjax.commands import models
from mmjax.core import config as configs
from mmjax.core import trees

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
