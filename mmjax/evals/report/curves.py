"""Curves of a run: losses, and every metric that was evaluated more than once."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmjax.evals.report.style import LINE, MUTED, SERIES, look, new_figure


def series(history: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the rows in which a metric is set."""
    points = [(row["step"], row[name]) for row in history if row.get(name) is not None]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, np.float64), np.asarray(values, np.float64)


def smooth(values: np.ndarray, share: float = 0.04) -> np.ndarray:
    """Average over the neighbours of each point, about `share` of the curve on either side: it does not lag."""
    reach = max(1, round(share * len(values) / 2))
    shape = np.exp(-0.5 * (np.arange(-3 * reach, 3 * reach + 1) / reach) ** 2)
    total = np.convolve(values, shape)[3 * reach : -3 * reach]
    weight = np.convolve(np.ones_like(values), shape)[3 * reach : -3 * reach]  # less at the ends
    return total / weight


def curves(
    history: Sequence[Mapping[str, Any]], baselines: Mapping[str, Mapping[str, float]] | None = None
) -> Figure | None:
    """Losses on the left, recall (or accuracy) at 1 with its intervals on the right; None if there is nothing to draw.

    Args:
      history: rows with `step`. Keys that end in "loss" are losses; "…_R@1" and "…/top1" are drawn on the right.
      baselines: scores by metric name; drawn as dotted lines where a curve has one other than chance.
    """
    names = list(dict.fromkeys(name for row in history for name in row))
    losses = [name for name in names if name.split("/")[-1].endswith("loss") and len(series(history, name)[0]) > 1]
    recalls = [name for name in names if _is_first(name) and len(series(history, name)[0]) > 1]
    panels = [draw for draw in (losses, recalls) if draw]
    if not panels:
        return None
    with look():
        figure = new_figure(5.2 * len(panels), 3.5)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, names in zip(grid, panels, strict=True):
            if names is losses:
                _losses(axes, history, names)
            else:
                _recalls(axes, history, names, baselines or {})
            axes.set_xlabel("step")
            axes.margins(x=0.01)
        figure.subplots_adjust(left=0.55 / figure.get_figwidth(), right=0.98, bottom=0.15, top=0.89, wspace=0.16)
        return figure


def _is_first(name: str) -> bool:
    return re.search(r"(_R@|/top)1$", name) is not None


def pretty(name: str) -> str:
    """`new_style/image_to_text_R@1` -> `new style: image → text R@1`."""
    group, _, rest = name.rpartition("/")
    rest = re.sub(r"_(R@\d+|median_rank)$", r" \1", rest).replace("_to_", " → ").replace("_", " ")
    return f"{group.replace('_', ' ')}: {rest}" if group else rest


def _losses(axes: Axes, history: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    for name, color in zip(names, _colors(len(names)), strict=True):
        steps, values = series(history, name)
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(values), color=color, linewidth=1.8, label=pretty(name))
    axes.set_title("Loss" if len(names) == 1 else "Losses")
    if len(names) > 1:
        axes.legend(loc="upper right")


def _recalls(
    axes: Axes,
    history: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    baselines: Mapping[str, Mapping[str, float]],
) -> None:
    top = 0.0
    for name, color in zip(names, _colors(len(names)), strict=True):
        steps, values = series(history, name)
        axes.plot(steps, values, color=color, linewidth=1.8, marker="o", markersize=3, label=pretty(name))
        (at_lo, lo), (at_hi, hi) = series(history, f"{name}_lo"), series(history, f"{name}_hi")
        if np.array_equal(at_lo, steps) and np.array_equal(at_hi, steps):
            axes.fill_between(steps, lo, hi, color=color, alpha=0.12, linewidth=0)
            top = max(top, hi.max())
        top = max(top, values.max())
        for baseline, scores in baselines.items():
            if baseline != "chance" and name in scores:
                axes.axhline(scores[name], color=color, linestyle=(0, (1, 2)), linewidth=1.2)
                text = f"{baseline} {scores[name]:.0%}"
                axes.annotate(
                    text, (1, scores[name]), xycoords=("axes fraction", "data"), xytext=(-2, 3), color=color,
                    textcoords="offset points", ha="right", fontsize=8,
                )  # fmt: skip
                top = max(top, scores[name])
    axes.set_ylim(0, min(1.0, 1.25 * top) or 1.0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_title("First answer right, with 95 % intervals")
    axes.legend(loc="upper left", fontsize=8, labelcolor=MUTED, edgecolor=LINE)


def _colors(count: int) -> list[str]:
    return [SERIES[i % len(SERIES)] for i in range(count)]
