"""One evaluator run once: its metrics, and the figures that its embeddings give."""

from typing import NamedTuple

import numpy as np

from mmjax.evals.base import Evaluator, Predictor
from mmjax.evals.caption import Captions, Written
from mmjax.evals.choice import Choice
from mmjax.evals.linear_probe import LinearProbe
from mmjax.evals.presence import Presence
from mmjax.evals.ranking import chance_recall
from mmjax.evals.report.classification import ClassPanel, class_bars, confusion, recall_curve, sweep_curve
from mmjax.evals.report.contents import RetrievalPanel, retrieval_panel
from mmjax.evals.report.page import Picture
from mmjax.evals.report.style import to_png
from mmjax.evals.report.write import stem
from mmjax.evals.report.written import spread, written_figure
from mmjax.evals.retrieval import DIRECTIONS, Retrieval
from mmjax.evals.vqa import VQA
from mmjax.evals.zeroshot import ZeroShot

_CUTS = 60  # cut-offs of a recall curve
WRITERS = (Captions, VQA, Presence, Choice)
"""Evaluators whose texts are shown with their scores."""


class Examined(NamedTuple):
    """What an evaluator found, and its pictures."""

    metrics: dict[str, float]
    panels: list[RetrievalPanel]
    pictures: list[Picture]
    written: tuple[Written, ...] = ()  # every text that the system wrote


def examine(evaluator: Evaluator, predictor: Predictor) -> Examined:
    """Runs an evaluator, embedding everything once; an evaluator of a kind that has no figures gives none."""
    if isinstance(evaluator, Retrieval):
        images, texts = evaluator.embed(predictor)
        return Examined(
            dict(evaluator.score(images, texts)),
            [retrieval_panel(evaluator, images, texts)],
            [_recall(evaluator, images, texts)],
        )
    if isinstance(evaluator, ZeroShot):
        images, classes = evaluator.embed(predictor)
        predicted = np.concatenate([(rows @ classes.T).argmax(axis=1) for rows in _blocks(images)])
        panel = ClassPanel(evaluator.name, evaluator.classes, evaluator.labels, predicted)
        return Examined(dict(evaluator.score(images, classes)), [], _classification(panel))
    if isinstance(evaluator, LinearProbe):
        outcome = evaluator.fit(*evaluator.embed(predictor))
        panel = ClassPanel(evaluator.name, evaluator.classes, evaluator.test.labels, outcome.predicted)
        caption = (
            f"{len(outcome.tried)} penalties tried on the validation pictures. The chosen one was fitted again with "
            f"training and validation pictures together, in {outcome.classifier.iterations} iterations"
            + ("." if outcome.classifier.converged else ", the most that are allowed: it has not converged.")
        )
        name = f"{stem(evaluator.name)}_sweep.png"
        sweep = Picture(name, evaluator.name, caption, to_png(sweep_curve(outcome.tried)))
        return Examined(dict(evaluator.score(outcome)), [], [sweep, *_classification(panel)])
    if isinstance(evaluator, WRITERS):
        values, written = evaluator.score(evaluator.write(predictor))
        shown = [text for text in written if text.image >= 0]
        return Examined(dict(values), [], [_written(evaluator, shown)] if shown else [], tuple(written))
    return Examined(dict(evaluator.run(predictor)), [], [])


def _written(evaluator: Captions | VQA | Presence | Choice, written: list[Written]) -> Picture:
    captions = isinstance(evaluator, Captions)
    score, right = ("CIDEr", 1.0) if captions else ("accuracy", 0.5)
    caption = (
        f"From the best {score} to the worst, evenly: in colour what the model wrote, green from {score} {right:g} on; "
        f"below it the score and {'a caption' if captions else 'an answer'} that people gave."
    )
    figure = written_figure(evaluator.images, spread(written), right, score)
    return Picture(f"{stem(evaluator.name)}_written.png", evaluator.name, caption, to_png(figure))


def _blocks(rows: np.ndarray, size: int = 4096) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _recall(evaluator: Retrieval, images: np.ndarray, texts: np.ndarray) -> Picture:
    sizes = {DIRECTIONS[0]: len(texts), DIRECTIONS[1]: len(images)}
    ks = np.unique(np.geomspace(1, max(sizes.values()), _CUTS).round().astype(np.int64))
    chance = {}
    for direction, size in sizes.items():
        count = evaluator.data.answers(direction)[2]
        few = count[np.linspace(0, len(count) - 1, min(len(count), 1000)).astype(int)]  # k x queries are held at once
        chance[direction] = np.asarray([chance_recall(few, size, int(k)) for k in ks])
    ranks = {direction: evaluator.ranks(images, texts, direction) for direction in DIRECTIONS}
    caption = f"{len(images):,} pictures and {len(texts):,} texts, in both directions."
    return Picture(
        f"{stem(evaluator.name)}_recall.png", evaluator.name, caption, to_png(recall_curve(ranks, chance, ks))
    )


def _classification(panel: ClassPanel) -> list[Picture]:
    most = [f"{panel.classes[right]} for {panel.classes[taken]} ({count} x)"
            for right, taken, count in panel.mistakes()[:5]]  # fmt: skip
    mistakes = f"Taken most often for another: {', '.join(most)}." if most else "Not one mistake."
    name = stem(panel.name)
    return [
        Picture(f"{name}_confusion.png", panel.name, mistakes, to_png(confusion(panel))),
        Picture(f"{name}_classes.png", panel.name, "How many pictures of each class are right.",
                to_png(class_bars(panel))),
    ]  # fmt: skip
