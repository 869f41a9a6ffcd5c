import pytest

from mmjax.core.errors import UserError
from mmjax.evals.words import answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The two cats.", "2 cats"), ("dont know", "don't know"), ("3.5", "3.5"), ("U.S.", "us"), ("e-mail", "e mail"),
     ("left / right", "left right"), ("1,000", "1000"), ("(MAYBE)", "maybe"), ("couldntve", "couldntve"),
     ("couldn'tve", "couldn't've"), ("none", "0"), ("an a the", ""), ("somebody'd", "somebodyd"), ("a,b", "b")],
)  # fmt: skip
def test_normalisation(text: str, expected: str) -> None:
    assert answers.normalise_answer(text) == expected


def test_accuracy_leaves_one_annotator_out_at_a_time() -> None:
    assert answers.vqa_accuracy("yes", ["yes"] * 10) == 1
    # one of ten: the nine others see 1/3 each, the one itself 0
    assert answers.vqa_accuracy("yes", ["yes", *["no"] * 9]) == pytest.approx(0.3)
    assert answers.vqa_accuracy("yes", ["yes"] * 3 + ["no"] * 7) == pytest.approx((7 + 3 * 2 / 3) / 10)


def test_answers_that_are_all_the_same_keep_their_marks() -> None:
    assert answers.vqa_accuracy("yes.", ["yes."] * 10) == 0
    assert answers.vqa_accuracy("yes.", ["yes."] * 9 + ["no"]) == 1
    assert answers.vqa_accuracy("yes!", ["yes!"] * 9 + ["no"]) == 0  # the mark becomes a blank, which stays there
    assert answers.evalai_accuracy("yes!", ["yes!"] * 10) == 1


def test_pope_counts() -> None:
    scores = answers.pope(["Yes.", "No, none", "There is not. Yes", "NO"], ["yes", "no", "yes", "no"])
    assert scores[:4] == (1, 1, 1, 1) and scores.f1 == 0.5 and scores.yes_ratio == 0.5
    with pytest.raises(UserError, match="a label for each"):
        answers.pope(["yes"], [])


def test_table_is_in_percent_by_group() -> None:
    overall, groups = answers.accuracy_table([1.0, 0.0, 1 / 3], {"type": ["a", "a", "b"]})
    assert overall == 44.44 and groups == {"type": {"a": 50.0, "b": 33.33}}
