"""The recipe "Your own data" of the README: its files, its commands, and training from a user's own pairs."""

import json
import math
import pathlib
import re
import shlex

import numpy as np
import pytest

from mmjax import cli
from mmjax.core import config as configs
from mmjax.data.sources import SOURCES, open_source
from tests.data import own_data

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = re.search(r"\n### Your own data\n(.*?)\n##", README, re.S)[1]
CONFIG = ROOT / "configs" / "clip" / "own_data.py"
# The model of the config is for minutes; this is for seconds. What is read, and how, stays as it is.
SMALL = [
    "img.image_size=32", "img.width=16", "img.depth=1", "img.heads=1", "txt.width=16", "txt.depth=1", "txt.heads=1",
]  # fmt: skip


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """pairs.jsonl and its images in the working directory."""
    own_data.write_jsonl(own_data.make_pairs(80, size=32), tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_recipe_trains_with_no_edit(pairs):
    lines = [
        shlex.split(line, comments=True) for line in re.search(r"```bash\n(.*?)```", SECTION, re.S)[1].splitlines()
    ]
    (command,) = [words for words in lines if words[:2] == ["mmjax", "train"]]
    assert "--config.data.train=jsonl:pairs.jsonl" in command
    quick = ["--config.stages.train.steps=2", "--config.stages.train.warmup=1"]
    overrides = [*(f"--config.system.{one}" for one in SMALL), *quick]
    assert cli.main([*command[1:], *overrides]) == 0
    workdir = pathlib.Path(command[command.index("--workdir") + 1])
    row = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["step"] == 2 and math.isfinite(row["loss"])


def test_the_rows_of_the_recipe_are_read(pairs):
    example = re.search(r"```json\n(.*?)```", SECTION, re.S)[1]
    rows = [json.loads(line) for line in example.splitlines()]
    (pairs / "recipe.jsonl").write_text(example, encoding="utf-8")
    for row in rows:
        path = pairs / row["image"]
        path.parent.mkdir(exist_ok=True)
        own_data.picture(0).save(path)
    source = open_source("jsonl:recipe.jsonl")
    assert [source[i]["texts"] for i in range(len(source))] == [
        row["text"] if isinstance(row["text"], list) else [row["text"]] for row in rows
    ]


def test_the_table_has_every_source():
    listed = set(re.findall(r"^\| `([a-z0-9_]+)", README[README.index("\n## Data\n") :], re.M))
    listed |= set(re.findall(r"^\| `([a-z0-9_]+)", SECTION, re.M))
    assert listed == set(SOURCES)


def test_no_source_is_a_clear_error(tmp_path, capsys):
    assert cli.main(["train", "--config", str(CONFIG), "--workdir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "config.data.train is empty" in said and "--config.data.train=jsonl:pairs.jsonl" in said
    assert said.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("spec", ["jsonl:nothere.jsonl", "folder:images?layout=labels", "csv:pairs.jsonl"])
def test_a_wrong_source_is_one_line(pairs, spec, capsys):
    overrides = [f"--config.system.{one}" for one in SMALL]
    arguments = ["train", "--config", str(CONFIG), "--workdir", "run", f"--config.data.train={spec}", *overrides]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_form_gives_the_same_batches(tmp_path):
    """Equal batches train to equal losses: the step is a function of the batch."""
    from mmjax import inputs

    pairs = own_data.make_pairs(24, {3: "rotated", 7: "alpha", 11: "palette", 13: "grey"}, size=32)
    config = configs.plain(configs.load(CONFIG))
    config["data"] |= {"batch_size": 8, "workers": 0}
    tokenizer = inputs.make_tokenizer(config["tokenizer"], None)
    expected = None
    for name, write in own_data.WRITERS.items():
        pipeline = inputs.make_pipeline(config, {"train": write(pairs, tmp_path / name)}, tokenizer)
        batch = pipeline[4]
        assert batch["image"].shape == (8, 96, 96, 3)
        expected = expected or batch
        for key in expected:
            np.testing.assert_array_equal(batch[key], expected[key], err_msg=f"{name}: {key}")
