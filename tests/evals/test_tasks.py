"""Evaluators of re-ranking, matching, captions, questions and verdicts on a system whose right answers are known."""

import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.evals.base import Predictor
from mmjax.evals.build import build_evaluator
from mmjax.evals.report.examine import examine
from mmjax.evals.report.written import spread
from tests.evals import toy

PAIRS = [{"image": toy.grey(v), "texts": [str(v)]} for v in (1, 2, 3, 4, 5, 6)]


def run(spec: dict, examples: list[dict], size: int = 4) -> dict[str, float]:
    evaluator = build_evaluator("e", {"data": "toy", **spec}, toy.tools(examples))
    values = dict(evaluator.run(toy.predictor(size)))
    assert all(name.startswith("e/") for name in values)
    return values


@pytest.mark.parametrize("score", ["match", "match+cosine"])
@pytest.mark.parametrize("size", [1, 4])
def test_a_second_look_mends_what_the_cosine_gets_wrong(score: str, size: int) -> None:
    found = run({"kind": "rerank", "nearest": 3, "score": score, "resamples": 0, "ks": (1,)}, PAIRS, size)
    # image 3 looks like 4 to the cosine: its own text comes second; and text 4 has two images at the same place
    assert found["e/cosine/image_to_text_R@1"] == pytest.approx(5 / 6)
    assert found["e/image_to_text_R@1"] == found["e/text_to_image_R@1"] == 1


def test_what_is_not_among_the_nearest_stays_behind() -> None:
    found = run({"kind": "rerank", "nearest": 1, "resamples": 0, "ks": (1, 6)}, PAIRS)
    assert found["e/image_to_text_R@1"] == pytest.approx(5 / 6)
    assert found["e/image_to_text_R@6"] == 1  # a tie with all that nobody looked at: the last place


def test_rerank_options_are_checked() -> None:
    for wrong, said in (
        ({"nearest": 0}, "at least 1"),
        ({"score": "x"}, "match, match"),
        ({"templates": "photo"}, "mean"),
    ):
        with pytest.raises(UserError, match=said):
            run({"kind": "rerank", **wrong}, PAIRS)


def test_matching_counts_right_verdicts() -> None:
    found = run({"kind": "matching"}, PAIRS)
    assert found["e/accuracy"] == found["e/precision"] == found["e/recall"] == found["e/average_precision"] == 1
    lies = [{"image": toy.grey(v), "texts": [str(v), str(v + 1)], "true": [True, v == 1]} for v in (1, 2, 3, 4)]
    found = run({"kind": "matching", "truth": "true", "resamples": 0}, lies)
    assert found["e/accuracy"] == 7 / 8 and found["e/precision"] == 1 and found["e/recall"] == 4 / 5
    with pytest.raises(UserError, match="no truth value 'true'"):
        run({"kind": "matching", "truth": "true"}, PAIRS)


def test_captions_are_written_and_scored() -> None:
    examples = [{"image": toy.grey(v), "texts": [f"{v} 7", "nothing"]} for v in (1, 2, 3)]
    evaluator = build_evaluator("e", {"kind": "caption", "data": "toy"}, toy.tools(examples))
    assert evaluator.write(toy.predictor()) == ["1 7", "2 7", "3 7"]  # type: ignore[attr-defined]
    found = dict(evaluator.run(toy.predictor()))
    assert found["e/Bleu_2"] == pytest.approx(1, abs=1e-6) and found["e/words"] == 2
    assert evaluator.baselines()["another image's caption"]["e/Bleu_2"] < 0.1
    # with a prompt: its first number comes back, its end token is not handed over
    prompted = build_evaluator("e", {"kind": "caption", "data": "toy", "prompt": "5 6"}, toy.tools(examples))
    assert prompted.write(toy.predictor()) == ["1 7 5", "2 7 5", "3 7 5"]  # type: ignore[attr-defined]
    ids, valid = toy.tools(examples).begin(["5 6", "4"])
    assert ids.shape == (2, 2) and valid.tolist() == [[True, True], [True, False]]


ASKED = [{"image": toy.grey(v), "questions": [("3 4", f"{v} 7 3", "copy"), ("5", "0", "other")]} for v in (1, 2)]


def test_questions_are_answered_and_split_by_kind() -> None:
    found = run({"kind": "vqa", "resamples": 0}, ASKED)
    assert found == {"e/accuracy": 0.5, "e/accuracy/copy": 1.0, "e/accuracy/other": 0.0}
    ten = [{"image": toy.grey(1), "question": "3", "answers": ["1 7 3"] * 2 + ["x"] * 8, "answer_type": "number"}]
    found = run({"kind": "vqa"}, ten)
    assert found["e/accuracy/number"] == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)


