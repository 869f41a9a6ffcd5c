import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import mmjax
from mmjax import cli
from mmjax.data.example import BadExample
from mmjax.data.sources import open_source

DATA = "emoji:test?style=fluent"


def embed(model, output, *more):
    return cli.main(["embed", "--checkpoint", str(model), "--output", str(output), "--batch-size", "8", *more])


def test_pictures_as_numpy(small_model, tmp_path, capsys):
    output = tmp_path / "out.npy"
    assert embed(small_model, output, "--data", "emoji:test", "--limit", "5") == 0
    features, rows = np.load(output), json.loads(output.with_suffix(".json").read_text())
    source, model = open_source("emoji:test"), mmjax.load(small_model)
    wanted = [(source[int(i)]["key"], int(i), place) for i in np.linspace(0, len(source) - 1, 5).round()
              for place in range(len(source[int(i)]["images"]))]  # fmt: skip
    assert [(row["key"], row["index"], row["place"]) for row in rows] == wanted and len(wanted) > 5
    alone = model.embed_image([source[index]["images"][place] for _, index, place in wanted])
    np.testing.assert_allclose(features, alone, atol=1e-5)
    assert features.dtype == np.float32
    assert f"out.npy: {len(wanted)} images of emoji:test, 8 numbers each" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"out.npy", "out.json"}


def test_texts_as_parquet(small_model, tmp_path):
    output = tmp_path / "out.parquet"
    assert embed(small_model, output, "--data", DATA, "--limit", "3", "--what", "texts", "--templates", "drawing") == 0
    table = pq.read_table(output)
    assert table.column_names == ["key", "index", "place", "text", "embedding"]
    texts = table["text"].to_pylist()
    source = open_source(DATA)
    assert texts == [text for i in np.linspace(0, len(source) - 1, 3).round() for text in source[int(i)]["texts"]]
    features = np.asarray(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(features, mmjax.load(small_model).embed_text(texts, "drawing"), atol=1e-5)


def test_examples_that_cannot_be_used_are_named(small_model, tmp_path, monkeypatch, capsys):
    source = open_source(DATA)

    class Damaged:
        name = "damaged"

        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 1:
                raise BadExample("truncated image", "b.png")
            return source[index]

    monkeypatch.setattr("mmjax.inputs.open_source", lambda spec: Damaged())
    output = tmp_path / "out.npy"
    assert embed(small_model, output, "--data", "damaged") == 0
    assert [row["index"] for row in json.loads(output.with_suffix(".json").read_text())] == [0, 2, 3]
    error = capsys.readouterr().err
    assert "damaged: 1 left out (truncated image 1)\n  1: truncated image: b.png\n" in error


@pytest.mark.parametrize(
    ("output", "more", "message"),
    [
        ("out.csv", [], "the name ends in .npy or .parquet"),
        ("missing/out.npy", [], "there is no directory"),
        ("out.npy", ["--limit", "0"], "--limit 0: at least 1"),
        ("out.npy", ["--batch-size", "0"], "--batch-size 0: at least 1"),
        ("out.npy", ["--templates", "photo"], "give --what texts"),
        ("out.npy", ["--data", "emojo:test"], "did you mean 'emoji'"),
        ("there.npy", [], "there.npy exists; --force replaces it"),
    ],
)
def test_mistakes(output, more, message, small_model, tmp_path, capsys):
    (tmp_path / "there.npy").write_bytes(b"precious")
    assert embed(small_model, tmp_path / output, "--data", DATA, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("mmjax embed: ") and message in error and "Traceback" not in error
    assert {path.name for path in tmp_path.iterdir()} == {"there.npy"}
    assert (tmp_path / "there.npy").read_bytes() == b"precious"


def test_force(small_model, tmp_path):
    (tmp_path / "there.npy").write_bytes(b"old")
    assert embed(small_model, tmp_path / "there.npy", "--data", DATA, "--limit", "2", "--force") == 0
    assert np.load(tmp_path / "there.npy").shape == (2, 8)
