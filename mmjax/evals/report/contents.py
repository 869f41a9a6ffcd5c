"""What a report shows, as plain arrays and numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from mmjax.evals.base import Rows
from mmjax.evals.retrieval import DIRECTIONS, Retrieval

_MOST_SCORES = 1 << 24  # similarities in a panel: 64 MiB


@dataclass(frozen=True)
class RetrievalPanel:
    """Pictures that ask for texts, and how similar the model finds them.

    Attributes:
      name: title of the panel.
      query_images: Q pictures, uint8[Y, X, 3] each.
      gallery_texts: G texts, in English (the figures' font has no other scripts).
      similarity: float32[Q, G].
      positives: int[Q, P], the right texts of each query, padded with -1.
      gallery_images: a picture for each text, or None.
    """

    name: str
    query_images: Rows
    gallery_texts: Sequence[str]
    similarity: Float32[np.ndarray, "Q G"]
    positives: Int[np.ndarray, "Q P"]
    gallery_images: Rows | None = None

    def right(self, query: int) -> list[int]:
        """Indices of a query's right texts."""
        return [int(i) for i in self.positives[query] if i >= 0]

    def ranks(self) -> Int[np.ndarray, " Q"]:
        """Rank of the best right text of each query; ties count against it."""
        valid = self.positives >= 0
        right = np.where(valid, np.take_along_axis(self.similarity, np.maximum(self.positives, 0), axis=1), -np.inf)
        best = right.max(axis=1, keepdims=True)
        return 1 + (self.similarity >= best).sum(axis=1) - (right >= best).sum(axis=1)

    def margins(self) -> Float32[np.ndarray, " Q"]:
        """By how much the best right text is ahead of the best wrong one (negative: behind)."""
        rows = np.arange(len(self.similarity))[:, None]
        wrong = self.similarity.copy()
        right = np.full_like(wrong, -np.inf)
        valid = np.where(self.positives >= 0, self.positives, self.positives[:, :1])  # padding repeats the first answer
        right[rows, valid] = wrong[rows, valid]
        wrong[rows, valid] = -np.inf
        return right.max(axis=1) - wrong.max(axis=1)


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows.

    Attributes:
      title: headline.
      metrics: final metrics; `{name}_lo` and `{name}_hi` are the interval of `{name}`.
      baselines: "chance", "pixel match", … -> scores under the metrics' names.
      history: rows of metrics.jsonl, each with `step`.
      panels: retrieval pictures.
      settings: section ("Run", "Model", …) -> what to list there, nested as it likes.
      summary: a sentence or two under the headline.
    """

    title: str
    metrics: Mapping[str, float | int]
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    panels: Sequence[RetrievalPanel] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summary: str = ""


def retrieval_panel(
    evaluator: Retrieval,
    images: Float32[np.ndarray, "N E"],
    texts: Float32[np.ndarray, "M E"],
    name: str | None = None,
) -> RetrievalPanel:
    """The panel of an evaluator from the embeddings that its `embed` returns.

    All pictures that ask are taken, or as many, spread evenly, as keep the similarities within 64 MiB.
    """
    data = evaluator.data
    asks, answers, _ = data.answers(DIRECTIONS[0])
    most = max(1, _MOST_SCORES // len(texts))
    if len(asks) > most:
        picked = np.linspace(0, len(asks) - 1, most).round().astype(int)
        asks, answers = asks[picked], answers[picked]
    pictures = data.text_images
    if pictures is None:  # a caption is shown with its first picture
        back, count = data.answers(DIRECTIONS[1])[1:]
        pictures = _Chosen(data.images, back[:, 0]) if len(count) == len(data.texts) else None
    return RetrievalPanel(
        name or evaluator.name, _Chosen(data.images, asks), data.texts, images[asks] @ texts.T, answers, pictures
    )


class _Chosen:
    """Some rows of a sequence, read when asked for."""

    def __init__(self, rows: Rows, chosen: np.ndarray):
        self._rows, self._chosen = rows, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int, /) -> Any:
        return self._rows[int(self._chosen[index])]
