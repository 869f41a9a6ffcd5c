"""Retrieval in two steps: the nearest by cosine, then a network that looks at image and text together (ALBEF §4.1)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Shaped

from mmjax.core.errors import UserError
from mmjax.evals import retrieval
from mmjax.evals.base import Predictor, Rows, Tools, Value
from mmjax.evals.bootstrap import intervals
from mmjax.evals.prompts import normalise
from mmjax.evals.retrieval import DIRECTIONS, Retrieval

SCORES = ("match", "match+cosine")
"""ALBEF's score is the matching head's logit of "fits"; BLIP adds the cosine."""
UNSCORED = -100.0  # of what is not among the k nearest, as in the published code


class Chosen:
    """Rows of an array (or a lazy sequence) in another order, each read when it is asked for."""

    def __init__(self, rows: Rows, places: Int[np.ndarray, " K"]):
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> Any:
        return self._rows[int(self._places[index])]


@dataclass(frozen=True)
class States:
    """What `match` takes of all images and all texts, encoded once; in memory, as many bytes as the states have."""

    images: Shaped[np.ndarray, "N ..."]
    texts: Shaped[np.ndarray, "M T ..."]
    valid: Shaped[np.ndarray, "M T"]


def encode(predictor: Predictor, images: Rows, ids: np.ndarray, valid: np.ndarray) -> States:
    """The states of all images and texts.

    Raises:
      UserError: the system does not match image and text.
    """
    predictor.check("encode_states_image", "encode_states_text", "match")
    texts = predictor("encode_states_text", ids, valid)
    return States(predictor("encode_states_image", images), texts, valid)


def match_pairs(predictor: Predictor, states: States, pairs: Int[np.ndarray, "K 2"]) -> Float32[np.ndarray, "K 2"]:
    """Logits of (does not fit, fits) of (image, text) pairs, in batches of one size."""
    image, text = pairs[:, 0], pairs[:, 1]
    return predictor("match", Chosen(states.images, image), Chosen(states.texts, text), Chosen(states.valid, text))


@dataclass(frozen=True)
class Reranked:
    """The evaluator: `Retrieval`'s metrics under `{name}/cosine/…`, and those of the re-ranked order under `{name}/…`.

    Attributes:
      retrieval: pictures, texts and what belongs together; its name is this evaluator's.
      nearest: k, how many of the nearest by cosine are looked at again, in each direction (COCO 256, Flickr30k 128).
      score: one of SCORES.
    """

    retrieval: Retrieval
    nearest: int
    score: str = SCORES[0]

    @property
    def name(self) -> str:
        """Prefix of its metrics."""
        return self.retrieval.name

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Embeds, encodes and matches everything, and yields (name, value)."""
        base = self.retrieval
        ids, valid = base.tokenize(base.data.texts)
        states = encode(predictor, base.data.images, ids, valid)
        images = normalise(predictor.embed_image(base.data.images))
        texts = normalise(predictor.embed_text(ids, valid))
        for label, value in base.score(images, texts):
            yield label.replace(f"{self.name}/", f"{self.name}/cosine/", 1), value
        cosine = images @ texts.T
        for direction in DIRECTIONS:
            yield from self._metrics(direction, self.scores(predictor, states, cosine, direction))

    def scores(
        self, predictor: Predictor, states: States, cosine: Float32[np.ndarray, "N M"], direction: str
    ) -> Float32[np.ndarray, "Q G"]:
        """Scores of everything that asks against the whole gallery; what is not among the nearest has UNSCORED."""
        asks, _, _ = self.retrieval.data.answers(direction)
        forward = direction == DIRECTIONS[0]
        rows = (cosine if forward else cosine.T)[asks]
        nearest = np.argsort(-rows, axis=1, kind="stable")[:, : self.nearest]  # [Q, k]
        ask, found = np.repeat(asks, nearest.shape[1]), nearest.reshape(-1)
        pairs = np.stack([ask, found] if forward else [found, ask], axis=1)
        fits = match_pairs(predictor, states, pairs)[:, 1].reshape(nearest.shape)
        if self.score == "match+cosine":
            fits = fits + np.take_along_axis(rows, nearest, axis=1)
        out = np.full(rows.shape, UNSCORED, np.float32)
        np.put_along_axis(out, nearest, fits, axis=1)
        return out

    def _metrics(self, direction: str, scores: Float32[np.ndarray, "Q G"]) -> Iterator[Value]:
        base = self.retrieval
        _, answers, _ = base.data.answers(direction)
        right = np.where(answers >= 0, np.take_along_axis(scores, np.maximum(answers, 0), axis=1), -np.inf)
        best = right.max(axis=1, keepdims=True)
        ranks = 1 + (scores >= best).sum(axis=1) - (right >= best).sum(axis=1)  # a tie counts against the query
        hits = ranks[None, :] <= np.asarray(base.ks)[:, None]
        bounds = intervals(hits, resamples=base.resamples, seed=base.seed) if base.resamples else None
        for i, k in enumerate(base.ks):
            label = f"{self.name}/{direction}_R@{k}"
            yield label, float(hits[i].mean())
            if bounds is not None:
                yield f"{label}_lo", float(bounds[i, 0])
                yield f"{label}_hi", float(bounds[i, 1])
        yield f"{self.name}/{direction}_median_rank", float(np.median(ranks))

    def baselines(self) -> dict[str, dict[str, float]]:
        """As `Retrieval`'s."""
        return self.retrieval.baselines()


def build(name: str, options: Mapping[str, Any], tools: Tools) -> Reranked:
    """A Reranked from the options of a config.

    Options:
      nearest: k, default 128.
      score: "match" (default) or "match+cosine".
      others: as of `retrieval`, but for `templates`.

    Raises:
      UserError: an unknown, missing or unusable option.
    """
    rest = {key: value for key, value in options.items() if key not in ("nearest", "score")}
    nearest, score = options.get("nearest", 128), options.get("score", SCORES[0])
    if "templates" in rest:
        raise UserError("re-ranking looks at each text as it is: templates mean nothing here")
    if not isinstance(nearest, int) or isinstance(nearest, bool) or nearest < 1:
        raise UserError(f"nearest = {nearest!r}; valid: a whole number, at least 1")
    if score not in SCORES:
        raise UserError(f"score = {score!r}; valid: {', '.join(SCORES)}")
    return Reranked(retrieval.build(name, rest, tools), nearest, score)
