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
STAGES = {"vlmo": [{"mim"}, {"mlm"}, {"itc", "itc_vl", "itm", "mlm"}],
          "beit3": [{"image", "text", "pair_image", "pair_text"}], "vqkd": [{"distil", "commit", "used"}]}  # fmt: skip


@pytest.mark.parametrize("system", STAGES)
def test_smoke_trains(system, tmp_path):
    main.train(configs.load(f"{CONFIGS / system}/emoji_scenes.py:smoke"), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * len(STAGES[system])
    assert all(math.isfinite(row["loss"]) for row in rows)
    for number, terms in enumerate(STAGES[system]):
        known = set().union(*STAGES[system])
        assert all(known & set(row) == terms for row in rows[3 * number : 3 * number + 3])
    found = trees.flatten(models.load(tmp_path).variables)
    assert all(np.isfinite(array).all() for array in found.values())
    if system == "vqkd":
        assert "codebook/quantize/vectors" in found
