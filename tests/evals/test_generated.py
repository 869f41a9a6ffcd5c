import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.evals import generated
from mmjax.evals.generated import Moments


def test_frechet_distance_of_diagonal_gaussians_by_hand() -> None:
    first = Moments(np.zeros(2), np.diag([4.0, 0.0]))
    second = Moments(np.array([3.0, 4.0]), np.diag([9.0, 1.0]))
    assert generated.frechet_distance(first, second) == pytest.approx(25 + (2 - 3) ** 2 + 1)
    assert generated.frechet_distance(second, second) == pytest.approx(0, abs=1e-9)


def test_moments_need_two_rows() -> None:
    with pytest.raises(UserError, match="at least two rows"):
        generated.moments(np.zeros((1, 3)))


def test_inception_score_of_certain_and_of_equal_samples() -> None:
    certain = 100.0 * np.eye(4)
    assert generated.inception_score(certain)[0] == pytest.approx(4)
    assert generated.inception_score(np.zeros((6, 4)), 3) == pytest.approx([1, 1, 1])
    with pytest.raises(UserError, match="valid: 1 to 6"):
        generated.inception_score(np.zeros((6, 4)), 7)


def test_clip_scores_by_hand() -> None:
    images, captions = np.array([[1.0, 0], [1, 0]]), np.array([[2.0, 0], [-1, 0]])
    cosine = generated.paired_cosine(images, captions)
    assert cosine == pytest.approx([1, -1])
    score = generated.clip_score(cosine)
    assert score == pytest.approx([2.5, 0])
    references = np.array([[[0.0, 1], [1, 0]], [[-1.0, 0], [0, 1]]])
    assert generated.reference_clip_score(score, captions, references) == pytest.approx([2 * 2.5 / 3.5, 0])


def test_average_precision_takes_ties_together() -> None:
    assert generated.average_precision(np.array([3.0, 2, 1]), np.array([1, 0, 1])) == pytest.approx((1 + 2 / 3) / 2)
    assert generated.average_precision(np.array([1.0, 1, 0]), np.array([1, 0, 0])) == pytest.approx(1 / 2)
    assert generated.average_precision(np.array([1.0, 0]), np.array([0, 0])) == 0


def test_strict_ranks_count_only_what_is_above() -> None:
    scores = np.array([[3.0, 2, 2], [0, 1, 2]])
    assert generated.strict_ranks(scores, np.array([[0, 1, 1], [1, 1, 0]], bool)).tolist() == [1, 1]
