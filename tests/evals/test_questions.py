"""Yes and no, letters, OCR's tokens and free answers, on a system whose answers are known."""

import dataclasses
import json

import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.evals.build import build_evaluator
from mmjax.evals.choice import asked, letter_of
from mmjax.evals.report.examine import examine
from tests.evals import toy


def tools(examples: list[dict], decode, seen: list | None = None):
    """Words are not read: the answer follows from the picture's value."""

    def tokenize(texts):
        if seen is not None:
            seen.extend(texts)
        return np.ones((len(texts), 2), np.int32), np.ones((len(texts), 2), bool)

    return dataclasses.replace(toy.tools(examples), tokenize=tokenize, decode=lambda ids: decode(int(ids[0])))


def run(spec: dict, examples: list[dict], decode, seen: list | None = None) -> dict[str, float]:
    evaluator = build_evaluator("e", {"data": "toy", **spec}, tools(examples, decode, seen))
    values = dict(evaluator.run(toy.predictor()))
    assert all(name.startswith("e/") for name in values)
    return values


# ---------------------------------------------------------------- POPE

PRESENT = [{"image": toy.grey(v), "question": "Is there a dog?", "answers": [answer], "question_type": kind}
           for v, answer, kind in ((1, "yes", "random"), (2, "no", "random"), (1, "no", "popular"),
                                   (2, "no", "popular"), (1, "yes", "popular"))]  # fmt: skip


def test_presence_by_hand() -> None:
    seen: list[str] = []
    found = run({"kind": "pope"}, PRESENT, lambda v: "Yes, a dog." if v == 1 else "There is no dog. Yes.", seen)
    # random: all right; popular: yes, no, yes of no, no, yes
    assert found["e/accuracy/random"] == found["e/f1/random"] == 1 and found["e/yes_ratio/random"] == 0.5
    assert found["e/accuracy/popular"] == pytest.approx(2 / 3) and found["e/precision/popular"] == 0.5
    assert found["e/recall/popular"] == 1 and found["e/f1/popular"] == pytest.approx(2 / 3)
    assert found["e/f1"] == pytest.approx((1 + 2 / 3) / 2) and found["e/accuracy"] == pytest.approx(5 / 6)
    assert set(seen) == {"Is there a dog?\nAnswer the question using a single word or phrase."}
    one = run({"kind": "pope"}, PRESENT[:2], lambda v: "no")
    assert set(one) == {f"e/{metric}" for metric in ("accuracy", "precision", "recall", "f1", "yes_ratio")}
    assert one["e/yes_ratio"] == one["e/f1"] == 0 and one["e/accuracy"] == 0.5
    evaluator = build_evaluator("e", {"kind": "pope", "data": "toy"}, tools(PRESENT[:2], str))
    assert evaluator.baselines()["always yes"]["e/recall"] == 1
    with pytest.raises(UserError, match="has the answer 'two'; valid: yes, no"):
        run({"kind": "pope"}, [{**PRESENT[0], "answers": ["two"]}], str)


# ---------------------------------------------------------------- choices


@pytest.mark.parametrize(("text", "place"), [
    ("A", 0), ("C", 2), ("D", -1), ("B. a dog", 1), ("B.", -1), ("The answer is B.", 1), ("The answer is C", -1),
    ("So: The answer is A. The answer is B.", -1), ("a dog", -1), ("", -1), ("E. x The answer is A.", -1),
    ("1. The answer is A.", 0),
])  # fmt: skip
def test_letters_are_read_as_llavas_script_does(text: str, place: int) -> None:
    assert letter_of(text, 3) == place


def test_the_words_of_a_question() -> None:
    assert asked("Which?", ["cat", "dog"], "Look.", "lines") == "Look.\nWhich?\nA. cat\nB. dog"
    assert asked("Which?", ["cat", "dog"], "", "cqm") == "Context: N/A\nQuestion: Which?\nOptions: (A) cat (B) dog"


def problem(v: int, label: int, **more) -> dict:
    return {"image": toy.grey(v), "question": "Which?", "choices": ["cat", "dog", "cow"], "label": label, **more}


PROBLEMS = [problem(0, 0, question_type="a"), problem(1, 1, question_type="b"), problem(2, 0, question_type="b"),
            problem(3, 0, question_type="b")]  # fmt: skip


def test_choices_by_hand() -> None:
    seen: list[str] = []
    found = run({"kind": "choice", "resamples": 0}, PROBLEMS, lambda v: "ABC?"[v], seen)
    assert found == {"e/accuracy": 0.5, "e/accuracy/a": 1.0, "e/accuracy/b": pytest.approx(1 / 3), "e/parsed": 0.75}
    assert seen[0] == ("Which?\nA. cat\nB. dog\nC. cow\nAnswer with the option's letter from the given choices "
                       "directly.")  # fmt: skip
    evaluator = build_evaluator("e", {"kind": "choice", "data": "toy"}, tools(PROBLEMS, str))
    assert evaluator.baselines() == {"chance": {"e/accuracy": pytest.approx(1 / 3)}}
    said = [{**PROBLEMS[0], "prompt": "Own words"}]
    seen.clear()
    run({"kind": "choice", "short": ""}, said, lambda v: "A", seen)
    assert seen == ["Own words"]
    with pytest.raises(UserError, match="says the words"):
        run({"kind": "choice", "circular": True}, said, str)


