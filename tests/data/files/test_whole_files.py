"""folder, coco, easy_vqa, parquet, arrayrecord: what is particular to each."""

import importlib.util
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from mmjax.core.errors import UserError
from mmjax.data.conversations import texts_of
from mmjax.data.example import BadExample
from mmjax.data.files import arrayrecord, easy_vqa, parquet
from mmjax.data.files.base import MAX_BYTES, Record, captions, check_bytes
from mmjax.data.sources import open_source
from tests.data import own_data

PNG = own_data.encode(own_data.picture(0, 8))


def put(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def reasons(source):
    found = {}
    for index in range(len(source)):
        try:
            source.record(index)
        except BadExample as error:
            found[index] = error.reason
    return found


def test_captions():
    assert captions("a", b"b", 3, 0.5, None, float("nan"), [" c ", ""]) == ["a", "b", "3", "0.5", "c"]
    for value, reason in ((" ", "empty caption"), (b"\xff", "bad text"), (True, "malformed"), ({}, "malformed")):
        with pytest.raises(BadExample, match=reason):
            captions(value)


def test_large_files_are_not_read():
    class Huge(bytes):
        def __len__(self):
            return MAX_BYTES + 1

    with pytest.raises(BadExample, match="image too large"):
        check_bytes(Huge(b"x"), "it")


def test_folder_with_a_sub_folder_for_each_class(tmp_path):
    put(tmp_path, {"red_fox/2.PNG": PNG, "red_fox/sub/1.jpg": PNG, "cat/.x.png": PNG, "cat/9.gif": PNG, "top.png": PNG,
                   "readme.md": "x"})  # fmt: skip
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names() == ["cat", "red_fox"] and len(source) == 4
    records = [source.record(i) for i in range(3)]
    assert [(r.key, r.label, r.texts) for r in records] == [
        ("cat/9", 0, ["cat"]), ("red_fox/2", 1, ["red fox"]), ("red_fox/sub/1", 1, ["red fox"]),
    ]  # fmt: skip
    assert reasons(source) == {3: "malformed record"}
    assert source[0]["labels"] == {"en": "cat"}


def test_folder_with_captions(tmp_path):
    put(tmp_path, {"b.png": PNG, "b.txt": "\ufeffone\ntwo\n", "a/c.jpg": PNG, "a/c.txt": "x", "e.png": PNG,
                   "f.txt": "x", "g.png": PNG, "g.jpg": PNG, "g.txt": "both"})  # fmt: skip
    source = open_source(f"folder:{tmp_path}")
    assert reasons(source) == {2: "missing file", 3: "missing file"}
    assert [source.record(i).key for i in (0, 1, 4, 5)] == ["a/c", "b", "g.jpg", "g.png"]
    assert source.record(1).texts == ["one\ntwo"] and source.record(5).texts == ["both"]
    assert open_source(f"folder:{tmp_path}?lines=true").record(1).texts == ["one", "two"]
    assert open_source(f"folder:{tmp_path}?layout=labels").class_names() == ["a"]


def test_folder_follows_links_once(tmp_path):
    put(tmp_path, {"data/a.png": PNG, "data/a.txt": "x", "elsewhere/b.png": PNG, "elsewhere/b.txt": "y"})
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    source = open_source(f"folder:{tmp_path / 'data'}")
    assert [source.record(i).key for i in range(len(source))] == ["a", "link/b"]


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ({}, "", r"has no images: it was searched for \*\.avif, .* and has no files"),
        ({"a.txt": "x", "b.pdf": "x"}, "", r"has no images: .* and has 2 files \(\.pdf, \.txt\)"),
        ({"a.png": PNG, "b.png": PNG}, "", "has 2 images, but neither captions .* nor sub-folders"),
        ({"a.png": PNG}, "?layout=labels", "has no sub-folder with images"),
        ({"a.png": PNG}, "?layout=label", "did you mean 'labels'"),
    ],
)
def test_folders_that_cannot_be_used(files, options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        open_source(f"folder:{put(tmp_path, files)}{options}")


def test_folder_that_is_not_there(tmp_path):
    put(tmp_path, {"images/a.png": PNG})
    with pytest.raises(UserError, match=r"there is no folder .*/imags/; .* did you mean 'images'"):
        open_source(f"folder:{tmp_path}/imags/")
    with pytest.raises(UserError, match=r"a\.png is a file, not a folder"):
        open_source(f"folder:{tmp_path}/images/a.png")
    with pytest.raises(UserError, match="needs a folder: folder:PATH"):
        open_source("folder")


def test_coco_gathers_captions(tmp_path):
    images = [{"id": 5, "file_name": "x/b.png"}, {"id": 3, "file_name": "a.png"}, {"id": 4, "file_name": "c.png"}, {}]
    notes = [{"image_id": 3, "caption": "one "}, {"image_id": 5, "caption": "b"}, {"image_id": 3, "caption": "two"},
             {"image_id": 99, "caption": "stray"}]  # fmt: skip
    put(tmp_path, {"c.json": json.dumps({"images": images, "annotations": notes}), "x/b.png": PNG, "a.png": PNG})
    source = open_source(f"coco:{tmp_path}/c.json")
    assert [(source.record(i).key, source.record(i).texts) for i in (0, 1)] == [("x/b", ["b"]), ("a", ["one", "two"])]
    assert reasons(source) == {2: "empty caption", 3: "malformed record"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "has no list 'images'; it has a list"),
        ('{"images": [1]}', "has no list 'annotations'; it has images"),
        ('{"images": [], "annotations": [1]}', "list 'images' in .* is empty"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "bbox": []}]}', "object detection"),
    ],
)
def test_coco_files_that_cannot_be_used(content, words, tmp_path):
    with pytest.raises(UserError, match=words):
        open_source(f"coco:{put(tmp_path, {'c.json': content})}/c.json")


