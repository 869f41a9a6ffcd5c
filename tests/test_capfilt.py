import dataclasses
import json
import pathlib
from typing import Any

import pytest

from mmjax import capfilt as job
from mmjax.capfilt import Plan, capfilt
from mmjax.commands.capfilt import summary
from mmjax.core.errors import UserError
from mmjax.data.sources import open_source
from mmjax.model import LoadedModel
from tests.evals import toy

# Image v: a text that is right, one that is not; the toy writes "v 7".
EXAMPLES = [{"image": toy.grey(v), "key": f"k{v}", "texts": [str(v), str(v + 5)], "caption_is_true": [True, False]}
            for v in range(7)]  # fmt: skip


def model() -> LoadedModel:
    return LoadedModel(pathlib.Path("toy"), "toy", {}, toy.Toy(), toy.VARIABLES, toy.WORDS, {}, toy.predictor(3),
                       toy.tools([]))  # fmt: skip


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(job, "open_source", lambda spec: toy.Source(EXAMPLES))
    return EXAMPLES


def plan(**changes: Any) -> Plan:
    return dataclasses.replace(Plan("toy", len(EXAMPLES), "c", "f", {}, shards=3), **changes)


def contents(folder: pathlib.Path) -> dict[str, Any]:
    lines = [
        json.loads(line) for path in sorted(folder.glob("decisions-*.jsonl")) for line in path.read_text().splitlines()
    ]
    data = open_source(f"arrayrecord:{folder}/data-*.arrayrecord")
    return {"lines": lines, "texts": {data[i]["key"]: data[i]["texts"] for i in range(len(data))}}


def test_texts_that_fit_are_kept_with_score_and_decision(tmp_path: pathlib.Path) -> None:
    manifest = capfilt(plan(), model(), model(), tmp_path / "out")
    assert manifest is not None
    found = contents(tmp_path / "out")
    assert found["texts"] == {f"k{v}": [str(v), f"{v} 7"] for v in range(7)}
    first = found["lines"][0]
    assert [(t["text"], t["source"], t["kept"]) for t in first["texts"]] == [
        ("0", "web", True), ("5", "web", False), ("0 7", "synthetic", True)]  # fmt: skip
    # logits (-0.5, 0) for what fits
    assert first["texts"][0]["score"] == pytest.approx(0.62246, abs=1e-4)
    counts = manifest["counts"]
    assert counts["wrong_removed"] == counts["wrong"] == counts["right_kept"] == counts["right"] == 7
    assert any("wrong ones removed 7 of 7 (100.0%)" in line for line in summary(counts))
    assert not (tmp_path / "out" / ".capfilt").exists()


def test_a_threshold_drops_images_without_a_text(tmp_path: pathlib.Path) -> None:
    manifest = capfilt(plan(threshold=0.9, shards=1), model(), model(), tmp_path / "out")
    assert manifest is not None and manifest["counts"]["kept_images"] == 0
    lines = (tmp_path / "out" / "decisions-00000-of-00001.jsonl").read_text().splitlines()
    assert len(lines) == 7


def test_processes_and_restarts_write_the_same(tmp_path: pathlib.Path) -> None:
    capfilt(plan(), model(), model(), tmp_path / "one")
    two = tmp_path / "two"
    assert capfilt(plan(), model(), model(), two, process=1, processes=2, at_once=1) is None
    assert [path.name for path in sorted(two.glob("data-*"))] == ["data-00001-of-00003.arrayrecord"]

    def stop(shard: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # after its first shard
        capfilt(plan(), model(), model(), two, process=0, processes=2, tick=stop)
    (two / "data-00002-of-00003.arrayrecord.partial-1").touch()  # what a kill leaves
    seen: list[int] = []
    assert capfilt(plan(), model(), model(), two, tick=lambda shard, of: seen.append(shard)) is not None
    assert contents(tmp_path / "one") == contents(two) and not list(two.glob("*.partial-*"))
    assert capfilt(plan(), model(), model(), two, tick=lambda shard, of: seen.append(9)) is not None
    assert seen == [0, 1, 2]  # a finished job does nothing


def test_another_job_in_the_folder_is_an_error(tmp_path: pathlib.Path) -> None:
    capfilt(plan(), model(), model(), tmp_path / "out")
    with pytest.raises(UserError, match=r"threshold 0.5 -> 0.7"):
        capfilt(plan(threshold=0.7), model(), model(), tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(UserError, match="is not empty"):
        capfilt(plan(), model(), model(), tmp_path / "other")
    with pytest.raises(UserError, match="valid: 1 to 7"):
        plan(shards=8)