def test_candidates_are_ranked_and_classes_chosen() -> None:
    asked = [{"image": toy.grey(v), "questions": [("2", str(v))]} for v in (1, 2, 5)]
    assert run({"kind": "vqa", "mode": "rank", "candidates": ["5", "1", "2"], "nearest": 2}, asked)["e/accuracy"] == 1
    asked = [{"image": toy.grey(v), "questions": [("2", "yes" if v == 2 else "no")]} for v in (1, 2)]
    assert run({"kind": "vqa", "mode": "classify", "candidates": ["no", "yes"]}, asked)["e/accuracy"] == 1
    with pytest.raises(UserError, match="2 classes, the list 3"):
        run({"kind": "vqa", "mode": "classify", "candidates": ["a", "b", "c"]}, asked)
    with pytest.raises(UserError, match="needs candidates"):
        run({"kind": "vqa", "mode": "rank"}, asked)


def test_verdicts_on_one_picture_and_on_two() -> None:
    one = [{"image": toy.grey(v), "texts": ["2"], "label": int(v == 2)} for v in (1, 2, 3)]
    assert run({"kind": "verdict"}, one)["e/top1"] == 1
    two = [{"pictures": [toy.grey(1), toy.grey(v)], "texts": ["0"], "label": 1} for v in (1, 2)]
    assert run({"kind": "verdict"}, two)["e/top1"] == 0.5
    with pytest.raises(UserError, match="has no 'label'"):
        run({"kind": "verdict"}, PAIRS)


def test_a_sentence_is_judged_consistently_if_all_its_examples_are() -> None:
    """NLVR2's own program on the same verdicts: precision 4/5, consistency 2/3."""
    rows = [("a", 2, 1), ("b", 2, 1), ("a", 1, 0), ("b", 3, 1), ("c", 5, 0)]
    examples = [{"image": toy.grey(v), "texts": ["2"], "label": label, "sentence_id": name} for name, v, label in rows]
    found = run({"kind": "verdict"}, examples)
    assert found["e/top1"] == pytest.approx(4 / 5) and found["e/consistency"] == pytest.approx(2 / 3)
    assert found["e/consistency_lo"] <= found["e/consistency"] <= found["e/consistency_hi"]
    evaluator = build_evaluator("e", {"kind": "verdict", "data": "toy"}, toy.tools(examples))
    assert evaluator.baselines() == {"chance": {"e/top1": 3 / 5, "e/consistency": 1 / 3}}  # "true" is right for b alone
    unnamed = [{key: value for key, value in example.items() if key != "sentence_id"} for example in examples]
    assert "e/consistency" not in run({"kind": "verdict"}, unnamed)
    with pytest.raises(UserError, match="1 of 2 examples have a 'sentence_id'"):
        run({"kind": "verdict"}, [examples[0], unnamed[1]])


def test_a_system_that_cannot_says_what_it_can() -> None:
    evaluator = build_evaluator("e", {"kind": "caption", "data": "toy"}, toy.tools(PAIRS))
    mute = Predictor(object(), toy.VARIABLES)
    with pytest.raises(UserError, match=r"object has no method 'generate'; it offers \[\]"):
        dict(evaluator.run(mute))


def test_over_hands_shared_arrays_and_static_arguments() -> None:
    predictor = toy.predictor(2)
    batch = {"image": np.stack([toy.grey(v) for v in (1, 2, 3)])}
    made = predictor.over("rank_answers", batch, np.array([[3], [1]], np.int32), np.ones((2, 1), bool), 1)
    assert made["index"].ravel().tolist() == [1, 0, 0] or made["index"].ravel().tolist() == [1, 1, 0]
    both = predictor.over("rank_answers", batch, np.array([[3], [1]], np.int32), np.ones((2, 1), bool), 2)
    assert both["index"].shape == (3, 2)


def test_report_shows_what_was_written_and_its_score() -> None:
    examples = [{"image": toy.grey(v), "texts": [f"{v} 7" if v % 2 else "else"]} for v in range(1, 20)]
    evaluator = build_evaluator("captions", {"kind": "caption", "data": "toy"}, toy.tools(examples))
    found = examine(evaluator, toy.predictor())
    (picture,) = found.pictures
    assert picture.file == "captions_written.png" and picture.png.startswith(b"\x89PNG")
    assert len(found.written) == 19 and found.written[0].text == "1 7"
    shown = spread(list(found.written))
    assert len(shown) == 12 and shown[0].score > shown[-1].score == 0
    answers = examine(build_evaluator("vqa", {"kind": "vqa", "data": "toy"}, toy.tools(ASKED)), toy.predictor())
    assert [text.question for text in answers.written] == ["3 4", "5"] * 2 and len(answers.pictures) == 1