def test_easy_vqa_is_the_package():
    counts = {"train": (4_000, 38_575), "test": (1_000, 9_673)}  # as its publisher counts them
    for split, (images, questions) in counts.items():
        source = open_source(f"easy_vqa:{split}")
        assert len(source) == images
        assert sum(len(pairs) for _, pairs in source.items) == questions
    example = source[0]
    assert example["image"].shape == (64, 64, 3) and example["key"] == "0"
    assert example["texts"][0] == "what is the red shape? triangle"
    assert example["questions"][0] == ["what is the red shape?", "triangle"]
    assert texts_of(example) == example["texts"]  # a tokenizer is trained on every text once
    assert len({source.record(i).key for i in range(1000)}) == 1000


def test_easy_vqa_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: pip install 'mmjax\[easy_vqa\]', or give \?root=DIR"):
        open_source("easy_vqa")
    with pytest.raises(UserError, match=r"there is no .*/train/questions\.json; a split is a folder"):
        easy_vqa.open("train", root=str(tmp_path))
    put(tmp_path, {"test/questions.json": '[["q", "a", 1], ["q"], "x"]', "test/images/1.png": PNG})
    source = easy_vqa.open("test", root=str(tmp_path))
    assert source.record(0).texts == ["q a"] and reasons(source) == dict.fromkeys((1, 2), "malformed record")


