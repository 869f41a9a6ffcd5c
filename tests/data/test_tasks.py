import numpy as np
import pytest

from mmjax.core.errors import BadExample, UserError
from mmjax.data import augment, tasks, text
from mmjax.data.example import check_batch
from mmjax.data.pipeline import Pipeline
from mmjax.data.sources import open_source
from mmjax.data.tokenizers import WordPiece


class Rows:
    """Examples from a list, each with a small picture of its number."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict:
        return {"key": str(i), "image": np.full((4, 4, 3), i, np.uint8), "texts": [f"text {i}"], **self.rows[i]}


@pytest.fixture(scope="module")
def words() -> WordPiece:
    lines = ["a picture of text 0 1 2 3 what colour is it red blue yes no is there a dog cat"] * 3
    return WordPiece.train(lines, 80)


def make(source, words, task, **options) -> Pipeline:
    options = {"length": 12, "batch_size": 4, "seed": 1, **options}
    image = augment.from_config({"size": 4})
    made = text.from_config({"forms": {"first": 1}})
    return Pipeline(source, tokenizer=words, image=image, text=made, task=tasks.from_config(task), **options)


def test_pairs_stay_what_they_were_and_can_carry_the_picture(words) -> None:
    rows = Rows([{"image_id": 7}, {"image_id": 7}, {}, {}])
    plain, told = make(rows, words, None)[0], make(rows, words, {"kind": "pairs", "image_id": True})[0]
    assert "image_id" not in plain and all(np.array_equal(plain[k], told[k]) for k in plain)
    assert told["image_id"].tolist() == [7 if i < 2 else i for i in plain["index"]]
    check_batch(told)


def test_captions_leave_the_prompt_out_of_the_loss(words) -> None:
    batch = make(Rows([{}] * 4), words, {"kind": "caption", "prompt": "a picture of "})[0]
    check_batch(batch)
    for ids, valid, told in zip(batch["ids"], batch["valid"], batch["mask_loss"], strict=True):
        # begin token and three words are not predicted; text, number and end token are
        assert told.tolist() == [False] * 4 + [True] * (int(valid.sum()) - 4) + [False] * int((~valid).sum())
        assert words.decode(ids[valid & ~told]).split() == ["a", "picture", "of"]
    bare = make(Rows([{}] * 4), words, {"kind": "caption"})[0]
    assert (bare["mask_loss"].sum(1) == bare["valid"].sum(1) - 1).all()


def test_questions_with_one_answer_and_with_ten(words) -> None:
    ten = ["red"] * 6 + ["blue"] * 3 + ["no"]
    rows = Rows([{"question": "what colour is it", "answers": ten},
                 {"questions": [("is there a dog", "yes", "exists")]}] * 2)  # fmt: skip
    batch = make(rows, words, {"kind": "vqa", "answers": 2, "answer_length": 4, "weight": 0.5}, shuffle=False)[0]
    check_batch(batch)
    assert np.allclose(batch["answer_weight"], [[0.6, 0.3], [0.5, 0]] * 2)
    said = [[words.decode(ids[valid]) for ids, valid in zip(*row, strict=True)]
            for row in zip(batch["answer_ids"], batch["answer_valid"], strict=True)]  # fmt: skip
    assert said[:2] == [["red", "blue"], ["yes", ""]]
    assert not batch["answer_valid"][1, 1].any()
    assert words.decode(batch["ids"][0][batch["valid"][0]]) == "what colour is it"


def test_closed_answers_get_the_soft_score_of_vqa(words) -> None:
    rows = Rows([{"question": "q", "answers": ["red"] * 5 + ["blue"] * 2 + ["cat"] * 3}] * 4)
    batch = make(rows, words, {"kind": "vqa", "classes": ["blue", "red", "yes"]})[0]
    assert np.allclose(batch["target"], [[0.6, 1, 0]] * 4)
    check_batch(batch)


def test_a_question_with_one_of_its_answers_is_written(words) -> None:
    rows = Rows([{"question": "is it red", "answers": ["yes"] * 3 + ["no"]}] * 4)
    task = {"kind": "vqa", "classes": ["yes", "no"], "captions": "answer"}
    pipeline, plain = make(rows, words, task), make(rows, words, {"kind": "vqa", "classes": ["yes", "no"]})
    check_batch(pipeline[0])
    said = []
    for step in range(25):
        batch = pipeline[step]
        said += [words.decode(i[v]) for i, v in zip(batch["caption_ids"], batch["caption_valid"], strict=True)]
        assert all(np.array_equal(batch[key], plain[step][key]) for key in ("image", "ids", "valid", "target"))
    assert set(said) == {"is it red yes", "is it red no"} and 60 < said.count("is it red yes") < 90
    with pytest.raises(UserError, match="captions = 'answers'; valid: true, false or 'answer'"):
        tasks.from_config({**task, "captions": "answers"})


def test_questions_are_drawn_from_seed_and_place_alone(words) -> None:
    source = open_source("emoji_scenes:train?parts=image,questions&size=16&length=12")
    pipeline = make(source, words, {"kind": "vqa"})
    again = make(source, words, {"kind": "vqa"})
    assert all(np.array_equal(pipeline[5][k], again[5][k]) for k in pipeline[5])
    late = iter(again)
    late.set_state({**iter(pipeline).get_state(), "step": 5})
    assert all(np.array_equal(next(late)[k], pipeline[5][k]) for k in ("ids",))
    late.close()
    with pytest.raises(UserError, match="answers was 1, is 2"):
        iter(make(source, words, {"kind": "vqa", "answers": 2})).set_state(iter(pipeline).get_state())


def test_two_pictures_and_a_verdict(words) -> None:
    rows = Rows([{"pictures": [np.full((4, 4, 3), 10 * i + s, np.uint8) for s in (0, 1)], "label": i % 2}
                 for i in range(4)])  # fmt: skip
    batch = make(rows, words, {"kind": "nlvr2"}, shuffle=False)[0]
    check_batch(batch)
    assert batch["image"][:, :, 0, 0, 0].tolist() == [[0, 1], [10, 11], [20, 21], [30, 31]]
    assert batch["label"].tolist() == [0, 1, 0, 1]
    with pytest.raises(UserError, match="the task needs 2"):
        make(Rows([{"label": 0}] * 4), words, {"kind": "nlvr2"})[0]
    with pytest.raises(UserError, match="has no `label`"):
        make(Rows([{}] * 4), words, {"kind": "entailment"})[0]


def test_what_cannot_be_asked_or_configured_is_said() -> None:
    with pytest.raises(BadExample, match="no question with an answer"):
        tasks.Questions().check({"questions": []}, None)
    with pytest.raises(UserError, match="kind"):
        tasks.from_config({"kind": "vqaa"})
    with pytest.raises(UserError, match="option of the task vqa"):
        tasks.from_config({"kind": "vqa", "prompt": "a"})
    with pytest.raises(UserError, match="weight above 0"):
        tasks.from_config({"kind": "vqa", "weight": 0.0})
