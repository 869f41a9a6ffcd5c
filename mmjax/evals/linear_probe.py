"""Linear probe: how well a linear classifier on frozen image features does (CLIP §3.2 and appendix A.3)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from mmjax.core.errors import UserError
from mmjax.evals import classes as labelling
from mmjax.evals.base import Predictor, Tools, Value, check_options
from mmjax.evals.classes import Labelled, score_ranks
from mmjax.evals.logistic import Classifier, Tried, fit, sweep

FEATURES = {
    "pooled": "pool_image",  # the image tower's own state: what the paper reads
    "projected": "encode_image",  # in the space that images and texts share
    "unit": "embed_image",  # the same, of length one
}


@dataclass(frozen=True)
class Outcome:
    """What a probe learned and how it did.

    Attributes:
      tried: every penalty of the sweep with its accuracy on the validation set, the chosen one first.
      classifier: fitted to training and validation pictures together, with the chosen penalty.
      train_accuracy: on these.
      ranks: int[Q], of the right class of every test picture, from 1.
      predicted: int[Q], the class that comes first.
    """

    tried: Sequence[Tried]
    classifier: Classifier
    train_accuracy: float
    ranks: Int[np.ndarray, " Q"]
    predicted: Int[np.ndarray, " Q"]


@dataclass(frozen=True)
class LinearProbe:
    """The evaluator. Multinomial logistic regression by L-BFGS on features of the frozen image tower; the L2 penalty is
    chosen on a validation set, then training and validation pictures are fitted together and the test pictures scored.

    Yields `{name}/top1`, `{name}/top5` with `…_lo`, `…_hi` (bootstrap over test pictures), `{name}/mean_per_class`,
    `{name}/log10_l2` (the penalty that was chosen), `{name}/top1_validation` and `{name}/top1_train`.

    Attributes:
      name: prefix of the metrics.
      train, test: labelled pictures.
      classes: names of the classes.
      validation: pictures to choose the penalty by; None takes a share of the training pictures, class by class.
      features: one of FEATURES.
      share: of the training pictures that validate, at least one of each class left to train on.
      per_class: also yield `{name}/class/{class}`.
      seed: of the split.
      max_iterations: of every L-BFGS search.
    """

    name: str
    train: Labelled
    test: Labelled
    classes: Sequence[str]
    validation: Labelled | None = None
    features: str = "pooled"
    share: float = 0.2
    resamples: int = 1000
    per_class: bool = False
    seed: int = 0
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise UserError(f"{self.name}: features {self.features!r} is not one of {list(FEATURES)}")
        if not 0 < self.share < 1:
            raise UserError(f"{self.name}: the share of validation pictures lies between 0 and 1, not at {self.share}")
        for where, part in (("train", self.train), ("test", self.test), ("validation", self.validation)):
            if part is not None:
                part.check(f"{self.name}, {where}", len(self.classes))
        if len(np.unique(self.train.labels)) < 2:
            raise UserError(f"{self.name}: a probe needs training pictures of two classes or more")

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Embeds all pictures, fits, and yields (name, value)."""
        yield from self.score(self.fit(*self.embed(predictor)))

    def embed(self, predictor: Predictor) -> tuple[Float32[np.ndarray, "N D"], Float32[np.ndarray, "Q D"]]:
        """Features of training and validation pictures (in this order), and of test pictures."""
        method = FEATURES[self.features]
        train = [predictor(method, part.images) for part in (self.train, self.validation) if part is not None]
        return np.concatenate(train), predictor(method, self.test.images)

    def fit(self, train: Float32[np.ndarray, "N D"], test: Float32[np.ndarray, "Q D"]) -> Outcome:
        """Chooses the penalty, fits, and classifies the test pictures, from features."""
        labels, held_out = self._training()
        # Classes without a training picture are left out of the fit (their optimum lies at infinity) and never chosen.
        seen, target = np.unique(labels, return_inverse=True)
        weights, last = (~held_out).astype(np.float32), list[Classifier]()

        def try_out(l2: float) -> Tried:
            last[:] = [self._fit(train, target, len(seen), l2, weights, last[0] if last else None)]
            logits = last[0].logits(train[held_out])
            hits = score_ranks(logits, target[held_out]) == 1
            return Tried(l2, float(hits.mean()), _cross_entropy(logits, target[held_out]), last[0].iterations)

        tried = sweep(try_out)
        found = self._fit(train, target, len(seen), tried[0].l2, np.ones_like(weights), last[0])
        scores = np.full((len(test), len(self.classes)), -np.inf, np.float32)
        scores[:, seen] = found.logits(test)
        return Outcome(
            tried,
            found,
            float((found.logits(train).argmax(axis=1) == target).mean()),
            score_ranks(scores, self.test.labels),
            scores.argmax(axis=1),
        )

    def score(self, outcome: Outcome) -> Iterator[Value]:
        """(name, value) from what `fit` returns; a tie between classes counts as a mistake."""
        yield from labelling.accuracies(
            self.name, outcome.ranks, self.test.labels, self.classes, resamples=self.resamples, per_class=self.per_class
        )
        yield f"{self.name}/log10_l2", math.log10(outcome.tried[0].l2)
        yield f"{self.name}/top1_validation", outcome.tried[0].accuracy
        yield f"{self.name}/top1_train", outcome.train_accuracy

    def baselines(self) -> dict[str, dict[str, float]]:
        """What guessing scores, and what the most frequent training class alone does, under the same names."""
        most = np.bincount(self.train.labels).argmax()
        constant = {f"{self.name}/top1": float((self.test.labels == most).mean())}
        return {**labelling.chance(self.name, len(self.classes)), "most frequent class": constant}

    def _training(self) -> tuple[Int[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
        """Labels of training and validation pictures, and which of them validate."""
        if self.validation is not None:
            # A class that only validates cannot be fitted while the penalty is chosen: its pictures join the training.
            new = ~np.isin(self.validation.labels, self.train.labels)
            held_out = np.concatenate([np.zeros(len(self.train.labels), bool), ~new])
            labels = np.concatenate([self.train.labels, self.validation.labels])
        else:
            labels = self.train.labels
            held_out = split(labels, self.share, self.seed)
        if not held_out.any():
            raise UserError(
                f"{self.name}: no picture is left to choose the penalty by; every class has one training picture or "
                "none. Give validation data with pictures of the same classes"
            )
        return labels, held_out

    def _fit(
        self,
        features: Float32[np.ndarray, "N D"],
        labels: Int[np.ndarray, " N"],
        classes: int,
        l2: float,
        weights: Float32[np.ndarray, " N"],
        start: Classifier | None,
    ) -> Classifier:
        return fit(features, labels, classes, l2, weights=weights, start=start, max_iterations=self.max_iterations)


def split(labels: Int[np.ndarray, " N"], share: float, seed: int) -> Bool[np.ndarray, " N"]:
    """Which examples validate: of each class the share of them, rounded, but not all; drawn at random."""
    held_out = np.zeros(len(labels), bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        held_out[places[: min(max(1, round(share * len(places))), len(places) - 1)]] = True
    return held_out


def _cross_entropy(logits: Float32[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sum - np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]).mean())


OPTIONS = ("data", "train_data", "validation_data", "classes", "label", "features", "share", "resamples", "limit",
           "per_class", "seed", "max_iterations")  # fmt: skip


def build(name: str, options: Mapping[str, Any], tools: Tools) -> LinearProbe:
    """A LinearProbe from the options of a config.

    Options:
      data: source spec of the test pictures. train_data: of the training pictures. validation_data: of those that
        choose the penalty; default: a `share` (default 0.2) of the training pictures, drawn with `seed`.
      label: key of the label in every example (default "label"): the index of its class, or the class's name.
      classes: names of the classes, or a file of them; default: the training source's own `class_names()`, or the
        labels that occur in it.
      limit: at most this many examples of each source, spread evenly over it.
      features, resamples, per_class, max_iterations: see LinearProbe.

    Raises:
      UserError: an unknown, missing or unusable option.
    """
    check_options("linear_probe", options, OPTIONS, required=("data", "train_data"))
    key, limit = options.get("label", "label"), options.get("limit")
    parts = {part: tools.open_source(options[part]) for part in ("train_data", "data", "validation_data")
             if part in options}  # fmt: skip
    named = {part: labelling.source_classes(source) for part, source in parts.items()}
    read = {part: labelling.read_labels(source, key, tools, limit) for part, source in parts.items()}
    classes = labelling.load_classes(options["classes"]) if "classes" in options else named["train_data"]
    if classes is None:
        classes = _occurring([label for _, labels in read.values() for label in labels])
    found = {
        part: Labelled(pictures, labelling.indices(labels, classes, key, named[part]))
        for part, (pictures, labels) in read.items()
    }
    kept = {key: options[key] for key in ("features", "share", "resamples", "per_class", "seed", "max_iterations")
            if key in options}  # fmt: skip
    return LinearProbe(name, found["train_data"], found["data"], classes, found.get("validation_data"), **kept)


def _occurring(labels: Sequence[int | str]) -> tuple[str, ...]:
    """Names for labels that nobody names: the texts in their order, or the numbers from 0 to the last."""
    if all(isinstance(label, str) for label in labels):
        return tuple(sorted({str(label) for label in labels}))
    if any(isinstance(label, str) for label in labels):
        raise UserError("some labels are numbers and some are names; give the names in the option 'classes'")
    return tuple(str(i) for i in range(max(int(label) for label in labels) + 1))
