"""Conversion: equal records in order, killed and resumed, whatever the count of workers; and what was dropped."""

import collections
import hashlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from mmjax.core.errors import BadExample, UserError
from mmjax.data import ledger, rewrite
from mmjax.data.decode import decode_image
from mmjax.data.rewrite import convert
from mmjax.data.sources import open_source
from tests.data import own_data


def all_records(spec: str) -> list:
    """Every record that can be read and decoded."""
    source, found = open_source(spec), []
    for index in range(len(source)):
        try:
            record = source.record(index)
            decode_image(record.image)
        except BadExample:
            continue
        found.append(record)
    return found


def files(folder) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def pairs():
    return own_data.make_pairs(64, own_data.spread(64))


@pytest.fixture(scope="module")
def jsonl(pairs, tmp_path_factory):
    return own_data.write_jsonl(pairs, tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize("format", rewrite.FORMATS)
def test_equal_records_in_order(jsonl, pairs, format, tmp_path):
    done = []
    written = convert(jsonl, tmp_path / "out", format, shards=3, tick=done.append)
    want = all_records(jsonl)
    assert len(want) == 64 - 9 == written["records"] == sum(written["shards"].values())
    assert written["dropped"] == collections.Counter(own_data.expected(pairs).values())
    source = open_source(written["opens_as"])
    assert [source.record(i) for i in range(len(source))] == want  # bytes and all: nothing is encoded again
    bare = open_source(f"{format}:{tmp_path / 'out'}")
    assert [bare.record(i).image for i in range(len(bare))] == [record.image for record in want]
    bad = ledger.read(tmp_path / "out" / "ledger.jsonl")
    assert {item.index: item.reason for item in bad} == own_data.expected(pairs)
    assert {item.source for item in bad} == {jsonl}
    assert done[-1] == 64 and done == sorted(done)
    ending = rewrite.FORMATS[format]
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".mmjax-index") == [
        *(f"data-{i:05}-of-00003.{ending}" for i in range(3)), "ledger.jsonl", "manifest.json",
    ]  # fmt: skip
    before = files(tmp_path / "out")
    assert convert(jsonl, tmp_path / "out", format, shards=3) == written  # done already
    assert files(tmp_path / "out") == before


def test_unchecked_copies_what_cannot_be_decoded(jsonl, pairs, tmp_path):
    written = convert(jsonl, tmp_path / "out", "arrayrecord", checked=False)
    undecodable = {"truncated image", "not an image", "image too large"}
    left = collections.Counter(reason for reason in own_data.expected(pairs).values() if reason not in undecodable)
    assert collections.Counter(written["dropped"]) == left
    assert written["records"] == 64 - left.total()


def test_keys_that_are_no_member_names(tmp_path):
    """Dots would end a sample's name, and two neighbours of one name would be one sample."""
    keys = ["a.b.c", "twice", "twice", "größe ✓", "x/y", "../up", ""]
    (tmp_path / "a.png").write_bytes(own_data.encode(own_data.picture(0)))
    lines = [json.dumps({"key": key, "image": "a.png", "text": f"text {i}"}) for i, key in enumerate(keys)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    source = open_source(f"jsonl:{tmp_path}/pairs.jsonl?key=key")
    written = convert(source.name, tmp_path / "out", "webdataset")
    back = open_source(written["opens_as"])
    assert [back.record(i) for i in range(len(back))] == [source.record(i) for i in range(len(source))]


def test_generated_sources_keep_their_pixels(tmp_path):
    scenes = ("emoji_scenes:test?size=32&length=5", 5)
    for (spec, count), format in (
        (scenes, "webdataset"),
        (scenes, "arrayrecord"),
        (("emoji:val?style=noto,twemoji", None), "webdataset"),
    ):
        source = open_source(spec)
        out = tmp_path / spec.partition(":")[0]
        written = convert(spec, out / format, format, shards=2)
        back = open_source(written["opens_as"])
        examples = [source[i] for i in range(len(source))]
        want = [
            (image, example["texts"], example.get("label"))
            for example in examples
            for image in (example["images"] if "images" in example else [example["image"]])
        ]
        assert len(back) == len(want) and (count is None or len(back) == count)
        for (image, texts, label), got in zip(want, map(back.__getitem__, range(len(back))), strict=True):
            np.testing.assert_array_equal(got["image"], image)
            assert got["texts"] == texts and got.get("label") == label
        if "scenes" in spec:
            np.testing.assert_array_equal(back[3]["boxes"], np.asarray(examples[3]["boxes"], np.float64))
        else:
            assert back[0]["labels"] == examples[0]["labels"] and back[1]["key"] == f"{examples[0]['key']}/1"


def test_workers_write_the_same(jsonl, tmp_path):
    for workers in (1, 3):
        convert(jsonl, tmp_path / str(workers), "webdataset", shards=4, workers=workers)
    one, three = files(tmp_path / "1"), files(tmp_path / "3")
    assert {k: v for k, v in one.items() if k != "manifest.json"} == {
        k: v for k, v in three.items() if k != "manifest.json"
    }


class Killed(BaseException):
    """Nothing catches it."""


@pytest.mark.parametrize("moment", range(1, 8))
def test_a_killed_conversion_goes_on(jsonl, tmp_path, monkeypatch, moment):
    """Killed at each file that takes its name: what is whole is kept, what is not is written again."""
    whole = convert(jsonl, tmp_path / "whole", "webdataset", shards=2)
    replaced = []

    def replace(source, target):
        replaced.append(target)
        if len(replaced) == moment:
            raise Killed
        return rename(source, target)

    rename = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            convert(jsonl, tmp_path / "out", "webdataset", shards=2)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    again = convert(jsonl, tmp_path / "out", "webdataset", shards=2)
    assert again["shards"] == whole["shards"] and again["dropped"] == whole["dropped"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    ours, theirs = files(tmp_path / "out"), files(tmp_path / "whole")
    assert {k: v for k, v in ours.items() if k != "manifest.json"} == {
        k: v for k, v in theirs.items() if k != "manifest.json"
    }


def test_a_killed_process_leaves_no_workers_and_goes_on(tmp_path):
    command = [sys.executable, "-m", "mmjax.cli", "data", "convert", "--data", "emoji_scenes:test?length=400",
               "--output", str(tmp_path / "out"), "--format=webdataset", "--shards=8", "--workers=2"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/*.tar")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.kill()
    process.wait()
    kept = {path.name for path in tmp_path.glob("out/*.tar")}
    assert kept and len(kept) < 8 and children and not (tmp_path / "out" / "manifest.json").exists()
    while any(os.path.exists(f"/proc/{child}") for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{child}") for child in children)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "400 records in 8 shards" in done.stdout
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["records"] == 400


def test_mistakes_are_named(jsonl, tmp_path):
    convert(jsonl, tmp_path / "out", "webdataset", shards=2)
    with pytest.raises(UserError, match=r"holds another conversion \(shards 2 -> 3\)"):
        convert(jsonl, tmp_path / "out", "webdataset", shards=3)
    with pytest.raises(UserError, match="valid: 1 to 64 shards"):
        convert(jsonl, tmp_path / "other", "webdataset", shards=65)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UserError, match=r"is not empty, and what it holds \(mine.txt\)"):
        convert(jsonl, tmp_path / "full", "webdataset")
    with pytest.raises(UserError, match="is not a folder"):
        convert(jsonl, tmp_path / "full" / "mine.txt", "webdataset")
