import numpy as np
import pytest

from mmjax.evals import bootstrap


def test_interval_of_a_constant_is_the_constant():
    assert bootstrap.interval(np.ones(7)) == (1.0, 1.0)


def test_same_seed_same_interval_and_other_seed_another():
    values = np.random.default_rng(0).random(40)
    assert bootstrap.interval(values, seed=3) == bootstrap.interval(values, seed=3)
    assert bootstrap.interval(values, seed=3) != bootstrap.interval(values, seed=4)


def test_width_agrees_with_the_normal_approximation():
    hits = np.arange(400) < 100
    lo, hi = bootstrap.interval(hits, resamples=4000)
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert lo == pytest.approx(0.25 - half, abs=0.006)
    assert hi == pytest.approx(0.25 + half, abs=0.006)


def test_coverage_is_near_the_level():
    rng = np.random.default_rng(1)
    bounds = [bootstrap.interval(rng.random(80) < 0.3, level=0.9, resamples=300, seed=i) for i in range(200)]
    covered = np.mean([lo <= 0.3 <= hi for lo, hi in bounds])
    assert 0.83 <= covered <= 0.95


def test_blocks_of_resamples_change_nothing_but_memory(monkeypatch):
    values = np.random.default_rng(0).random((2, 30))
    whole = bootstrap.intervals(values, resamples=50)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 70)  # two resamples at a time
    np.testing.assert_array_equal(bootstrap.intervals(values, resamples=50), whole)


def test_nested_metrics_stay_ordered():
    ranks = np.random.default_rng(2).integers(1, 20, 60)
    bounds = bootstrap.intervals(ranks[None, :] <= np.asarray([[1], [5], [10]]))
    assert (np.diff(bounds, axis=0) >= 0).all()


@pytest.mark.parametrize("values", [np.zeros(0), np.asarray([0.5, np.nan])])
def test_refuses_what_has_no_interval(values):
    with pytest.raises(ValueError, match="needs"):
        bootstrap.interval(values)