def test_parquet_of_every_kind_of_column(tmp_path):
    put(tmp_path, {"a.png": PNG})
    columns = {
        "image": pa.array([{"bytes": PNG, "path": "x.png"}, {"bytes": None, "path": "a.png"}, None]),
        "raw": [PNG, b"", None],
        "file": ["a.png", "no.png", None],
        "captions": [["one", " two "], [], None],
        "text": ["x", None, "  "],
        "label": pa.array(["b", "a", "b"]).dictionary_encode(),
        "number": [1, 0, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "p.parquet", row_group_size=2)
    source = open_source(f"parquet:{tmp_path}/p.parquet?text=captions")
    assert source.record(0).texts == ["one", "two"] and source.record(0).key == "x"
    assert source.class_names() == ["a", "b"] and source.record(0).label == 1
    assert reasons(source) == dict.fromkeys((1, 2), "empty caption")
    classes = f"parquet:{tmp_path}?text=label&label=number"
    assert reasons(open_source(classes)) == {2: "missing file"}
    assert open_source(classes).record(1).image == PNG and open_source(classes).record(1).label == 0
    assert reasons(open_source(f"{classes}&image=raw")) == {1: "empty file", 2: "missing file"}
    assert reasons(open_source(f"{classes}&image=file")) == dict.fromkeys((1, 2), "missing file")
    with pytest.raises(UserError, match=r"unknown column text=titel .* valid: image, raw, file"):
        open_source(f"parquet:{tmp_path}?text=titel")


def test_parquet_keeps_few_row_groups(tmp_path, monkeypatch):
    table = pa.table({"image": [PNG] * 40, "text": [str(i) for i in range(40)]})
    for number in range(2):
        pq.write_table(table.slice(20 * number, 20), tmp_path / f"{number}.parquet", row_group_size=5)
    source, places = open_source(f"parquet:{tmp_path}"), (0, 39, 7, 21, 22, 4, 13, 39)
    assert [source.record(i).texts for i in places] == [[str(i)] for i in places]
    assert len(source._cache) == 5
    source = pickle.loads(pickle.dumps(source))
    monkeypatch.setattr(parquet, "KEEP_BYTES", 3 * 5 * len(PNG))
    for index in places:
        assert source.record(index).texts == [str(index)]
        assert 1 <= len(source._cache) <= 3
    assert source._bytes == sum(column.nbytes for group in source._cache.values() for column in group.values())


def test_arrayrecord_there_and_back():
    record = Record("k", b"\x00image", ["ein Übermaler ✓", "b"], 3, {"labels": {"en": "cat"}, "score": 0.5})
    assert arrayrecord.decode_record(arrayrecord.encode_record(record)) == record
    data = arrayrecord.encode_record(record)
    for wrong in (b"", data[:6], data[:20], b"X" + data, data.replace(b'"key"', b'"yek"'), data.replace(b"{", b"[", 1)):
        with pytest.raises(BadExample, match="malformed record"):
            arrayrecord.decode_record(wrong)


def write_records(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def test_arrayrecord_files(tmp_path):
    def make(key, label=None, name=None):
        extra = {"labels": {"en": name}} if name else {}
        return arrayrecord.encode_record(Record(key, PNG, ["x"], label, extra))

    write_records(tmp_path / "b.arrayrecord", [make("2", 1, "dog"), b"MMJ1 damaged"])
    write_records(tmp_path / "a.arrayrecord", [make("0", 0, "cat"), make("1")])
    source = open_source(f"arrayrecord:{tmp_path}")
    assert [source.record(i).key for i in range(3)] == ["0", "1", "2"] and reasons(source) == {3: "malformed record"}
    assert source.class_names() == ["cat", "dog"]
    write_records(tmp_path / "c.x", [b"another encoding"] * 3)
    with pytest.raises(UserError, match=r"c\.x are not in mmjax's encoding: they begin with b'another "):
        open_source(f"arrayrecord:{tmp_path}/c.x")
    write_records(tmp_path / "d.x", [])
    with pytest.raises(UserError, match=r"d\.x: no records"):
        open_source(f"arrayrecord:{tmp_path}/d.x")
    (tmp_path / "a.arrayrecord").write_bytes((tmp_path / "a.arrayrecord").read_bytes()[:-3000])
    with pytest.raises(UserError, match=r"cannot read .*/a\.arrayrecord"):
        open_source(f"arrayrecord:{tmp_path}")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "coco"])
def test_images_lie_beside_the_file_or_below_root(kind, tmp_path, monkeypatch):
    """Wherever the command is given: without `root` at the file's folder; what is missing says both."""
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4), "red").save("data/a.png")
    Image.new("RGB", (4, 4), "blue").save("other/b.png")
    rows = {
        "jsonl": '{"image": "a.png", "text": "x"}\n{"image": "b.png", "text": "y"}',
        "csv": "image,text\na.png,x\nb.png,y",
        "coco": '{"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}], "annotations": '
        '[{"image_id": 1, "caption": "x"}, {"image_id": 2, "caption": "y"}]}',
    }
    (tmp_path / "data" / "notes").write_text(rows[kind])
    beside, below = open_source(f"{kind}:data/notes"), open_source(f"{kind}:data/notes?root=other")
    assert beside[0]["image"][0, 0].tolist() == [255, 0, 0] and below[1]["image"][0, 0].tolist() == [0, 0, 255]
    for source, index, path, begin in (
        (beside, 1, "data/b.png", "begin at the folder of the file that names them; ?root=DIR gives another"),
        (below, 0, "other/a.png", "begin at root=other; without ?root, at the folder of the file that names them"),
    ):
        with pytest.raises(BadExample) as error:
            source[index]
        assert f"looked for at {tmp_path / path}; " in error.value.detail and error.value.detail.endswith(begin)