def test_a_question_counts_if_it_is_right_in_all_orders() -> None:
    """A system that always takes the first choice is right in one order of three, which is not enough."""
    seen: list[str] = []
    found = run({"kind": "choice", "circular": True, "resamples": 0}, PROBLEMS[:1], lambda v: "A", seen)
    assert found["e/accuracy"] == pytest.approx(1 / 3) and found["e/circular"] == 0
    assert [text.split("\n")[1] for text in seen] == ["A. cat", "A. dog", "A. cow"]
    # rotated copies of the data: the first group is right in both, the second once
    copies = [problem(0, 0, group="x"), problem(1, 1, group="x"), problem(0, 0, group="y"), problem(0, 1, group="y")]
    found = run({"kind": "choice", "resamples": 0}, copies, lambda v: "ABC"[v])
    assert found["e/accuracy"] == 0.75 and found["e/circular"] == 0.5
    evaluator = build_evaluator("e", {"kind": "choice", "data": "toy"}, tools(copies, str))
    assert evaluator.baselines()["chance"]["e/circular"] == pytest.approx(1 / 9)
    with pytest.raises(UserError, match="leave circular out"):
        run({"kind": "choice", "circular": True}, copies, str)


def test_options_of_choices_are_checked() -> None:
    wrong = [
        ({"mode": "guess"}, "mode = 'guess'; valid: generate, likelihood"),
        ({"form": "x"}, "valid: lines, cqm"),
        ({"of": "text"}, "the mode 'generate' takes no 'of'"),
        ({"mode": "likelihood", "settings": {}}, "takes no"),
    ]
    for options, said in wrong:
        with pytest.raises(UserError, match=said):
            run({"kind": "choice", **options}, PROBLEMS, str)
    with pytest.raises(UserError, match="example 0 of toy has no 'label'"):
        run({"kind": "choice"}, [{k: v for k, v in PROBLEMS[0].items() if k != "label"}], str)
    with pytest.raises(UserError, match="has no picture, and the system needs one"):
        run({"kind": "choice"}, [{k: v for k, v in PROBLEMS[0].items() if k != "image"}], str)
    with pytest.raises(UserError, match="Toy has no method 'likelihood'"):
        run({"kind": "choice", "mode": "likelihood"}, PROBLEMS, str)


# ---------------------------------------------------------------- TextVQA


def test_what_was_read_stands_behind_the_question_and_textvqas_normalisation_holds() -> None:
    examples = [{"image": toy.grey(1), "question": "what brand?", "answers": ["it 's"] * 4 + ["nokia"] * 6,
                 "ocr_tokens": ["Nokia", "12"]}]  # fmt: skip
    seen: list[str] = []
    spec = {"kind": "vqa", "resamples": 0, "template": "{}\nShort."}
    found = run({**spec, "scorer": "textvqa", "ocr": True}, examples, lambda v: "It's", seen)
    assert found["e/accuracy"] == 1 and seen == ["what brand?\nReference OCR token: Nokia, 12\nShort."]
    assert run(spec, examples, lambda v: "It's")["e/accuracy"] == 0  # VQA's own leaves "it's" one word
    with pytest.raises(UserError, match="has no 'ocr_tokens'"):
        run({**spec, "ocr": True}, [{k: v for k, v in examples[0].items() if k != "ocr_tokens"}], str)
    with pytest.raises(UserError, match="scorer = 'x'; valid: vqa, textvqa"):
        run({**spec, "scorer": "x"}, examples, str)


# ---------------------------------------------------------------- free answers


def test_answers_for_judges_are_written(tmp_path) -> None:
    examples = [{"image": toy.grey(v), "question": f"What {v}?", "question_id": v} for v in (3, 4)]
    spec = {"kind": "freeform", "file": str(tmp_path / "answers.jsonl")}
    assert run(spec, examples, lambda v: f"It is {v}.") == {"e/answers": 2, "e/words": 3}
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert rows == [{"question_id": v, "prompt": f"What {v}?", "text": f"It is {v}."} for v in (3, 4)]
    run({**spec, "file": str(tmp_path / "vet.json")}, examples, lambda v: f"é {v}")
    assert json.loads((tmp_path / "vet.json").read_text()) == {"3": "é 3", "4": "é 4"}
    for options, said in (({"file": "x.txt"}, "ends in .jsonl"), ({"file": "no/x.json"}, "there is no folder")):
        with pytest.raises(UserError, match=said):
            run({**spec, **options}, examples, str)
    with pytest.raises(UserError, match="two questions of one question_id"):
        run(spec, [examples[0], examples[0]], str)


def test_reports_show_letters_and_yes() -> None:
    for kind, examples in (("choice", PROBLEMS), ("pope", PRESENT)):
        evaluator = build_evaluator("e", {"kind": kind, "data": "toy"}, tools(examples, lambda v: "A"))
        found = examine(evaluator, toy.predictor())
        assert len(found.pictures) == 1 and len(found.written) == len(examples)
