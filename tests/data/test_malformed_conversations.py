"""Two hundred conversation files with faults: each fault is counted and named, and all good rows are used."""

import json
import pathlib
import shutil
from collections import Counter

import pytest

from mmjax import cli
from mmjax.core.errors import UserError
from mmjax.data import augment, ledger, tasks, text
from mmjax.data.chat_task import Sight
from mmjax.data.pipeline import Pipeline
from mmjax.data.sources import open_source
from mmjax.data.tokenizers import SentencePiece
from tests.data import malformed_conversations as made

FILES, LENGTH = 200, 400
SIGHT = Sight(size=8, states=4, newline=False, side=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("talks")
    made.pictures(folder / "images")
    return folder


@pytest.fixture(scope="module")
def files(folder) -> list[made.File]:
    return [made.make(folder, number) for number in range(FILES)]


@pytest.fixture(scope="module")
def words() -> SentencePiece:
    lines = ["what is 12 here? it is 90", "sure? yes", "be short, be brief", "USER: ASSISTANT: a chat"]
    return SentencePiece.train(lines * 3, 290)


def pipeline(source, words) -> Pipeline:
    """All rows of the source in one batch."""
    task = tasks.from_config({"kind": "chat"}, SIGHT)
    return Pipeline(source, tokenizer=words, length=LENGTH, image=augment.from_config({"size": 8}), task=task,
                    text=text.from_config({}), batch_size=len(source))  # fmt: skip


def test_every_kind_of_fault_is_there(files) -> None:
    reasons = Counter(reason for file in files for reason, _, _ in file.bad.values())
    assert set(reasons) == {reason for reason, _, _ in made.FAULTS}
    assert min(reasons.values()) >= 5 and sum(reasons.values()) > 300
    assert len({file.broken for file in files}) >= 6 and sum(bool(file.broken) for file in files) == FILES // 7
    assert sum(len(file.good) for file in files) > 300


def test_faults_are_counted_and_named_and_good_rows_are_used(folder, files, words, tmp_path) -> None:
    for file in files:
        spec = f"llava:{file.path}?root={folder / 'images'}"
        if file.broken:
            with pytest.raises(UserError, match=rf"{file.path.name} {file.broken}") as caught:
                open_source(spec)
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
            continue
        data = pipeline(open_source(spec), words)
        batch = data.batches[0]
        found = ledger.unpack(batch["dropped"])
        assert set(batch["index"].tolist()) == file.good, file
        assert (batch["mask_loss"].sum(axis=1) > 0).all()
        with ledger.Ledger(tmp_path / file.path.stem) as book:
            book.add(found)
            assert book.totals() == Counter(reason for reason, _, _ in file.bad.values()), file
        kept = {item.index: (item.reason, item.key) for item in ledger.read(book.path)}
        assert kept == {place: (reason, key) for place, (reason, key, _) in file.bad.items()}, file
        for item in found:
            line = ledger.describe(item)
            assert line.startswith(f"llava:{file.path}") and "\n" not in line and len(line) < 1000


def test_a_file_without_a_good_row_is_told_with_the_reasons(folder, words) -> None:
    path = folder / "bad.jsonl"
    path.write_text("".join(json.dumps({"id": f"b{n}", **row}) + "\n" for n, (_, _, row) in enumerate(made.FAULTS[:9])))
    with pytest.raises(UserError, match=r"bad.jsonl.*cannot be used: 1,001 wrong roles. The first: .*\(b\d\)"):
        pipeline(open_source(f"llava:{path}"), words).batches[0]
    path.unlink()


def test_inspect_counts_the_same(folder, files, tmp_path, capsys) -> None:
    lines = [file for file in files if file.path.suffix == ".jsonl" and not file.broken]
    for file in lines:
        shutil.copy(file.path, tmp_path / file.path.name)
    spec, out = f"llava:{tmp_path}/*.jsonl?root={folder / 'images'}", tmp_path / "out"
    assert cli.main(["data", "inspect", "--data", spec, "--out", str(out), "--workers", "1"]) == 0
    found = json.loads((out / "survey.json").read_text())
    faults = Counter(reason for file in lines for reason, _, task in file.bad.values() if not task)
    assert found["dropped"] == faults and found["read"] == sum(len(file.good) + len(file.bad) for file in lines)
    assert found["usable"] == found["read"] - sum(faults.values()) and found["images"] > 100
    assert found["captions"]["count"] > 2 * found["usable"] * 0.9
    said = capsys.readouterr().out
    assert f"items       {found['read']}, {found['usable']} usable" in said and (out / "contact.png").stat().st_size
    assert all(f"{count} {reason}" in said for reason, count in faults.items())
