import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import UserError
from mmjax.data.sources import open_source


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Grey images, the name as the data sets have it and the number in it as the value."""
    for name, value in (("1.png", 10), ("2.png", 20), ("COCO_000000000007.png", 70), ("dev-3-0-img0.png", 30),
                        ("dev-3-0-img1.png", 31), ("55.jpg", 55)):  # fmt: skip
        Image.fromarray(np.full((2, 2, 3), value, np.uint8)).save(tmp_path / name)
    return tmp_path


def write(path: pathlib.Path, content: object, lines: bool = False) -> pathlib.Path:
    path.write_text("\n".join(map(json.dumps, content)) if lines else json.dumps(content))
    return path


def test_vqa_v2(folder: pathlib.Path) -> None:
    questions = write(folder / "q.json", {"questions": [{"image_id": 7, "question_id": 70, "question": "how many"}]})
    notes = {"question_id": 70, "question_type": "how many", "answer_type": "number",
             "answers": [{"answer": a, "answer_id": i} for i, a in enumerate(["2"] * 9 + ["3"])]}  # fmt: skip
    answers = write(folder / "a.json", {"annotations": [notes]})
    source = open_source(f"vqa:{questions}?annotations={answers}&pattern=COCO_{{id:012d}}.png")
    example = source[0]
    assert example["image"][0, 0, 0] == 70 and example["question"] == "how many" and example["key"] == "70"
    assert example["answers"] == ["2"] * 9 + ["3"] and example["answer_type"] == "number"
    with pytest.raises(UserError, match="has no answers to question 70"):
        open_source(f"vqa:{questions}?annotations={write(folder / 'none.json', {'annotations': []})}")


def test_vqa_as_a_list_of_rows(folder: pathlib.Path) -> None:
    rows = [{"image": "1.png", "question": "what", "answer": ["red", "red", "blue"], "question_id": 4},
            {"image": "2.png", "question": "why", "answer": "so"}]  # fmt: skip
    source = open_source(f"vqa:{write(folder / 'rows.json', rows)}")
    assert source[0]["answers"] == ["red", "red", "blue"] and source[1]["answers"] == ["so"]
    assert source[1]["image"][0, 0, 0] == 20


def test_nlvr2_in_both_forms(folder: pathlib.Path) -> None:
    rows = [{"identifier": "dev-3-0-1", "sentence": "two dogs", "label": "True"}]
    source = open_source(f"nlvr2:{write(folder / 'dev.json', rows, lines=True)}")
    example = source[0]
    assert [p[0, 0, 0] for p in example["pictures"]] == [30, 31]
    assert example["label"] == 1 and example["texts"] == ["two dogs"] and source.class_names() == ["false", "true"]
    assert example["sentence_id"] == "dev-3-1"  # without the number of its pair
    listed = [{"images": ["1.png", "2.png"], "sentence": "s", "label": "False"}]
    other = open_source(f"nlvr2:{write(folder / 'list.json', listed)}")
    assert "sentence_id" not in other[0]
    assert other[0]["label"] == 0 and [p[0, 0, 0] for p in other[0]["pictures"]] == [10, 20]
    with pytest.raises(UserError, match="label of"):
        open_source(f"nlvr2:{write(folder / 'bad.json', [{**rows[0], 'label': 'maybe'}])}")


def test_snli_ve_leaves_out_what_annotators_did_not_agree_on(folder: pathlib.Path) -> None:
    rows = [{"Flickr30K_ID": "55", "sentence2": "a man", "gold_label": g, "pairID": g} for g in ("entailment", "-")]
    source = open_source(f"snli_ve:{write(folder / 'dev.jsonl', rows, lines=True)}")
    assert len(source) == 1 and source[0]["label"] == 2 and source[0]["texts"] == ["a man"]
    assert source.class_names() == ["contradiction", "neutral", "entailment"]


def test_karpathy_splits(folder: pathlib.Path) -> None:
    images = [{"filepath": "", "filename": f"{i}.png", "split": split, "cocoid": 10 * i,
               "sentences": [{"raw": f"caption {i}."}, {"raw": "another"}]}
              for i, split in ((1, "test"), (2, "restval"))]  # fmt: skip
    path = write(folder / "dataset_coco.json", {"images": images})
    source = open_source(f"karpathy:{path}")
    assert len(source) == 1 and source[0]["texts"] == ["caption 1.", "another"] and source[0]["image_id"] == 10
    assert len(open_source(f"karpathy:{path}?split=restval,test")) == 2
    with pytest.raises(UserError, match="no row of it"):
        open_source(f"karpathy:{path}?split=val")


def test_a_missing_field_is_named(folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match="row 0 has no 'sentence'"):
        open_source(f"nlvr2:{write(folder / 'x.json', [{'images': ['1.png', '2.png'], 'label': 'true'}])}")
