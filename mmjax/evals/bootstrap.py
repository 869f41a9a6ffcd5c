"""Percentile bootstrap intervals of a mean over queries."""

import numpy as np
from jaxtyping import Float, Shaped

_DRAWS_AT_ONCE = 1 << 22  # indices held in memory at a time: 32 MiB


def resampled_means(values: Shaped[np.ndarray, "M Q"], *, resamples: int, seed: int) -> Float[np.ndarray, "R M"]:
    """Means of `resamples` samples of the queries, drawn with replacement; all rows share each draw.

    Sharing the draw keeps metrics of the same queries (R@1, R@5, R@10) ordered in every resample.
    """
    rows, queries = values.shape
    rng = np.random.default_rng(seed)
    block = max(1, _DRAWS_AT_ONCE // queries)
    means = np.empty((resamples, rows), np.float64)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        drawn = rng.integers(0, queries, size=(stop - start, queries))
        for row in range(rows):
            means[start:stop, row] = values[row].astype(np.float64)[drawn].mean(axis=1)
    return means


def intervals(
    values: Shaped[np.ndarray, "M Q"], *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Float[np.ndarray, "M 2"]:
    """Percentile bootstrap intervals (lo, hi) of the mean of each row over its queries.

    Args:
      values: num[M, Q], one row per metric, one column per query.
      level: coverage of the interval.
      resamples: number of bootstrap samples.
      seed: the interval is a function of values and seed.

    Raises:
      ValueError: no queries, values that are not finite, or a level outside (0, 1).

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, §13.3.
    """
    if not values.size:
        raise ValueError("a bootstrap interval needs at least one query")
    if not np.isfinite(values).all():
        raise ValueError("a bootstrap interval needs finite values")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level must lie in (0, 1) and resamples be positive, not {level} and {resamples}")
    tail = (1 - level) / 2
    return np.quantile(resampled_means(values, resamples=resamples, seed=seed), (tail, 1 - tail), axis=0).T


def interval(
    values: Shaped[np.ndarray, " Q"], *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval (lo, hi) of `values.mean()`, for num[Q]; see `intervals`."""
    lo, hi = intervals(values[None, :], level=level, resamples=resamples, seed=seed)[0]
    return float(lo), float(hi)


def mean_and_interval(
    name: str, values: Shaped[np.ndarray, " Q"], resamples: int, seed: int = 0
) -> list[tuple[str, float]]:
    """`name`, `name`_lo, `name`_hi: the mean of num[Q], the ends of its interval; `resamples` 0: the mean alone."""
    found = [(name, float(values.mean()))]
    if resamples:
        low, high = interval(values, resamples=resamples, seed=seed)
        found += [(f"{name}_lo", low), (f"{name}_hi", high)]
    return found
