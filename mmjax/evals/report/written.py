"""What a system wrote about pictures: captions, and answers under their questions."""

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure

from mmjax.evals.base import Rows
from mmjax.evals.caption import Written
from mmjax.evals.report.style import GREEN, INK, MUTED, ORANGE, look, new_figure, shorten

_COLUMNS, _WIDTH, _LINES = 4, 30, 3
_CELL, _TEXT = 2.3, 1.35  # inches: a picture's column, and the room for text below


def spread(written: Sequence[Written], count: int = 12) -> list[Written]:
    """Some of the texts, from the best score to the worst, evenly: the extremes, and what an ordinary one is like."""
    ordered = sorted(written, key=lambda each: (-each.score, each.key, each.question))
    if len(ordered) <= count:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]


def written_figure(images: Rows, written: Sequence[Written], right: float, score: str) -> Figure:
    """Pictures with what was written about each, its score, and what people wrote.

    Args:
      images: the evaluator's pictures; `written` says which.
      right: from this score on a text is green, below it orange.
      score: name of the score.
    """
    rows = -(-len(written) // _COLUMNS)
    with look():
        width, height = _CELL * min(_COLUMNS, len(written)), (_CELL + _TEXT) * rows
        figure = new_figure(width, height)
        for place, each in enumerate(written):
            x, y = place % _COLUMNS * _CELL, height - (place // _COLUMNS + 1) * (_CELL + _TEXT)
            side = _CELL - 0.3
            axes = figure.add_axes((x / width + 0.1 / width, (y + _TEXT + 0.1) / height, side / width, side / height))
            axes.imshow(images[each.image])
            axes.axis("off")
            texts = [(each.question, INK)] if each.question else []
            texts.append((each.text or "(nothing)", GREEN if each.score >= right else ORANGE))
            texts.append((f"{score} {each.score:.2f} · {each.right[0]}", MUTED))
            top = y + _TEXT
            for text, color in texts:
                lines = textwrap.wrap(shorten(text, _WIDTH * _LINES), _WIDTH)[:_LINES] or [""]
                figure.text((x + 0.1) / width, top / height, "\n".join(lines), fontsize=7.5, color=color, va="top")
                top -= 0.135 * len(lines) + 0.05
        return figure
