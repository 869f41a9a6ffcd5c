"""Statements about one picture or several, judged by a classifier: NLVR2, SNLI-VE, and whatever has such a form."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from mmjax.core.errors import UserError
from mmjax.evals import classes as labelling
from mmjax.evals.base import Predictor, Rows, Tokenize, Tools, Value, check_options
from mmjax.evals.bootstrap import mean_and_interval
from mmjax.evals.classes import load_classes
from mmjax.evals.images import alternatives, examples


@dataclass(frozen=True)
class Verdict:
    """The evaluator. Yields `{name}/top1` (accuracy) and `{name}/mean_per_class`; and where the data say which examples
    share a sentence `{name}/consistency`, NLVR2's share of the sentences that are judged rightly in all their examples;
    `…_lo`, `…_hi` of both shares.

    Attributes:
      name: prefix of the metrics.
      images: uint8[N, Y, X, 3] or [N, I, Y, X, 3], or a lazy sequence.
      texts: N statements. labels: int[N]. classes: their names.
      sentences: N names of sentences, equal for examples of one sentence; None: not known.

    Source: Suhr et al. 2019 (NLVR2), §5, and its program `eval/metrics.py`.
    """

    name: str
    images: Rows
    texts: Sequence[str]
    labels: Int[np.ndarray, " N"]
    classes: Sequence[str]
    tokenize: Tokenize
    resamples: int = 1000
    sentences: Sequence[str] | None = None

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Judges all statements and yields (name, value)."""
        predictor.check("logits")
        ids, valid = self.tokenize(self.texts)
        yield from self.score(predictor.over("logits", {"image": self.images, "ids": ids, "valid": valid}))

    def score(self, logits: Float32[np.ndarray, "N C"]) -> Iterator[Value]:
        """(name, value) from logits; a tie counts as a mistake."""
        if logits.shape[1] != len(self.classes):
            raise UserError(f"the classifier has {logits.shape[1]} classes, the data {len(self.classes)}")
        right = np.take_along_axis(logits, self.labels[:, None], axis=1)
        ranks = (logits >= right).sum(axis=1)
        values = labelling.accuracies(
            self.name, ranks, self.labels, self.classes, resamples=self.resamples, per_class=False
        )
        yield from ((name, value) for name, value in values if "top5" not in name)
        if self.sentences is not None:
            whole = self.consistent(ranks == 1)
            yield from mean_and_interval(f"{self.name}/consistency", whole, self.resamples)

    def consistent(self, right: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " S"]:
        """Of each sentence whether all its examples are right."""
        assert self.sentences is not None
        _, which = np.unique(np.asarray(self.sentences), return_inverse=True)
        return np.bincount(which, weights=~right) == 0

    def baselines(self) -> dict[str, dict[str, float]]:
        """The commonest class for all."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        found = {f"{self.name}/top1": float(counts.max() / counts.sum())}
        if self.sentences is not None:
            found[f"{self.name}/consistency"] = float(self.consistent(self.labels == counts.argmax()).mean())
        return {"chance": found}


class _Together:
    """The pictures of each example: one, or several stacked."""

    def __init__(self, source: Any, places: Sequence[int], preprocess: Callable[[np.ndarray], np.ndarray]):
        self._source, self._places, self._preprocess = source, places, preprocess

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> np.ndarray:
        example = self._source[self._places[index]]
        if "pictures" in example:
            return np.stack([self._preprocess(picture) for picture in example["pictures"]])
        return self._preprocess(alternatives(example)[0])


def build(name: str, options: Mapping[str, Any], tools: Tools) -> Verdict:
    """A Verdict from the options of a config.

    Options:
      data: source spec; examples hold `texts`, `label`, and `image` or several `pictures`; all of them or none also
        `sentence_id`, as the source nlvr2 has it from the identifiers of its rows.
      classes: names, or a file of them; default: the source's own. limit, resamples.

    Raises:
      UserError: an unknown, missing or unusable option, examples without a label, or some alone with a sentence_id.
    """
    check_options("verdict", options, ("data", "classes", "limit", "resamples"), required=("data",))
    source = tools.open_source(options["data"])
    named = options.get("classes", labelling.source_classes(source))
    if named is None:
        raise UserError(f"source {options['data']!r} names no classes; give the option 'classes'")
    places, texts, labels, sentences = list[int](), list[str](), list[int](), list[str]()
    for index, example in examples(source, options.get("limit"), tools):
        if "label" not in example:
            raise UserError(f"example {index} has no 'label'; it has {sorted(example)}")
        places.append(index)
        texts.append(example["texts"][0])
        labels.append(int(example["label"]))
        sentences += [str(example["sentence_id"])] if "sentence_id" in example else []
    if len(sentences) not in (0, len(labels)):
        raise UserError(f"{len(sentences)} of {len(labels)} examples have a 'sentence_id'; valid: all of them, or none")
    images = _Together(source, places, tools.preprocess)
    return Verdict(
        name, images, texts, np.asarray(labels, np.int64), load_classes(named), tools.tokenize,
        int(options.get("resamples", 1000)), sentences or None,
    )  # fmt: skip
