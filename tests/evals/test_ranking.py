import numpy as np
import pytest

from mmjax.evals.ranking import best_ranks, chance_recall, group_pairs


def dense_ranks(queries, gallery, answers):
    """One query at a time, by the definition."""
    out = []
    for query, right in zip(queries, answers, strict=True):
        scores = gallery @ query
        right = [g for g in right if g >= 0]
        wrong = [g for g in range(len(gallery)) if g not in right]
        out.append(1 + sum(scores[g] >= max(scores[right]) for g in wrong))
    return np.asarray(out)


def integer_features(rng, *shape):
    return rng.integers(-3, 4, shape).astype(np.float32)  # exact products: many ties, no rounding


def test_group_pairs():
    answers, count = group_pairs(np.asarray([[2, 5], [0, 1], [2, 3], [2, 5]]), 4)
    np.testing.assert_array_equal(answers, [[1, -1], [-1, -1], [3, 5], [-1, -1]])
    np.testing.assert_array_equal(count, [1, 0, 2, 0])


def test_ranks_by_hand():
    gallery = np.asarray([[4.0], [3.0], [2.0], [1.0]], np.float32)
    query = np.ones((4, 1), np.float32)
    # The best answer counts; other answers ahead of it do not stand in its way.
    answers = np.asarray([[0, -1], [3, -1], [1, 3], [3, 2]])
    np.testing.assert_array_equal(best_ranks(query, gallery, answers), [1, 4, 2, 3])


def test_ties_count_against_the_query():
    collapsed = np.ones((5, 3), np.float32)
    np.testing.assert_array_equal(best_ranks(collapsed[:2], collapsed, np.asarray([[0, -1], [1, 2]])), [5, 4])


@pytest.mark.parametrize("block", [1, 3, 7, 50])
def test_blocked_equals_dense(block):
    rng = np.random.default_rng(block)
    queries, gallery = integer_features(rng, 17, 4), integer_features(rng, 23, 4)
    answers = np.stack([rng.permutation(23)[:3] for _ in range(17)])
    answers[::2, 1:] = -1
    np.testing.assert_array_equal(
        best_ranks(queries, gallery, answers, block=block), dense_ranks(queries, gallery, answers)
    )


def test_refuses_what_cannot_be_ranked():
    features = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="not finite"):
        best_ranks(features * np.nan, features, np.asarray([[0], [1]]))
    with pytest.raises(ValueError, match="needs an answer"):
        best_ranks(features, features, np.asarray([[0], [-1]]))
    with pytest.raises(ValueError, match="answers lie in"):
        best_ranks(features, features, np.asarray([[0], [2]]))


def test_chance_by_hand_and_by_shuffling():
    assert chance_recall(np.asarray([1]), 10, 1) == pytest.approx(0.1)
    assert chance_recall(np.asarray([2]), 4, 2) == pytest.approx(1 - 1 / 6)
    assert chance_recall(np.asarray([1, 3]), 3, 5) == pytest.approx(1)
    rng = np.random.default_rng(0)
    drawn = np.mean([(rng.permutation(8)[:3] < 2).any() for _ in range(4000)])
    assert chance_recall(np.asarray([2]), 8, 3) == pytest.approx(drawn, abs=0.03)
