"""Answers to questions about pictures: VQA's accuracy with its official normalisation, and POPE's yes and no."""

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmjax.core.errors import UserError

ENOUGH = 3  # annotators who must agree for full marks
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NUMBERS = {"none": "0"} | {word: str(i) for i, word in enumerate(_DIGITS)}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# Written as `(?!<=\d)` in the published code, which is always true: a period stays only where a digit follows. The
# published code hands the flag re.UNICODE over as a count, so that at most 32 of them go.
_PERIOD, _MOST_PERIODS = re.compile(r"\.(?!\d)"), 32
_COMMA = re.compile(r"\d,\d")

_ONE_APOSTROPHE = """ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've
shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're
there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's
where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"""
_SEVERAL = """couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've
someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've"""


def _contractions() -> dict[str, str]:
    """What a word without one of its apostrophes stands for, as the official table lists it."""
    table = {word.replace("'", ""): word for word in _ONE_APOSTROPHE.split()}
    for word in _SEVERAL.split():
        table |= {word[: m.start()] + word[m.end() :]: word for m in re.finditer("'", word)}
    return {**table, "somebody'd": "somebodyd"}  # so in the table


_CONTRACTIONS = _contractions()


def strip_punctuation(text: str) -> str:
    """Punctuation removed where a blank stands beside it (or the text has a comma between digits), else made a blank;
    periods removed unless a digit follows."""
    together = _COMMA.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        gone = together or mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if gone else " ")
    return _PERIOD.sub("", out, count=_MOST_PERIODS)


def normalise_words(text: str) -> str:
    """Lower case, number words as digits, no articles, apostrophes put back into contractions."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalise_answer(text: str) -> str:
    """A prediction as the VQA evaluation compares it.

    Example:
      >>> normalise_answer("The two cats.")
      '2 cats'
    """
    return normalise_words(strip_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


def evalai_answer(text: str) -> str:
    """An answer as TextVQA's evaluation compares it: `normalise_answer` after its own splitting of words.

    Example:
      >>> evalai_answer("It's 3,500?")
      "it 's 3500"
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalise_answer(text)


def _agreement(prediction: str, answers: Sequence[str]) -> float:
    """Mean over the annotators of min(1, matches among the others / 3)."""
    same = [answer == prediction for answer in answers]
    return float(np.mean([min(1.0, (sum(same) - own) / ENOUGH) for own in same]))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA v2's accuracy of one answer, 0 … 1.

    acc = mean over annotators i of min(1, #{j ≠ i : answer_j = prediction} / 3)

    The prediction is normalised whole. Of the annotators' answers only the punctuation is, and that only where they
    are not all the same, as in the published code.

    Source: Antol et al., VQA, §3; the evaluation code of VQA v2.
    """
    answers = [strip_punctuation(a) for a in answers] if len(set(answers)) > 1 else list(answers)
    return _agreement(normalise_answer(prediction), answers)


def evalai_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """TextVQA's accuracy of one answer, 0 … 1: as `vqa_accuracy`, with both sides normalised by `evalai_answer`."""
    return _agreement(evalai_answer(prediction), [evalai_answer(answer) for answer in answers])


def by_group(values: Sequence[float], groups: Sequence[Hashable]) -> dict[Hashable, float]:
    """Mean of the values of each group, in order of appearance."""
    found: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        found.setdefault(group, []).append(value)
    return {group: float(np.mean(several)) for group, several in found.items()}


def says_yes(text: str) -> bool:
    """Whether an answer counts as yes: its first sentence has no word "No", "no" or "not".

    Example:
      >>> says_yes("No, there is none."), says_yes("Not really.")
      (False, True)
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"} & set(words)


class Presence(NamedTuple):
    """POPE's scores; positive is yes. A share of nothing is 0."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float


def pope(answers: Sequence[str], labels: Sequence[str | bool]) -> Presence:
    """Scores of answers to "Is there a … in the image?".

    Args:
      answers: what the model wrote.
      labels: "yes" or "no" (or a truth value) for each; as in the published code, whatever is not "no" is yes.

    Raises:
      UserError: no answers, or not a label for each.

    Source: Li et al., Evaluating Object Hallucination in LVLMs (POPE), §5.
    """
    if not answers or len(answers) != len(labels):
        raise UserError(f"POPE needs answers and a label for each, not {len(answers)} and {len(labels)}")
    said = np.array([says_yes(answer) for answer in answers])
    true = np.array([label if isinstance(label, bool) else label != "no" for label in labels])
    tp, fp = int((said & true).sum()), int((said & ~true).sum())
    tn, fn = int((~said & ~true).sum()), int((~said & true).sum())
    precision, recall = tp / max(tp + fp, 1), tp / max(tp + fn, 1)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return Presence(tp, fp, tn, fn, (tp + tn) / len(said), precision, recall, f1, float(said.mean()))


def accuracy_table(
    accuracies: Sequence[float], kinds: Mapping[str, Sequence[Hashable]]
) -> tuple[float, dict[str, dict[Hashable, float]]]:
    """(overall, {kind: {group: accuracy}}) in percent rounded to two decimals, as VQA reports it."""
    groups = {kind: {group: round(100 * v, 2) for group, v in by_group(accuracies, several).items()}
              for kind, several in kinds.items()}  # fmt: skip
    return round(100 * float(np.mean(accuracies)), 2), groups
