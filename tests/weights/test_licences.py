import pathlib

import pytest

from mmjax import licences as runs
from mmjax.weights import licences


@pytest.mark.parametrize(
    ("name", "content", "licence", "found"),
    [
        ("README.md", "---\ntags: [x]\nlicense: apache-2.0\n---\nlicense: mit", "apache-2.0", "the field `license`"),
        ("README.md", '---\nlicense: other\nlicense_name: "research-only"\n---\n', "research-only", "README.md"),
        ("README.md", "license: mit, says the text", "unknown", "no card with a field"),
        ("LICENSE", "\nMIT License\n\nCopyright", "MIT License", "the first line of LICENSE"),
        ("model.safetensors", "", "unknown", "no licence file beside it"),
    ],
)
def test_what_a_folder_says(name: str, content: str, licence: str, found: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / name).write_text(content)
    for path in (tmp_path, tmp_path / "weights.pt"):
        entry = licences.of_files("weights", path)
        assert entry["licence"] == licence and found in entry["found"]


def test_the_ledger_of_a_run(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}")
    (tmp_path / "LICENSE").write_text("CC0 1.0 Universal")
    config = {
        "data": {"train": {"emoji:train": 1, f"jsonl:{tmp_path / 'pairs.jsonl'}?image=url": 2}},
        "tokenizer": {"spec": "clip_bpe"},
        "stages": {"one": {"data": {"train": "tfds:coco"}}, "two": {}},
    }
    ledger = runs.of_run(config)
    by_name = {item["name"]: item["licence"] for item in ledger}
    assert by_name["emoji: Twemoji"] == "CC-BY-4.0"
    assert by_name[f"jsonl:{tmp_path / 'pairs.jsonl'}?image=url"] == "CC0 1.0 Universal"
    assert by_name["tfds:coco"] == "unknown" and by_name["merges of CLIP's tokenizer"] == "MIT"
    assert licences.merge(ledger, ledger) == ledger
    assert any("Fluent Emoji: MIT" in line for line in licences.lines(ledger))
