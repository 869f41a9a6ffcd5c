import argparse
import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy

from mmjax.commands import golden as fixtures
from mmjax.commands import verify
from mmjax.commands.golden_clip import valid_until_end
from mmjax.core.errors import UserError


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    verify.add_arguments(parser)
    return verify.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.mark.parametrize(
    ("name", "outputs"),
    [("clip/hf_a", 23), ("clip/open_clip_a", 5), ("clip/openai_vit_a", 4), ("clip/openai_rn_a", 4),
     ("clip/open_clip_b", 62), ("clip/open_clip_c", 65), ("clip/open_clip_d", 101),
     ("coca/main_a", 29), ("coca/nopool_a", 26), ("albef/pretrain_a", 49), ("albef/vqa_a", 7),
     ("blip/pretrain_a", 20), ("blip/vqa_a", 5), ("blip/hf_caption_a", 6),
     ("clip/tokenizer", 4), ("losses", 11), ("generation_metrics", 33)],
)  # fmt: skip
def test_golden_fixtures(name: str, outputs: int, golden: pathlib.Path, tmp_path: pathlib.Path, capsys) -> None:
    assert run(golden / name, "--json", tmp_path / "results.json") == 0, capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) == outputs and all(result["passed"] for result in results)
    assert f"{outputs} outputs, 0 failed" in capsys.readouterr().out


def test_metrics_fixture_but_for_meteor(golden: pathlib.Path, capsys) -> None:
    # METEOR's paraphrases come with its Java program alone: mmjax says that it does not compute it.
    assert run(golden / "metrics") == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("FAIL")]
    assert [line.split("caption_metrics/")[1].split(":")[0] for line in failed] == ["METEOR", "items/METEOR"]
    assert sum(line.startswith("pass") for line in lines) == 35


def test_a_wrong_score_or_an_unknown_one_of_a_table_fails(golden: pathlib.Path, tmp_path: pathlib.Path, capsys) -> None:
    folder = shutil.copytree(golden / "metrics" / "a", tmp_path / "fixture")
    table = json.loads((folder / "pope.json").read_text())
    table["f1"] += 1e-3
    table["items"][3]["parsed"] = "no" if table["items"][3]["parsed"] == "yes" else "yes"
    table["items"][0]["mood"] = "good"
    (folder / "pope.json").write_text(json.dumps(table))
    assert run(folder) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL") and " pope/" in line]
    assert [line.split(" pope/")[1].split(":")[0] for line in failed] == ["f1", "items/parsed", "items/mood"]


@pytest.fixture
def broken(golden: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of a small fixture to break."""
    return shutil.copytree(golden / "clip" / "openai_vit_a", tmp_path / "fixture")


def edit(path: pathlib.Path, **changes: np.ndarray) -> None:
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(tensors | changes, path)


def test_a_wrong_weight_fails(broken: pathlib.Path, capsys) -> None:
    weights = safetensors.numpy.load_file(broken / "model.safetensors")
    edit(broken / "model.safetensors", **{"ln_final.bias": weights["ln_final.bias"] + 0.01})
    assert run(broken) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out and "encode/text_features" in out and "pass" in out  # the image tower is as it was


def test_what_cannot_be_computed_fails(broken: pathlib.Path, capsys) -> None:
    meta = json.loads((broken / "meta.json").read_text())
    meta["tasks"]["encode"]["outputs"]["aura"] = "float32[1]"
    (broken / "meta.json").write_text(json.dumps(meta))
    edit(broken / "io.safetensors", **{"encode/out/aura": np.zeros(1, np.float32)})
    assert run(broken) == 1
    assert "encode/aura: mmjax does not compute this output" in capsys.readouterr().out
    edit(broken / "io.safetensors", **{"encode/in/audio": np.zeros(1, np.float32)})
    assert run(broken) == 1
    assert "inputs that CLIP does not take: audio" in capsys.readouterr().out


def test_a_system_that_is_not_there_fails(broken: pathlib.Path, capsys) -> None:
    meta = json.loads((broken / "meta.json").read_text()) | {"system": "telepathy"}
    (broken / "meta.json").write_text(json.dumps(meta))
    assert run(broken) == 1
    assert "no fixtures of the system 'telepathy'" in capsys.readouterr().out


def test_an_unfitting_checkpoint_fails_with_the_list(broken: pathlib.Path, capsys) -> None:
    tensors = safetensors.numpy.load_file(broken / "model.safetensors")
    del tensors["visual.proj"]
    safetensors.numpy.save_file(tensors, broken / "model.safetensors")
    assert run(broken) == 1
    assert "missing (1):\n    visual.proj" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "io.safetensors", "meta.json"])
def test_a_missing_file_is_an_error(name: str, broken: pathlib.Path) -> None:
    (broken / name).unlink()
    with pytest.raises(UserError, match=name):
        run(broken)


def test_a_missing_output_is_an_error(broken: pathlib.Path) -> None:
    tensors = safetensors.numpy.load_file(broken / "io.safetensors")
    del tensors["encode/out/text_features"]
    safetensors.numpy.save_file(tensors, broken / "io.safetensors")
    with pytest.raises(UserError, match="lacks the outputs of the task 'encode': text_features"):
        run(broken)


def test_compare() -> None:
    at = fixtures.Result("f", "t", "o", 1e-3)
    near, far = np.array([1.0005], np.float32), np.array([1.01], np.float32)
    one = np.ones(1, np.float32)
    assert fixtures.compare(at, near, one).passed and not fixtures.compare(at, far, one).passed
    assert not fixtures.compare(at, np.full(1, np.nan, np.float32), one).passed
    assert "shape [1, 1], expected [1]" in fixtures.compare(at, one[None], one).why
    infinite = np.array([-np.inf], np.float32)
    assert fixtures.compare(at, infinite, infinite).passed and not fixtures.compare(at, one, infinite).passed
    whole = np.array([1, 2, 3])
    assert fixtures.compare(at, whole, whole).passed
    result = fixtures.compare(at, np.array([1, 2, 4]), whole)
    assert not result.passed and result.why == "1 of 3 integers differ"


def test_the_end_of_a_text() -> None:
    ids = np.array([[7, 3, 9, 0], [7, 9, 9, 0], [5, 0, 0, 0]])
    assert valid_until_end(ids, None).sum(axis=1).tolist() == [3, 2, 1]
    assert valid_until_end(ids, 3).sum(axis=1).tolist() == [
        2,
        1,
        1,
    ]  # absent: position 0, as theirs


def test_a_mask_that_is_padded_on_the_left_is_no_input(broken: pathlib.Path, capsys) -> None:
    meta = json.loads((broken / "meta.json").read_text())
    ids = safetensors.numpy.load_file(broken / "io.safetensors")["encode/in/text"]
    mask = np.ones_like(ids)
    mask[1, :3] = 0
    meta["tasks"]["encode"]["inputs"]["attention_mask"] = "int64"
    (broken / "meta.json").write_text(json.dumps(meta))
    edit(broken / "io.safetensors", **{"encode/in/attention_mask": mask})
    assert run(broken) == 1
    assert "attention_mask: row 1 has its padding on the left: tokens at 3" in capsys.readouterr().out
