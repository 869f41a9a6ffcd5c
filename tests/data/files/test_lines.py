"""Text formats: places of rows, quoting, columns, labels, and what is refused."""

import base64
import errno
import json
import os

import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.data.example import BadExample
from mmjax.data.files import csv as csv_format
from mmjax.data.files import lines
from mmjax.data.sources import open_source
from tests.data import own_data

PNG = own_data.encode(own_data.picture(0, 8))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    return tmp_path


def put(folder, name, content):
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def source_of(folder, name, content, options=""):
    """The source of a file with this content."""
    return open_source(f"{name[2:]}:{put(folder, name, content)}{options}")


def reasons(source):
    found = {}
    for index in range(len(source)):
        try:
            source[index]
        except BadExample as error:
            found[index] = error.reason
    return found


def test_blank_lines_bom_and_a_missing_last_break(folder):
    row = '{"image": "a.png", "text": "%d"}'
    path = put(folder, "p.jsonl", b"\xef\xbb\xbf" + "\n\r\n  \n".join(row % i for i in range(3)).encode())
    source = open_source(f"jsonl:{path}")
    assert [source.record(i).texts for i in range(len(source))] == [["0"], ["1"], ["2"]]


def test_rows_on_both_sides_of_a_chunk(folder, monkeypatch):
    path = put(folder, "p.jsonl", "".join(f'{{"image": "a.png", "text": "row {i}"}}\n' for i in range(50)))
    whole = lines.scan_lines(str(path))
    monkeypatch.setattr(lines, "CHUNK", 7)
    for one, other in zip(whole, lines.scan_lines(str(path)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(whole[0]) == 50


def test_malformed_rows_of_jsonl(folder):
    rows = ['{"image": "a.png", "text": "good"}', "{", "[1]", '{"image": "a.png"}', '{"image": 3, "text": "x"}',
            '{"image": "a.png", "text": {"a": 1}}', '{"image": "a.png", "text": "\\ud800"}', "[" * 10_000,
            '{"image": "http://there/a.png", "text": "x"}', '{"image": "", "text": "x"}',
            '{"image": "a.png\\u0000", "text": "x"}', '{"image": "a.png", "text": [null, " "]}']  # fmt: skip
    found = reasons(source_of(folder, "p.jsonl", "\n".join(rows)))
    malformed, missing = "malformed record", "missing file"
    assert found == dict.fromkeys((1, 2, 3, 4, 5, 7), malformed) | {6: "bad text encoding"} | dict.fromkeys(
        (8, 9, 10), missing
    ) | {11: "empty caption"}


def test_lists_of_captions_and_several_columns(folder):
    row = {"image": "a.png", "title": "one", "caption": [" two ", "", None, "three"], "id": 7}
    source = open_source(f"jsonl:{put(folder, 'p.jsonl', json.dumps(row))}?text=title,caption")
    record = source.record(0)
    assert record.texts == ["one", "two", "three"] and record.key == "7"


def test_paths_begin_at_root_or_are_absolute(folder):
    (folder / "deep").mkdir()
    rows = [{"image": "a.png", "text": "x"}, {"image": str(folder / "a.png"), "text": "x"}]
    path = put(folder, "deep/p.jsonl", "\n".join(map(json.dumps, rows)))
    assert reasons(open_source(f"jsonl:{path}")) == {0: "missing file"}
    assert reasons(open_source(f"jsonl:{path}?root={folder}")) == {}
    with pytest.raises(UserError, match=r"no folder root=.*/dep; .* did you mean 'deep'"):
        open_source(f"jsonl:{path}?root={folder}/dep")


def test_images_in_the_table(folder):
    code = base64.b64encode(PNG).decode()
    path = put(folder, "p.jsonl", json.dumps({"image": f"data:image/png;base64,{code}", "text": "x"}))
    assert open_source(f"jsonl:{path}").record(0).image == PNG
    path = put(folder, "p.csv", f"image,text\n{code},x\n%%,x\n")
    source = open_source(f"csv:{path}?base64=true")
    assert source.record(0).image == PNG and source.record(0).key == "0" and reasons(source) == {1: "malformed record"}


def test_columns_are_mapped_and_carried(folder):
    row = {"where": "a.png", "what": "x", "score": 0.5, "text": "not this"}
    path = put(folder, "p.jsonl", json.dumps(row))
    example = open_source(f"jsonl:{path}?image=where&text=what&extra=score")[0]
    assert (example["texts"], example["score"], example["key"]) == (["x"], 0.5, "a")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("?image=where&text=capton", r"text=capton of .*p\.jsonl: 'capton'; valid: where, caption, n; did you mean"),
        ("", r"p\.jsonl has no column for the image; columns: where, caption, n; say which with \?image=COLUMN"),
        ("?image=where&label=clas", "unknown column label=clas"),
        ("?image=where&extra=n,texts", "unknown column extra"),
        ("?imgae=where", "unknown option of the source jsonl: 'imgae'"),
    ],
)
def test_missing_columns_list_those_that_exist(folder, options, words):
    path = put(folder, "p.jsonl", json.dumps({"where": "a.png", "caption": "x", "n": 1}))
    with pytest.raises(UserError, match=words):
        open_source(f"jsonl:{path}{options}")


