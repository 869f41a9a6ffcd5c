"""The README's recipe for published checkpoints: its conversions run as they stand, on a small archive of OpenAI's."""

import json
import pathlib
import re
import shlex

import numpy as np
import pytest
import safetensors.numpy

import mmjax
from mmjax import cli, initial
from tests.torch_files import archive

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("### Published checkpoints\n")[2].partition("\n## ")[0]
SYSTEM = {
    "name": "clip",
    "embed_dim": 16,
    "img": {"image_size": 32, "patch": 16, "width": 64, "depth": 1, "heads": 1, "mlp_dim": 256},
    "txt": {"vocab": 49408, "length": 16, "width": 64, "depth": 1, "heads": 1, "mlp_dim": 256},
}


@pytest.fixture
def published(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A directory with openai/ViT-B-32.pt, in half precision, and the card of its publisher."""
    from mmjax.commands import models
    from mmjax.weights.clip import clip_table

    rng, table = np.random.default_rng(0), clip_table(SYSTEM, "openai")
    flat = {path: 0.1 * rng.normal(size=shape).astype(np.float32) for path, shape in models.shapes(SYSTEM).items()}
    half = {key: array.astype(np.float16) if array.ndim > 1 else array for key, array in table.published(flat).items()}
    (tmp_path / "openai").mkdir()
    archive(tmp_path / "openai/ViT-B-32.pt", half | table.extra({}, False))
    (tmp_path / "openai/README.md").write_text("---\nlicense: mit\n---\n# ViT-B/32\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_conversions(published: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", SECTION, re.S) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    ran = [words for words in commands if words[0] == "convert"]
    assert len(ran) == 4
    for words in ran:
        assert cli.main(words) == 0
        out = capsys.readouterr().out
        assert "licence of weights openai/ViT-B-32.pt: mit (the field `license` of README.md)" in out
    assert json.loads((published / "converted/config.json").read_text())["model_type"] == "clip"
    assert {"tokenizer.json", "vocab.json", "merges.txt", "README.md", "preprocessor_config.json"} <= {
        path.name for path in (published / "converted").iterdir()
    }
    config = json.loads((published / "exported/open_clip_config.json").read_text())
    assert config["model_cfg"]["embed_dim"] == 16 and config["preprocess_cfg"]["resize_mode"] == "shortest"
    card = (published / "exported/README.md").read_text()
    assert card.startswith('---\nlicense: "mit"\n') and "local-dir:" in card
    stored = json.loads((published / "ours/mmjax.json").read_text())["licences"]
    assert [item["licence"] for item in stored] == ["mit"]
    grown = json.loads((published / "larger/mmjax.json").read_text())["system"]
    assert grown["txt"]["vocab"] == 49_500
    one = mmjax.load(published / "openai/ViT-B-32.pt", batch_size=8)
    other = mmjax.load(published / "exported", batch_size=8)
    np.testing.assert_array_equal(one.embed_text(["a cat"]), other.embed_text(["a cat"]))
    half = safetensors.numpy.load_file(published / "converted/model.safetensors")
    assert half["visual_projection.weight"].dtype == np.float16


def test_the_examples_of_init_are_what_it_takes() -> None:
    names: dict = {"c": type("Config", (), {})()}
    found = []
    for block in re.findall(r"```\n(c\.init.*?)```", SECTION, re.S):
        for statement in re.split(r"\n(?=c\.)", block):
            exec(statement, names)
            found.append([entry.path for entry in initial.entries(names["c"].init)])
    assert found == [["ours"], ["ours", "other"], ["deit.pth", "bert-base-uncased"]]
