import json
import os
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image

import mmjax
from mmjax import cli
from mmjax.commands import index as indexes
from mmjax.core.errors import UserError
from mmjax.data.sources import open_source

PICTURES = 7


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mmjax" / "search"


@pytest.fixture
def folder(tmp_path):
    """Seven pictures in two folders, a web page that is called a picture, half a picture, and other files."""
    path = tmp_path / "pictures"
    (path / "sub").mkdir(parents=True)
    source = open_source("emoji:test?style=fluent")
    for i in range(PICTURES):
        name = f"sub/{i}.webp" if i % 2 else f"{i}.png"
        Image.fromarray(source[i * 11]["images"][0]).save(path / name, **({"lossless": True} if i % 2 else {}))
    (path / "page.jpg").write_text("<html></html>")
    whole = (path / "0.png").read_bytes()
    (path / "half.png").write_bytes(whole[: len(whole) // 2])
    (path / "notes.txt").write_text("no picture")
    (path / ".hidden.png").write_bytes(whole)
    return path


def search(folder, model, *more, capsys):
    code = cli.main(["search", str(folder), "--checkpoint", str(model), "--batch-size", "8", *more])
    out, err = capsys.readouterr()
    found = re.findall(r"^ *(\d+) +(-?\d\.\d{3})  (.+)$", out, re.M)
    embedded = re.search(r"(\d+) pictures, (\d+) of them embedded now, (\d+) left out", out)
    return code, found, embedded and tuple(map(int, embedded.groups())), out, err


def names():
    return sorted(f"sub/{i}.webp" if i % 2 else f"{i}.png" for i in range(PICTURES))


def by_hand(folder, model, text):
    loaded = mmjax.load(model)
    scores = loaded.embed_image([folder / name for name in names()]) @ loaded.embed_text([text])[0]
    return [names()[i] for i in np.argsort(-scores)], np.sort(scores)[::-1]


def test_by_text(folder, small_model, capsys):
    code, found, counts, _, err = search(folder, small_model, "--query", "a red car", capsys=capsys)
    assert code == 0 and counts == (PICTURES, PICTURES + 2, 2)
    order, scores = by_hand(folder, small_model, "a red car")
    assert [name for *_, name in found] == order
    np.testing.assert_allclose([float(score) for _, score, _ in found], scores, atol=6e-4)
    assert "2 left out" in err and "not an image" in err and "page.jpg" in err and "half.png" in err


def test_by_picture(folder, small_model, capsys):
    _, found, _, _, _ = search(folder, small_model, "--image", str(folder / "sub/3.webp"), "--top", "2", capsys=capsys)
    assert len(found) == 2 and found[0] == ("1", "1.000", "sub/3.webp")


def test_what_is_kept(folder, small_model, other_model, cache, capsys):
    """Only what changed is embedded again; another checkpoint starts from nothing."""

    def again(*more, model=small_model):  # fmt: skip
        return search(folder, model, "--query", "a cat", *more, capsys=capsys)

    first = again()
    assert again()[1:3] == (first[1], (PICTURES, 0, 2))
    os.utime(folder / "2.png", ns=(1, 1))
    (folder / "sub/1.webp").unlink()
    Image.new("RGB", (40, 50), "red").save(folder / "half.png")
    assert again()[2] == (PICTURES, 2, 1)
    assert again("--rebuild")[2] == (PICTURES, PICTURES + 1, 1)
    assert len(list(cache.iterdir())) == 1

    kept = str(next(cache.iterdir()))
    code, found, counts, _, err = again("--index", kept, model=other_model)
    assert code == 0 and counts[1] == PICTURES + 1 and "made by another checkpoint" in err
    loaded = mmjax.load(other_model)
    best = loaded.embed_image([folder / found[0][2]]) @ loaded.embed_text(["a cat"])[0]
    assert float(best[0]) == pytest.approx(float(found[0][1]), abs=6e-4)


def test_a_damaged_index_is_built_again(folder, small_model, cache, capsys):
    search(folder, small_model, "--query", "a", capsys=capsys)
    file = next(cache.iterdir())
    data = file.read_bytes()
    for wreck in (data[: len(data) // 2], b"", b"PK\x03\x04 no archive", bytes(len(data))):
        file.write_bytes(wreck)
        code, _, counts, _, err = search(folder, small_model, "--query", "a", capsys=capsys)
        assert code == 0 and counts[1] == PICTURES + 2 and "cannot be read" in err


def test_an_index_that_cannot_be_kept_is_said(folder, small_model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    index = str(tmp_path / "file" / "index.npz")
    code, found, _, _, err = search(folder, small_model, "--query", "a", "--index", index, capsys=capsys)
    assert code == 0 and len(found) == PICTURES and "the index is not kept" in err


def test_an_interrupted_build_keeps_what_is_done(folder, small_model, tmp_path, monkeypatch):
    model, gallery = mmjax.load(small_model, batch_size=8), indexes.Folder(folder)
    assert model.predictor.batch_size == 8 and len(gallery.stamps) == 9
    embed, calls = type(model.predictor).embed_image, []

    def stops(self, pictures):
        calls.append(len(pictures))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return embed(self, pictures)

    monkeypatch.setattr(type(model.predictor), "embed_image", stops)
    with pytest.raises(KeyboardInterrupt):
        indexes.build(gallery, model, tmp_path / "i.npz")
    monkeypatch.undo()
    assert indexes.build(gallery, model, tmp_path / "i.npz").embedded == 1


def test_a_source(small_model, capsys):
    spec = "emoji:test?style=fluent"
    code, found, counts, _, _ = search(spec, small_model, "--query", "a cat", "--top", "3", capsys=capsys)
    source, model = open_source(spec), mmjax.load(small_model)
    scores = model.embed_image([source[i]["images"][0] for i in range(len(source))]) @ model.embed_text(["a cat"])[0]
    assert code == 0 and counts == (len(source), len(source), 0)
    assert [name for *_, name in found] == [source[int(i)]["key"] for i in np.argsort(-scores)[:3]]
    assert search(spec, small_model, "--query", "a dog", capsys=capsys)[2] == (len(source), 0, 0)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "coco"])
def test_the_pictures_that_rows_name(kind, folder, small_model, cache, tmp_path, capsys):
    """Only what changed is embedded again: a picture, a row that came; those of rows that went are forgotten."""
    table = tmp_path / f"pairs.{kind}"

    def write(*named):
        if kind == "csv":
            lines = ["image,text", *(f"pictures/{name},{text}" for name, text in named)]
        elif kind == "jsonl":
            lines = [json.dumps({"image": f"pictures/{name}", "text": text}) for name, text in named]
        else:
            images = [{"id": i, "file_name": f"pictures/{name}"} for i, (name, _) in enumerate(named)]
            notes = [{"image_id": i, "caption": text} for i, (_, text) in enumerate(named)]
            lines = [json.dumps({"images": images, "annotations": notes})]
        table.write_text("\n".join(lines) + "\n")

    def again():
        code, found, counts, _, _ = search(f"{kind}:{table}", small_model, "--query", "a cat", capsys=capsys)
        assert code == 0
        return {name.removeprefix("pictures/"): score for _, score, name in found}, counts

    rows = [(name, "text") for name in (*names(), "half.png", "none.png")]
    write(*rows, ("0.png", "the same picture"), ("6.png", " "))
    scores, counts = again()
    assert counts == (PICTURES + 1, PICTURES + 4, 3)  # half a picture, none, and a row without a caption are left out
    assert again() == (scores, (PICTURES + 1, 0, 3))

    written = next(cache.iterdir()).stat().st_mtime_ns
    again()
    assert next(cache.iterdir()).stat().st_mtime_ns == written  # two rows of one picture are no change
    Image.new("RGB", (40, 50), "red").save(folder / "2.png")
    Image.new("RGB", (50, 40), "blue").save(folder / "none.png")
    new, counts = again()
    assert counts == (PICTURES + 2, 2, 2) and new["2"] != scores["2"] and "none" in new
    assert {name: score for name, score in new.items() if name not in ("2", "none")} == {
        name: score for name, score in scores.items() if name != "2"
    }
    write(*rows[1:], ("6.png", "now with a caption"))  # the first row and the one that said it twice are gone
    later, counts = again()
    assert counts == (PICTURES + 1, 0, 1) and "0" not in later
    write(*rows)
    assert again()[1] == (PICTURES + 1, 1, 1)


def test_the_stamps_of_a_source_follow_its_files(tmp_path, monkeypatch):
    file = tmp_path / "pairs.jsonl"
    file.write_text("a")
    monkeypatch.setattr(indexes, "open_source", lambda spec: [None] * 3)
    before = indexes.SourceGallery(f"jsonl:{file}").stamps
    assert indexes.SourceGallery(f"jsonl:{file}").stamps == before
    file.write_text("ab")
    after = indexes.SourceGallery(f"jsonl:{file}").stamps
    assert len(set(after) | set(before)) == 6


def test_contact_sheet(folder, small_model, tmp_path, capsys):
    sheet = tmp_path / "sheet.html"
    query = "<b>cat</b> & dog"
    assert search(folder, small_model, "--query", query, "--top", "4", "--html", str(sheet), capsys=capsys)[0] == 0
    text = sheet.read_text()
    assert text.count("data:image/jpeg;base64,") == 4 and "&lt;b&gt;cat&lt;/b&gt; &amp; dog" in text
    assert "<b>cat" not in text and not re.search(r"(src|href)=.?(?!data:)[\"'](?!data:)", text)
    assert not re.search(r"https?://", text)


def test_matrix_and_faiss_agree(monkeypatch):
    """Ties stand in the order of the gallery; faiss gets what it is documented to take."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 4)).astype(np.float32)
    features[7] = features[3]
    index = indexes.Index([str(i) for i in range(50)], np.arange(50), features)
    order = np.argsort(-(features @ features[3]), kind="stable")

    class Flat:
        def __init__(self, width):
            self.width = width

        def add(self, rows):
            assert rows.dtype == np.float32 and rows.flags.c_contiguous and rows.shape[1] == self.width
            self.rows = rows

        def search(self, queries, k):
            scores = queries @ self.rows.T
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(scores, best, axis=1), best

    for k in (1, 2, 10, 50):
        assert [each.index for each in index.search(features[3], k)] == order[:k].tolist()
    monkeypatch.setitem(sys.modules, "faiss", types.SimpleNamespace(IndexFlatIP=Flat))
    assert index.search(features[3], 10, "faiss") == index.search(features[3], 10)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'mmjax\[faiss\]'"):
        index.search(features[3], 10, "faiss")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "either as --query TEXT or as --image FILE"),
        (["--query", "a", "--image", "b"], "either as --query"),
        (["--query", "  "], "--query is empty"),
        (["--image", "none.png"], "none.png: there is no such file"),
        (["--image", __file__], "not an image"),
        (["--query", "a", "--top", "10"], "--top 10: there are 9 pictures; valid: 1 to 9"),
        (["--query", "a", "--top", "8"], "--top 8: the index holds 7 pictures; valid: 1 to 7"),
        (["--query", "a", "--top", "0"], "--top 0"),
        (["--query", "a", "--html", "/nowhere/a.html"], "there is no directory /nowhere"),
        (["--query", "a", "--html", "."], "is a folder"),
        (["--query", "a", "--batch-size", "0"], "--batch-size 0"),
        (["--query", "a", "--templates", "no"], "templates 'no'"),
    ],
)
def test_mistakes(more, message, folder, small_model, capsys):
    code, _, _, _, err = search(folder, small_model, *more, capsys=capsys)
    line = err.strip().splitlines()[-1]
    assert code == 2 and line.startswith("mmjax search: ") and message in line and "Traceback" not in err


def test_nothing_to_search(folder, small_model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for gallery, message in ((tmp_path / "empty", "holds no image file"), (tmp_path / "none", "neither a folder nor"),
                             ("emojo:test", "neither a folder nor a source; sources: emoji")):  # fmt: skip
        assert message in search(gallery, small_model, "--query", "a", capsys=capsys)[-1]
    for name in names():
        (folder / name).unlink()
    assert "not one of 2 pictures can be read" in search(folder, small_model, "--query", "a", capsys=capsys)[-1]