def test_a_column_cannot_replace_a_part_of_the_example(folder):
    path = put(folder, "p.jsonl", json.dumps({"image": "a.png", "text": "x", "tags": 1}))
    with pytest.raises(UserError, match="extra=tags would replace"):
        open_source(f"jsonl:{path}?extra=tags")


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_labels_by_name_and_by_number(folder, form):
    def write(labels):
        if form == "csv":
            return put(folder, "p.csv", "image,label\n" + "".join(f"a.png,{label}\n" for label in labels))
        return put(folder, "p.jsonl", "\n".join(json.dumps({"image": "a.png", "label": one}) for one in labels))

    source = open_source(f"{form}:{write(['dog', 'cat', 'dog'])}")
    assert source.class_names() == ["cat", "dog"]
    assert [source.record(i).label for i in range(3)] == [1, 0, 1]
    assert source[0]["labels"] == {"en": "dog"} and source[0]["texts"] == ["dog"]
    source = open_source(f"{form}:{write([3, 0])}")
    assert [source.record(i).label for i in range(2)] == [3, 0] and source[0]["texts"] == ["3"]
    with pytest.raises(UserError, match="does not name its classes"):
        source.class_names()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", "", r"p\.jsonl has no rows"),
        ("p.jsonl", "\n \n", r"p\.jsonl has no rows"),
        ("p.jsonl", '[{"image": "a.png"},\n{"image": "b.png"}]', "none of its first 2 lines is a JSON object.*array"),
        ("p.csv", "", r"p\.csv is empty; its first line should name the columns"),
        ("p.csv", "image,text\n", r"p\.csv has no rows"),
        ("p.csv", "image,image\na,b\n", "two columns 'image'"),
        ("p.csv", b"image,t\xe9xt\na,b\n", "should name the columns: bad text encoding"),
    ],
)
def test_files_without_rows(folder, name, content, words):
    with pytest.raises(UserError, match=words):
        open_source(f"{name[2:]}:{put(folder, name, content)}")


def test_files_that_may_not_be_read(folder, monkeypatch):
    path = put(folder, "p.jsonl", "{}")

    def refuse(name, mode):  # not chmod: the superuser may read everything
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)

    monkeypatch.setattr(lines, "open", refuse, raising=False)
    with pytest.raises(UserError, match=r"cannot read .*p\.jsonl: Permission denied"):
        open_source(f"jsonl:{path}")


def test_quotes_in_csv(folder):
    texts = ['a "quoted" word', "a, b", "two\nlines", 'two\r\nlines, "and quotes"\n', '5" disk', "x"]
    quoted = [text.replace('"', '""') for text in texts[:4]]
    rows = "".join(f'a.png,"{text}"\r\n' for text in quoted)
    source = source_of(folder, "p.csv", "image,text\n" + rows + 'a.png,5" disk\n\na.png,x')
    assert [source.record(i).texts[0] for i in range(len(source))] == [text.strip() for text in texts]


def test_a_quote_that_is_never_closed_costs_one_row(folder):
    rows = ["a.png,good", 'a.png,"open', "a.png,good", 'a.png,"closed, good"', 'a.png,"open again', "a.png,good"]
    source = source_of(folder, "p.csv", "\n".join(["image,text", *rows]))
    assert len(source) == 6 and reasons(source) == {1: "malformed record", 4: "malformed record"}


def test_an_endless_quote_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(csv_format, "LONGEST", 100)
    rows = ['a.png,"open'] + ["a.png,good"] * 20
    source = source_of(folder, "p.csv", "\n".join(["image,text", *rows]))
    assert len(source) == 21 and reasons(source) == {0: "malformed record"}


def test_rows_with_other_numbers_of_cells(folder):
    source = source_of(folder, "p.csv", "image,text\na.png\na.png,x,y\na.png,x\n")
    assert reasons(source) == {0: "malformed record", 1: "malformed record"}


@pytest.mark.parametrize(
    ("name", "mark", "option"),
    [("p.tsv", "\t", ""), ("p.csv", ";", "?sep=;"), ("p.csv", "\t", "?sep=tab"), ("p.csv", "|", "?sep=|")],
)
def test_separators(folder, name, mark, option):
    path = put(folder, name, f"image{mark}text\na.png{mark}a, b\n")
    assert open_source(f"csv:{path}{option}").record(0).texts == ["a, b"]


def test_a_separator_is_one_character(folder):
    with pytest.raises(UserError, match=r"sep=ab; valid: one character, or tab"):
        source_of(folder, "p.csv", "image,text\na.png,x\n", "?sep=ab")


def test_several_files_are_laid_end_to_end(folder):
    for number in (0, 1, 10):
        put(folder, f"p-{number:02}.csv", f"image,text\na.png,{number}a\na.png,{number}b\n")
    expected = ["0a", "0b", "1a", "1b", "10a", "10b"]
    for pattern in ("p-*.csv", "p-{00..01}.csv", "p-{00,01,10}.csv", ""):
        source = open_source(f"csv:{folder}/{pattern}")
        assert [source.record(i).texts[0] for i in range(len(source))] == expected[: len(source)]
        assert len(source) == (4 if ".." in pattern else 6)
    put(folder, "p-11.csv", "image,caption\na.png,x\n")
    with pytest.raises(UserError, match=r"p-11\.csv has the columns image, caption, .*p-00\.csv image, text"):
        open_source(f"csv:{folder}")
