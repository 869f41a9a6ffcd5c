"""The benchmarks run from end to end on tiny sizes and write tables that hold what they say."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "experiments" / "benchmarks"
SIDES = {"mmjax", "open_clip", "open_clip compiled"}


def load(name: str):
    """A module of the folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_beside(name: str):
    """A module that imports others of the folder by their names."""
    sys.path.insert(0, str(FOLDER))
    try:
        return load(name)
    finally:
        sys.path.remove(str(FOLDER))


def run(script: str, *arguments: str, json_file: pathlib.Path) -> dict:
    """The JSON that a benchmark writes; what it prints is the same table."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, str(FOLDER / script), *arguments, "--json", str(json_file)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    written = json.loads(json_file.read_text())
    assert written["machine"]["device"] and written["machine"]["cores"] >= 1 and written["machine"]["versions"]["jax"]
    assert written["title"] in ended.stdout
    return written


def test_operations_of_a_step_are_those_of_the_paper_sizes():
    """ViT-B/32's two towers have 2.9 and 4.4 billion multiply-accumulates an image and a text of 77 tokens."""
    from mmjax.systems.clip import SIZES

    step_flops = load("_models").step_flops
    assert step_flops(SIZES["vit_b32"], 1) / 6e9 == pytest.approx(4.4 + 2.95, rel=0.02)
    assert step_flops(SIZES["vit_b32"], 8) > 8 * step_flops(SIZES["vit_b32"], 1)
    assert step_flops(SIZES["vit_b32"], 1, patch_drop=0.5) < step_flops(SIZES["vit_b32"], 1, text=32) * 2


def test_a_table_has_every_column_of_every_row():
    table = load("_table")
    about = {"device": "a processor", "cores": 2, "versions": {"jax": "1"}}
    lines = table.show("title", about, [{"side": "one", "s": 0.5}, {"side": "two", "ratio": 1.25}]).splitlines()
    assert lines[:2] == ["title", "a processor, 2 cores; jax 1"]
    assert [line.split() for line in lines[3:]] == [["side", "s", "ratio"], ["one", "0.5", "–"], ["two", "–", "1.25"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "rows"),
    [
        ("host_devices.py", ["--row=tiny", "--devices=1,2", "--steps=2", "--rounds=1"], 2),
        ("checkpoint_stall.py", ["--row=tiny", "--saves=2"], 2),
    ],
)
def test_benchmark_runs(script, arguments, rows, tmp_path):
    assert len(run(script, *arguments, json_file=tmp_path / "table.json")["rows"]) == rows


@pytest.mark.slow
def test_input_pipeline(tmp_path):
    command = [sys.executable, str(FOLDER / "input_pipeline.py"), "--pairs=8", "--size=64", "--pixels=32", "--batch=4",
               "--rounds=1", "--json", str(tmp_path / "table.json")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["records", "decoded", "texts tokenised", "batches"]
    assert all(row["per s and core"] > 0 for row in rows)


@pytest.mark.slow
def test_train_step_alone_in_two_parts(tmp_path):
    options = ["--rows=tiny", "--sides=mmjax", "--less=text,patches", "--pairs=1", "--steps=2", "--warmup=1", "--add"]
    options += ["--cache", str(tmp_path / "cache")]
    for rounds in (1, 2):
        found = run("train_step.py", *options, json_file=tmp_path / "table.json")
        assert {row["side"]: row["rounds"] for row in found["rows"]} == dict.fromkeys(
            ("mmjax", "text 8", "patch drop 0.5"), rounds
        )
        assert len(found["runs"]) == 3 * rounds
    assert found["rows"][0]["mfu"] > 0


@pytest.mark.parity
def test_train_step_against_open_clip(tmp_path):
    """It stops by itself where the peer's first losses differ."""
    found = run("train_step.py", "--rows=tiny", "--pairs=1", "--steps=2", "--warmup=3", json_file=tmp_path / "t.json")
    assert {row["side"] for row in found["rows"]} == SIDES
    assert all(row["ratio"] > 0 for row in found["rows"] if row["side"] != "mmjax")


def test_decoding_is_timed_in_rounds_and_other_ids_are_refused():
    benchmark = load_beside("decode_speed")
    benchmark.REST, calls = 0.0, []

    def side(name, ids):
        def write():
            calls.append(name)
            return np.array([ids])

        return write

    runs = benchmark.measure({"mmjax": side("mmjax", [1, 2]), "static cache": side("static cache", [1, 2])}, 2)
    assert calls == ["mmjax", "static cache"] * 2 + ["static cache", "mmjax"]
    rows = benchmark.table([{"row": "tiny", "batch": 4, "new": 2, **run, "wall": 0.5 if run["side"] == "mmjax" else 1.0,
                             "cpu": 1.0} for run in runs])  # fmt: skip
    assert [(row["side"], row["rounds"], row["tokens/s"], row["ratio"]) for row in rows] == [
        ("mmjax", 2, 16.0, None), ("static cache", 2, 8.0, 2.0)
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="static cache and mmjax write other ids from token 1 on"):
        benchmark.measure({"mmjax": side("mmjax", [1, 2]), "static cache": side("static cache", [1, 3])}, 1)


@pytest.mark.parity
def test_decode_speed_against_transformers(tmp_path):
    """It stops by itself where the peer writes other ids."""
    found = run("decode_speed.py", "--rows=tiny", "--rounds=1", "--new=8", json_file=tmp_path / "t.json")
    assert [(row["batch"], row["side"]) for row in found["rows"]] == [
        (batch, side) for batch in (1, 8) for side in ("mmjax", "dynamic cache", "static cache")
    ]
    assert all(row["ratio"] > 0 for row in found["rows"] if row["side"] != "mmjax") and len(found["runs"]) == 6
