"""Retrieval in pictures: a similarity matrix with the pictures on its side, and what was found for single queries."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmjax.evals.report.contents import RetrievalPanel
from mmjax.evals.report.style import GREEN, INK, LINE, MUTED, ORANGE, SCALE, frame, look, new_figure, shorten

_PICTURE = 0.86  # side of a picture in a matrix, in cells


def similarity_matrix(panel: RetrievalPanel, size: int = 12, seed: int = 0) -> Figure:
    """Similarities of some queries (pictures, on the left) and their right texts (on top).

    The right text of each row is framed: green if it is the best of the row, orange if another text is ahead.

    Args:
      panel: the panel; queries are drawn at random, no two with the same right text.
      size: queries at most.
      seed: of the draw.
    """
    queries = _distinct(panel, size, seed)
    columns = [panel.right(q)[0] for q in queries]
    scores = panel.similarity[np.ix_(queries, columns)]
    count = len(queries)
    with look():
        left, right, top, bottom, cell = 0.75, 0.95, 1.35, 0.45, 0.52
        figure = new_figure(left + right + cell * count, top + bottom + cell * count)
        width, height = figure.get_size_inches()
        axes = figure.add_axes((left / width, bottom / height, cell * count / width, cell * count / height))
        axes.imshow(scores, cmap=SCALE, aspect="auto", vmin=min(0.0, scores.min()), vmax=scores.max())
        middle = (scores.max() + min(0.0, scores.min())) / 2
        for row in range(count):
            for column in range(count):
                color = "#ffffff" if scores[row, column] > middle else MUTED
                text = f"{scores[row, column]:.2f}".replace("0.", ".", 1)
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
            for column in _right_columns(panel, queries[row], columns):
                best = scores[row, column] >= scores[row].max()
                frame(axes, column - 0.46, row - 0.46, 0.92, 0.92, GREEN if best else ORANGE, 2.0)
            half = _PICTURE / 2
            extent = (-1.1 - half, -1.1 + half, row + half, row - half)
            axes.imshow(panel.query_images[int(queries[row])], extent=extent, clip_on=False, aspect="auto")
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        axes.grid(False)
        axes.set_xticks(range(count), [shorten(panel.gallery_texts[c], 22) for c in columns])
        axes.xaxis.tick_top()
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="left", rotation_mode="anchor", color=INK, fontsize=8.5)
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        figure.text(
            left / width, 0.16 / height, "cosine similarity; framed: the right text,", fontsize=8, color=MUTED
        )  # fmt: skip
        _legend(figure, left / width, 0.16 / height)
        return figure


def _legend(figure: Figure, x: float, y: float) -> None:
    step = 2.42 / figure.get_figwidth()
    figure.text(x + step, y, "green: first of its row", fontsize=8, color=GREEN, weight="bold")
    figure.text(x + 1.72 * step, y, "orange: not first", fontsize=8, color=ORANGE, weight="bold")


def _right_columns(panel: RetrievalPanel, query: int, columns: Sequence[int]) -> list[int]:
    right = set(panel.right(query))
    return [i for i, column in enumerate(columns) if column in right]


def _distinct(panel: RetrievalPanel, size: int, seed: int) -> Int[np.ndarray, " n"]:
    """Queries in a random draw, no two with the same first right text, in their own order."""
    drawn, seen = list[int](), set[int]()
    for query in np.random.default_rng(seed).permutation(len(panel.similarity)):
        text = panel.right(query)[0]
        if text not in seen and len(drawn) < size:
            seen.add(text)
            drawn.append(int(query))
    return np.asarray(sorted(drawn))


def choose_queries(panel: RetrievalPanel, which: str, count: int = 6, seed: int = 0) -> Int[np.ndarray, " n"]:
    """Queries to show: "best" (right, by the widest margin), "worst" (highest rank of the answer) or "random"."""
    ranks, size = panel.ranks(), len(panel.similarity)
    if which == "best":
        return np.lexsort((-panel.margins(), ranks))[:count]
    if which == "worst":
        return np.lexsort((panel.margins(), -ranks))[:count]
    return np.sort(np.random.default_rng(seed).permutation(size)[:count])


def retrievals(panel: RetrievalPanel, queries: Int[np.ndarray, " n"], found: int = 5) -> Figure:
    """For each query its picture, the `found` first texts with their pictures, and the answer if it is not among them.

    Right texts are framed in green.
    """
    found = min(found, len(panel.gallery_texts))
    ranks = panel.ranks()
    missed = bool((ranks[queries] > found).any())
    columns = 1.45 + found + (1.35 if missed else 0)
    cell, gap = 1.14, 0.62  # inches: a card's side, and the room for its two lines of text
    head = 0.42
    with look():
        figure = new_figure(cell * columns + 0.2, head + (cell + gap) * len(queries))
        width, height = figure.get_size_inches()
        axes = figure.add_axes((0.1 / width, 0, cell * columns / width, 1 - head / height))
        axes.set(xlim=(0, columns), ylim=((cell + gap) / cell * len(queries), 0))
        axes.axis("off")
        titles = [(0.5, "query"), (1.45 + found / 2, f"first {found} texts, by similarity")]
        titles += [(1.45 + found + 0.85, "right answer")] if missed else []
        for x, title in titles:
            axes.text(x, -0.14, title, ha="center", va="bottom", fontsize=9, color=MUTED)
        for row, query in enumerate(queries):
            y = row * (cell + gap) / cell
            _card(axes, 0.0, y, panel.query_images[int(query)], "", "")
            axes.text(1.22, y + 0.45, "→", ha="center", va="center", fontsize=14, color=MUTED)
            right = panel.right(query)
            for place, text in enumerate(np.argsort(-panel.similarity[query], kind="stable")[:found]):
                _text_card(axes, panel, 1.45 + place, y, query, int(text), int(text) in right)
            if ranks[query] > found:
                best = max(right, key=lambda text: panel.similarity[query, text])
                _text_card(axes, panel, 1.45 + found + 0.35, y, query, best, True, f"rank {ranks[query]:,} · ")
        return figure


def _text_card(
    axes: Axes, panel: RetrievalPanel, x: float, y: float, query: int, text: int, right: bool, note: str = ""
) -> None:
    picture = None if panel.gallery_images is None else panel.gallery_images[text]
    score = f"{note}{panel.similarity[query, text]:.2f}"
    _card(axes, x, y, picture, panel.gallery_texts[text], score, right)


def _card(
    axes: Axes, x: float, y: float, picture: np.ndarray | None, text: str, score: str, right: bool = False
) -> None:
    side = 0.8
    if picture is not None:
        axes.imshow(picture, extent=(x + 0.1, x + 0.1 + side, y + side, y), aspect="auto", interpolation="antialiased")
    frame(axes, x + 0.06, y - 0.04, side + 0.08, side + 0.08, GREEN if right else LINE, 2.2 if right else 0.8)
    weight = "bold" if right else "normal"
    axes.text(x + 0.5, y + 0.96, _two_lines(text), ha="center", va="top", fontsize=7.2, weight=weight, linespacing=1.15)
    below = 1.3 if text else 0.96
    axes.text(x + 0.5, y + below, score, ha="center", va="top", fontsize=6.8, color=GREEN if right else MUTED)


def _two_lines(text: str, length: int = 17) -> str:
    """A text in at most two lines of about `length` characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > length and len(lines) < 2:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(shorten(line, length) for line in lines)
