import math

import pytest

from mmjax.core.errors import UserError
from mmjax.evals.words.captions import bleu, caption_scores, cider_d, longest_common, rouge_l


def test_bleu_by_hand() -> None:
    # 3 of 4 words, 1 of 3 pairs; "the" counts once, since no reference has it twice; lengths agree.
    scores = bleu(["the the cat sat"], [["on the cat sat", "a b c d e f g"]])
    assert scores[0].corpus == pytest.approx(3 / 4, abs=1e-6)
    assert scores[1].corpus == pytest.approx(math.sqrt(3 / 4 * 2 / 3), abs=1e-6)
    short = bleu(["the cat"], [["the cat sat on it", "the cat sat down on it today"]])
    assert short[0].corpus == pytest.approx(math.exp(1 - 5 / 2), abs=1e-6)


def test_bleu_of_a_corpus_sums_counts_and_is_no_mean() -> None:
    scores = bleu(["a", "b c d"], [["a"], ["x y z"]])[0]
    assert scores.each == pytest.approx([1, 0], abs=1e-6) and scores.corpus == pytest.approx(1 / 4, abs=1e-6)


def test_rouge_by_hand() -> None:
    assert longest_common(["a", "b", "c", "d", "e"], ["b", "x", "d", "e", "a"]) == 3
    # precision 2/2 from the second reference, recall 2/3 from it as well
    beta = 1.2**2
    expected = (1 + beta) * (2 / 3) / (2 / 3 + beta)
    assert rouge_l(["b d"], [["a x y z", "b c d"]]).corpus == pytest.approx(expected)
    assert rouge_l(["q"], [["a"]]).corpus == 0


def test_cider_by_hand() -> None:
    # Two images, one-word captions: idf of "a" is ln 2, and only n = 1 of four orders exists.
    scores = cider_d(["a", "c"], [["a"], ["b"]])
    assert scores.each == pytest.approx([10 / 4, 0]) and scores.corpus == pytest.approx(10 / 8)
    assert cider_d(["a b"], [["a b"]]).corpus == 0  # of one image, no word tells anything


def test_cider_punishes_length_and_repetition() -> None:
    references = [["a red dog on grass"], ["two cats in a box"]]
    right, longer = (cider_d([text, "x"], references).each[0] for text in
                     ("a red dog on grass", "a red dog on grass a red dog on grass"))  # fmt: skip
    assert right == pytest.approx(10) and longer < right / 2


def test_captions_without_references_are_an_error() -> None:
    with pytest.raises(UserError, match="1 images without a reference"):
        caption_scores(["a"], [[]])
