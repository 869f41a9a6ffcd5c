import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mmjax.evals import logistic
from mmjax.evals.logistic import Tried, fit, sweep

CLASSES = 5


def problem(rows, seed):
    """Classes that overlap, features of different sizes away from zero."""
    rng = np.random.default_rng(7)
    planes, sizes = rng.normal(size=(16, CLASSES)), rng.lognormal(size=16)
    rng = np.random.default_rng(seed)
    clean = rng.normal(size=(rows, 16))
    labels = (clean @ planes + 2 * rng.gumbel(size=(rows, CLASSES))).argmax(axis=1)
    return (clean * sizes[None, :] + 3).astype(np.float32), labels


@pytest.fixture(scope="module")
def data():
    return problem(400, 0), problem(4000, 1)


@pytest.mark.parametrize("l2", [1e4, 10.0, 0.1])
def test_equals_scikit_learn(data, l2):
    (features, labels), (new, truth) = data
    ours = fit(features, labels, CLASSES, l2)
    theirs = LogisticRegression(C=1 / l2, tol=1e-7, max_iter=10_000).fit(features.astype(np.float64), labels)
    got, want = ours.logits(new), theirs.decision_function(new)
    got, want = got - got.mean(axis=1, keepdims=True), want - want.mean(axis=1, keepdims=True)
    assert ours.converged and ours.gradient < 2e-5
    assert np.abs(got - want).max() < 2e-3 * np.abs(want).max()
    accuracy = (got.argmax(axis=1) == truth).mean()
    assert abs(accuracy - (want.argmax(axis=1) == truth).mean()) <= 1e-3
    assert accuracy > (0.2 if l2 > 1e3 else 0.4)  # chance: 0.2; a strong penalty leaves little more


def test_weights_and_where_the_search_begins(data):
    """A weight of zero leaves out, of two doubles; another start ends in the same place."""
    (features, labels), _ = data
    weights = np.asarray([0.0, 1.0, 2.0, 1.0] * 100)
    rows = np.repeat(np.arange(400), weights.astype(int))
    one, other = fit(features, labels, CLASSES, 1.0, weights=weights), fit(features[rows], labels[rows], CLASSES, 1.0)
    from_there = fit(features, labels, CLASSES, 1.0, weights=weights, start=fit(features, labels, CLASSES, 30.0))
    scores = one.logits(features)
    for each in (other, from_there):
        assert np.abs(each.logits(features) - scores).max() < 5e-3 * np.abs(scores).max()


def test_a_start_at_the_optimum_stays(data):
    (features, labels), _ = data
    done = fit(features, labels, CLASSES, 1.0)
    assert fit(features, labels, CLASSES, 1.0, start=done).iterations <= 2 < done.iterations


def test_a_search_that_is_cut_short_says_so(data):
    (features, labels), _ = data
    short = fit(features, labels, CLASSES, 1e-4, max_iterations=5)
    assert (short.iterations, short.converged) == (5, False)


@pytest.mark.parametrize(
    ("labels", "l2", "message"),
    [([0, 1, 0], 0.0, "positive penalty"), ([0, 0, 0], 1.0, "every class of 0 … 1"), ([0, 1, 2], 1.0, "every class")],
)
def test_mistakes(labels, l2, message):
    with pytest.raises(ValueError, match=message):
        fit(np.ones((3, 2), np.float32), np.asarray(labels), 2, l2)


@pytest.mark.parametrize("peak", [-48, -11, 5, 48])
def test_the_sweep_finds_a_peak_on_the_grid(peak):
    """Eight steps to a decade from 1e-6 to 1e6, 7 + 2 · 4 tries at most."""
    tried = sweep(lambda l2: Tried(l2, 0.5, abs(np.log10(l2) * 8 - peak), 1))
    assert tried[0].l2 == pytest.approx(10 ** (peak / 8))
    assert len({each.l2 for each in tried}) == len(tried) <= 7 + 2 * 4
    penalties = np.log10([each.l2 for each in tried])
    assert penalties.min() >= -6 and penalties.max() <= 6
    assert {-6, -4, -2, 0, 2, 4, 6} <= set(penalties.round(9).tolist())


def test_accuracy_goes_before_loss():
    assert sweep(lambda l2: Tried(l2, float(l2 == 100), float(l2 != 1), 1))[0].l2 == 100
    assert logistic.DECADES == (-6, 6)
