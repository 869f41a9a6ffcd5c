"""POPE, TextVQA, ScienceQA, MMBench and questions alone, in small files of the published forms."""

import base64
import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import BadExample, UserError
from mmjax.data.sources import open_source


def png(value: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), value, np.uint8)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Grey images, the number in the name as the value."""
    for name in ("a_7.png", "b_8.jpg", "images/test/11/image.png", "images/test/12/image.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(int("".join(filter(str.isdigit, name)))))
    return tmp_path


def write(path: pathlib.Path, content: object, lines: bool = False) -> pathlib.Path:
    path.write_text("\n".join(map(json.dumps, content)) if lines else json.dumps(content))
    return path


def grey(example: dict) -> int:
    return int(example["image"][0, 0, 0])


# ---------------------------------------------------------------- POPE


def test_pope_of_several_files(folder: pathlib.Path) -> None:
    for category, labels in (("random", ("yes", "no")), ("popular", ("no",))):
        rows = [{"question_id": n, "image": "a_7.png", "text": "Is there a dog in the image?", "label": label}
                for n, label in enumerate(labels, 1)]  # fmt: skip
        write(folder / f"coco_pope_{category}.json", rows, lines=True)
    source = open_source(f"pope:{folder}/coco_pope_*.json")
    found = [source[n] for n in range(len(source))]
    assert [(e["question_type"], e["answers"], e["key"]) for e in found] == [
        ("popular", ["no"], "popular/1"), ("random", ["yes"], "random/1"), ("random", ["no"], "random/2"),
    ]  # fmt: skip
    assert grey(found[0]) == 7 and found[0]["question"] == "Is there a dog in the image?"
    (folder / "other").mkdir()
    alone = write(folder / "other" / "coco_pope_random.json", rows, lines=True)
    assert grey(open_source(f"pope:{alone}?root={folder}")[0]) == 7
    with pytest.raises(BadExample, match=r"looked for at .*a_7"):
        open_source(f"pope:{alone}")[0]


def test_pope_says_where_a_file_is_wrong(folder: pathlib.Path) -> None:
    row = {"question_id": 1, "image": "a_7.png", "text": "Is there a dog?", "label": "yes"}
    path = write(folder / "coco_pope_random.json", [row, {**row, "label": "maybe"}], lines=True)
    with pytest.raises(UserError, match=r"label of .*coco_pope_random\.json, row 1: 'maybe'.*yes"):
        open_source(f"pope:{path}")
    write(path, [row, {key: row[key] for key in ("image", "label")}], lines=True)
    with pytest.raises(UserError, match=r"random\.json, row 1 has no 'text'"):
        open_source(f"pope:{path}")
    path.write_text(json.dumps(row) + "\n{broken\n")
    with pytest.raises(UserError, match=r"random\.json, line 2, is not JSON"):
        open_source(f"pope:{path}")


# ---------------------------------------------------------------- TextVQA


def test_textvqa_with_and_without_what_was_read(folder: pathlib.Path) -> None:
    rows = [{"image_id": "b_8", "question_id": 34602, "question": "what is the brand?", "answers": ["nokia"] * 10,
             "set_name": "val"}]  # fmt: skip
    path = write(folder / "val.json", {"dataset_type": "val", "data": rows})
    example = open_source(f"textvqa:{path}")[0]
    assert grey(example) == 8 and example["answers"] == ["nokia"] * 10 and example["key"] == "34602"
    assert "ocr_tokens" not in example
    read = write(folder / "ocr.json", {"data": [{"image_id": "b_8", "ocr_tokens": ["Nokia", "12"]}]})
    assert open_source(f"textvqa:{path}?ocr={read}")[0]["ocr_tokens"] == ["Nokia", "12"]
    with pytest.raises(UserError, match=r"ocr\.json has no tokens of the image b_8 of .*val\.json, row 0"):
        open_source(f"textvqa:{path}?ocr={write(folder / 'ocr.json', {'data': []})}")
    with pytest.raises(UserError, match=r"val\.json has no 'data'; it has \['questions'\]"):
        open_source(f"textvqa:{write(path, {'questions': rows})}")


# ---------------------------------------------------------------- ScienceQA

PROBLEM = {"question": "Which is it?", "choices": ["cat", "dog"], "answer": 1, "hint": "Look.", "image": "image.png",
           "subject": "natural science", "split": "test"}  # fmt: skip


def problems(folder: pathlib.Path, **change: object) -> pathlib.Path:
    text = {**PROBLEM, "image": None, "hint": "", "subject": "language science"}
    write(folder / "pid_splits.json", {"test": ["12", "11", "13"], "val": []})
    return write(folder / "problems.json", {"11": {**PROBLEM, **change}, "12": PROBLEM, "13": text, "99": PROBLEM})


def test_scienceqa_with_pictures_and_without(folder: pathlib.Path) -> None:
    source = open_source(f"scienceqa:{problems(folder)}")
    assert [source[n]["key"] for n in range(len(source))] == ["12", "11", "13"]
    example = source[1]
    assert grey(example) == 11 and example["choices"] == ["cat", "dog"] and example["label"] == 1
    assert example["hint"] == "Look." and example["question_type"] == "natural science"
    assert "image" not in source[2] and source[2]["hint"] == ""
    assert grey(open_source(f"scienceqa:{folder}/problems.json?root={folder}/images/test")[0]) == 12


def test_scienceqa_in_llavas_words(folder: pathlib.Path) -> None:
    path = problems(folder)
    prompt = "Context: Look.\nQuestion: Which is it?\nOptions: (A) cat (B) dog"
    rows = [{"id": "11", "image": "11/image.png", "conversations": [{"from": "human", "value": f"<image>\n{prompt}"},
             {"from": "gpt", "value": "The answer is B."}]}]  # fmt: skip
    asked = write(folder / "llava_test_CQM-A.json", rows)
    source = open_source(f"scienceqa:{path}?asked={asked}")
    assert len(source) == 1 and source[0]["prompt"] == prompt and source[0]["label"] == 1 and grey(source[0]) == 11
    rows[0]["id"] = "77"
    with pytest.raises(UserError, match=r"problems\.json has no problem 77, which .*CQM-A\.json names"):
        open_source(f"scienceqa:{path}?asked={write(asked, rows)}")


def test_scienceqa_says_where_a_file_is_wrong(folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"problem 11 has answer = 5; valid: 0 to 1"):
        open_source(f"scienceqa:{problems(folder, answer=5)}")
    with pytest.raises(UserError, match=r"problem 11 has choices = \['cat'\] and answer = 1"):
        open_source(f"scienceqa:{problems(folder, choices=['cat'])}")
    with pytest.raises(UserError, match=r"split of .*pid_splits\.json.*'tset'.*'test'"):
        open_source(f"scienceqa:{problems(folder)}?split=tset")
    with pytest.raises(UserError, match="no row of it can be used"):
        open_source(f"scienceqa:{problems(folder)}?split=val")


# ---------------------------------------------------------------- MMBench

COLUMNS = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split")


def table(folder: pathlib.Path, *rows: dict, columns: tuple[str, ...] = COLUMNS) -> pathlib.Path:
    path = folder / "mmbench_dev.tsv"
    lines = ["\t".join(columns), *("\t".join(str(row.get(name, "")) for name in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


ROW = {"index": 241, "question": "How many?", "hint": "nan", "A": "4", "B": "2", "C": "one, or two", "answer": "B",
       "category": "counting", "image": base64.b64encode(png(70)).decode(), "split": "dev"}  # fmt: skip


def test_mmbench_with_rotated_copies_that_name_their_picture(folder: pathlib.Path) -> None:
    turned = {**ROW, "index": 1_000_241, "A": "2", "B": "one, or two", "C": "4", "answer": "A", "image": "241"}
    hinted = {**ROW, "index": 5, "hint": '"Two\nlines"', "D": "None", "answer": ""}
    source = open_source(f"mmbench:{table(folder, ROW, turned, hinted)}")
    first, second, third = (source[n] for n in range(3))
    assert first["choices"] == ["4", "2", "one, or two"] and first["label"] == 1 and first["hint"] == ""
    assert (first["group"], second["group"], second["key"]) == ("241", "241", "1000241")
    assert second["label"] == 0 and grey(first) == grey(second) == 70 and first["question_type"] == "counting"
    assert third["hint"] == "Two\nlines" and "label" not in third and len(third["choices"]) == 3


def test_mmbench_says_where_a_row_is_wrong(folder: pathlib.Path) -> None:
    wrong = [({"answer": "D"}, "row of index 241 has the answer 'D' of 3 options"), ({"B": ""}, "fewer than two"),
             ({"index": "x"}, "row 0 has the index 'x'"), ({"image": "17"}, "picture of row 17, which is not there"),
             ({"image": "?" * 99}, "not base64")]  # fmt: skip
    for change, said in wrong:
        with pytest.raises(BadExample, match=said):
            open_source(f"mmbench:{table(folder, {**ROW, **change})}")[0]
    with pytest.raises(UserError, match=r"mmbench_dev\.tsv has no column 'B'; it has index, question"):
        open_source(f"mmbench:{table(folder, ROW, columns=('index', 'question', 'A', 'image'))}")
    with pytest.raises(UserError, match=r"has no rows"):
        open_source(f"mmbench:{table(folder)}")


# ---------------------------------------------------------------- questions alone


def test_questions_for_judges(folder: pathlib.Path) -> None:
    rows = [{"question_id": 0, "image": "a_7.png", "category": "conv", "text": "What is the name?"},
            {"question_id": 1, "text": "Who are you?"}]  # fmt: skip
    source = open_source(f"questions:{write(folder / 'questions.jsonl', rows, lines=True)}")
    first, second = source[0], source[1]
    assert grey(first) == 7 and first["question_id"] == 0 and first["question"] == "What is the name?"
    assert first["question_type"] == "conv" and "image" not in second
    vet = {"v1_0": {"imagename": "b_8.jpg", "question": "What is x?", "answer": "5", "capability": ["math"]}}
    (example,) = open_source(f"questions:{write(folder / 'mm-vet.json', vet)}")
    assert grey(example) == 8 and example["question_id"] == "v1_0" and example["question"] == "What is x?"
    with pytest.raises(UserError, match=r"questions\.jsonl, row 1 has text = ''; valid: a text"):
        open_source(f"questions:{write(folder / 'questions.jsonl', [rows[0], {**rows[1], 'text': ''}], lines=True)}")
