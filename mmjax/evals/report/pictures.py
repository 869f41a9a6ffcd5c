"""Retrieval in pictures: a similarity matrix with the pictures on its side, and what was found for single queries."""

from collections.abc import Sequence

import numpy as np
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
    columns = np.asarray([panel.right(q)[0] for q in queries])
    scores = panel.similarity[queries][:, columns]
    low, high = min(0.0, scores.min()), max(scores.max(), 1e-3)
    count = len(queries)
    with look():
        left, right, top, bottom, cell = 0.75, 1.2, 1.4, 0.45, 0.52  # inches
        figure = new_figure(left + right + cell * count, top + bottom + cell * count)
        width, height = figure.get_size_inches()
        axes = figure.add_axes((left / width, bottom / height, cell * count / width, cell * count / height))
        edges = np.arange(count + 1) - 0.5
        axes.pcolormesh(edges, edges, scores, cmap=SCALE, vmin=low, vmax=high, edgecolors="#ffffff", linewidth=1.5)
        for row in range(count):
            for column in range(count):
                color = "#ffffff" if scores[row, column] > (low + high) / 2 else MUTED
                text = f"{scores[row, column]:.2f}".replace("0.", ".", 1).replace("-.00", ".00")
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
            for right_one in np.flatnonzero(np.isin(columns, panel.right(queries[row]))):
                x, y, best = float(right_one) - 0.43, row - 0.43, scores[row, right_one] >= scores[row].max()
                frame(axes, x, y, 0.86, 0.86, "#ffffff", 5.0)
                frame(axes, x, y, 0.86, 0.86, GREEN if best else ORANGE, 2.4)
            half = _PICTURE / 2
            extent = (-1.1 - half, -1.1 + half, row + half, row - half)
            axes.imshow(panel.query_images[queries[row]], extent=extent, clip_on=False, aspect="auto")
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        axes.grid(False)
        axes.set_xticks(range(count), [shorten(panel.gallery_texts[c], 22) for c in columns])
        axes.xaxis.tick_top()
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="left", rotation_mode="anchor", color=INK, fontsize=8.5)
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        notes = (("cosine similarity; the right text is framed", MUTED), ("green: first of its row", GREEN),
                 ("orange: not first", ORANGE))  # fmt: skip
        for inches, (note, color) in zip((0.0, 2.6, 4.1), notes, strict=True):
            figure.text((left + inches) / width, 0.16 / height, note, fontsize=8, color=color)
        return figure


def _distinct(panel: RetrievalPanel, size: int, seed: int) -> list[int]:
    """Queries in a random draw, no two with the same first right text, in their own order."""
    drawn, seen = list[int](), set[int]()
    for query in np.random.default_rng(seed).permutation(len(panel.similarity)).tolist():
        text = panel.right(query)[0]
        if text not in seen and len(drawn) < size:
            seen.add(text)
            drawn.append(query)
    return sorted(drawn)


def choose_queries(panel: RetrievalPanel, which: str, count: int = 6, seed: int = 0) -> list[int]:
    """Queries to show: "best" (right, by the widest margin), "worst" (highest rank of the answer) or "random"."""
    ranks, size = panel.ranks(), len(panel.similarity)
    if which == "best":
        return np.lexsort((-panel.margins(), ranks))[:count].tolist()
    if which == "worst":
        return np.lexsort((panel.margins(), -ranks))[:count].tolist()
    return sorted(np.random.default_rng(seed).permutation(size)[:count].tolist())


def retrievals(panel: RetrievalPanel, queries: Sequence[int], found: int = 5) -> Figure:
    """For each query its picture, the `found` first texts with their pictures, and the answer if it is not among them.

    Right texts are framed in green.
    """
    found = min(found, len(panel.gallery_texts))
    ranks = panel.ranks()
    missed = any(ranks[query] > found for query in queries)
    columns = 1.45 + found + (1.35 if missed else 0)
    cell, gap = 1.14, 0.46  # inches: a card's side, and more room for its text
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
            _card(axes, 0.0, y, panel.query_images[query], "", "")
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
    lines = _two_lines(text)
    for i, line in enumerate(lines):
        axes.text(x + 0.5, y + 0.97 + 0.125 * i, line, ha="center", va="center", fontsize=7.2, weight=weight)
    below = y + 0.985 + 0.125 * len(lines)
    axes.text(x + 0.5, below, score, ha="center", va="center", fontsize=6.8, color=GREEN if right else MUTED)


def _two_lines(text: str, length: int = 16) -> list[str]:
    """A text in at most two lines of about `length` characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > length and len(lines) < 2:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [shorten(line, length) for line in lines]
