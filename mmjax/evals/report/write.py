"""Writes a report: metrics.json, PNG figures and report.html."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmjax.core import files
from mmjax.evals.report.contents import ReportData, RetrievalPanel
from mmjax.evals.report.curves import curves
from mmjax.evals.report.page import Picture, flatten, page
from mmjax.evals.report.pictures import choose_queries, retrievals, similarity_matrix
from mmjax.evals.report.style import to_png

_MATRIX = (
    "Cosine similarities of pictures drawn at random (rows) and their texts (columns). The right text is framed: "
    "green where it is the best of its row, orange where another text is ahead."
)
_DRAWS = {
    "best": "The clearest successes: the right text is first, by the widest margin.",
    "random": "Drawn at random: what an ordinary query looks like.",
    "worst": "The worst failures: the right text has the highest rank.",
}


def write_report(out_dir: str | os.PathLike, data: ReportData, more: Sequence[Picture] = ()) -> Path:
    """Writes `metrics.json`, `report.json`, `*.png` and `report.html` to a directory; returns the path of report.html.

    Each file is whole or not there. metrics.json maps names to numbers, for scripts; report.json holds what is
    printed beside them. report.html holds its pictures and styles and asks nothing of the network. `more` are figures
    besides those that the data gives.
    """
    out = files.make_folder(out_dir)
    beside = {
        "title": data.title,
        "baselines": _plain(data.baselines),
        "settings": {name: flatten(values) for name, values in data.settings.items()},
    }
    pictures = [*_pictures(data), *more]
    for picture in pictures:
        files.write_bytes(out / picture.file, picture.png)
    document = page(data.title, data.summary, data.metrics, data.baselines, data.settings, pictures)
    files.write_text(out / "report.html", document)
    # metrics.json last: it says that a run has ended, and then everything else is there.
    for name, values in (("report.json", beside), ("metrics.json", _plain(data.metrics))):
        files.write_text(out / name, json.dumps(values, indent=1, allow_nan=False) + "\n")
    return out / "report.html"


def _pictures(data: ReportData) -> list[Picture]:
    pictures = []
    figure = curves(data.history, data.baselines)
    if figure is not None:
        caption = "Training loss (smoothed; the faint line is not) and what the evaluators found on the way."
        pictures.append(Picture("curves.png", "Training", caption, to_png(figure)))
    for panel in data.panels:
        pictures += _panel_pictures(panel)
    return pictures


def _panel_pictures(panel: RetrievalPanel) -> list[Picture]:
    name = stem(panel.name)
    pictures = [Picture(f"{name}_similarity.png", panel.name, _MATRIX, to_png(similarity_matrix(panel)))]
    for which, caption in _DRAWS.items():
        figure = retrievals(panel, choose_queries(panel, which))
        pictures.append(Picture(f"{name}_{which}.png", panel.name, caption, to_png(figure)))
    return pictures


def stem(name: str) -> str:
    """A name as the beginning of a file's name."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name.lower()).strip("_") or "panel"


def _plain(values: Any) -> Any:
    """Mappings of numbers for strict JSON: what is not finite becomes null."""
    if hasattr(values, "items"):
        return {name: _plain(value) for name, value in values.items()}
    number = float(values)
    return number if math.isfinite(number) else None
