"""Classification in pictures: what is taken for what, accuracy of every class, and the choice of a probe's penalty."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from mmjax.evals.logistic import Tried
from mmjax.evals.report.style import BLUE, GREEN, INK, MUTED, ORANGE, SCALE, look, new_figure, shorten

_MOST_CLASSES = 24  # in a matrix
_MOST_BARS = 20  # best and worst, each


@dataclass(frozen=True)
class ClassPanel:
    """What a classifier said of some pictures.

    Attributes:
      name: title of the panel.
      classes: names of the C classes.
      labels: int[N], the right class of every picture.
      predicted: int[N], the class that came first.
    """

    name: str
    classes: Sequence[str]
    labels: Int[np.ndarray, " N"]
    predicted: Int[np.ndarray, " N"]

    def counts(self) -> Int[np.ndarray, "C C"]:
        """How many pictures of each class (row) were taken for each class (column)."""
        size = len(self.classes)
        return np.bincount(self.labels * size + self.predicted, minlength=size * size).reshape(size, size)

    def mistakes(self) -> list[tuple[int, int, int]]:
        """(class, what it was taken for, how often), the most frequent first."""
        wrong = self.labels != self.predicted
        pairs = Counter(zip(self.labels[wrong].tolist(), self.predicted[wrong].tolist(), strict=True))
        return [(*pair, count) for pair, count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))]


def confusion(panel: ClassPanel) -> Figure:
    """Shares of each class (row) that were taken for each class (column).

    With more than 24 classes, those are shown that are confused most often.
    """
    chosen = list(range(len(panel.classes)))
    if len(chosen) > _MOST_CLASSES:
        first = dict.fromkeys(c for right, taken, _ in panel.mistakes() for c in (right, taken))
        chosen = sorted([*first, *(c for c in chosen if c not in first)][:_MOST_CLASSES])
    counts = panel.counts()[chosen]
    shares = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[:, chosen]
    count, cell = len(chosen), 0.42
    left, right, top, bottom = 1.8, 0.5, 1.7, 0.45  # inches
    with look():
        figure = new_figure(left + right + cell * count, top + bottom + cell * count)
        width, height = figure.get_size_inches()
        axes = figure.add_axes((left / width, bottom / height, cell * count / width, cell * count / height))
        edges = np.arange(count + 1) - 0.5
        axes.pcolormesh(edges, edges, shares, cmap=SCALE, vmin=0, vmax=1, edgecolors="#ffffff", linewidth=1.0)
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            color = "#ffffff" if shares[row, column] > 0.5 else MUTED
            axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=6.5,
                      color=color)  # fmt: skip
        axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
        axes.grid(False)
        names = [shorten(panel.classes[c], 22) for c in chosen]
        axes.set_yticks(range(count), names, fontsize=8, color=INK)
        axes.set_xticks(range(count), names, fontsize=8, color=INK)
        axes.xaxis.tick_top()
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="left", rotation_mode="anchor")
        axes.spines[:].set_visible(False)
        note = "percent of the pictures of each class (row) taken for each class (column)"
        figure.text(0.1 / width, 0.16 / height, note, fontsize=8, color=MUTED)
        return figure


def class_bars(panel: ClassPanel) -> Figure:
    """Accuracy of every class that occurs, the best on top; of more than 40 the 20 best and the 20 worst."""
    counts = panel.counts()
    total = counts.sum(axis=1)
    order = sorted(np.flatnonzero(total).tolist(), key=lambda c: (-counts[c, c] / total[c], panel.classes[c]))
    many = len(order) > 2 * _MOST_BARS
    shown = [*order[:_MOST_BARS], *order[-_MOST_BARS:]] if many else order
    with look():
        figure = new_figure(6.4, 0.9 + 0.22 * len(shown))
        width, height = figure.get_size_inches()
        axes = figure.add_axes((1.9 / width, 0.35 / height, (width - 2.9) / width, (height - 0.85) / height))
        values = np.asarray([counts[c, c] / total[c] for c in shown])
        colors = [ORANGE if many and i >= _MOST_BARS else BLUE for i in range(len(shown))]
        axes.barh(range(len(shown)), values, color=colors, height=0.7)
        for row, c in enumerate(shown):
            axes.text(values[row] + 0.01, row, f"{counts[c, c]} of {total[c]}", va="center", fontsize=7, color=MUTED)
        axes.set_yticks(range(len(shown)), [shorten(panel.classes[c], 28) for c in shown], fontsize=8, color=INK)
        axes.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_title("Accuracy by class" + (f": the {_MOST_BARS} best and the {_MOST_BARS} worst" if many else ""))
        return figure


def sweep_curve(tried: Sequence[Tried]) -> Figure:
    """Accuracy on the validation pictures against the penalty; the chosen one (the first of `tried`) is marked."""
    points = sorted(tried)
    with look():
        figure = new_figure(5.6, 3.3)
        axes = figure.subplots()
        axes.plot([p.l2 for p in points], [p.accuracy for p in points], color=BLUE, marker="o", markersize=3.5)
        axes.plot([tried[0].l2], [tried[0].accuracy], color=GREEN, marker="o", markersize=8, linestyle="none",
                  label=f"chosen: {tried[0].l2:.3g}")  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("L2 penalty")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_title("Accuracy on the validation pictures")
        axes.legend(loc="best", fontsize=8)
        figure.subplots_adjust(left=0.12, right=0.97, bottom=0.16, top=0.88)
        return figure


def recall_curve(
    ranks: dict[str, Int[np.ndarray, " Q"]], chance: dict[str, Float[np.ndarray, " K"]], ks: Int[np.ndarray, " K"]
) -> Figure:
    """Share of the queries with a right answer among the first k, for each direction, over k on a logarithmic axis.

    Args:
      ranks: direction -> rank of the best right answer of every query, from 1.
      chance: direction -> what a random order reaches at each of `ks`.
      ks: cut-offs, ascending.
    """
    with look():
        figure = new_figure(5.6, 3.3)
        axes = figure.subplots()
        for (direction, values), color in zip(ranks.items(), (BLUE, ORANGE), strict=False):
            found = (values[None, :] <= ks[:, None]).mean(axis=1)
            axes.plot(ks, found, color=color, label=direction.replace("_to_", " → "))
            axes.plot(ks, chance[direction], color=color, linestyle=(0, (1, 2)), linewidth=1.2)
        axes.set_xscale("log")
        axes.set(xlim=(1, max(2, int(ks[-1]))), ylim=(0, 1.02))
        axes.set_xlabel("k")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_title("A right answer among the first k (dotted: by chance)")
        axes.legend(loc="lower right", fontsize=8)
        figure.subplots_adjust(left=0.1, right=0.97, bottom=0.16, top=0.88)
        return figure
