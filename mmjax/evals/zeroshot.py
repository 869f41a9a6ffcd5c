"""Zero-shot classification: the class whose prompt ensemble lies nearest to the image (CLIP §3.1)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from mmjax.core.errors import UserError
from mmjax.evals.base import Predictor, Rows, Tokenize, Tools, Value, check_options
from mmjax.evals.bootstrap import interval
from mmjax.evals.images import Pictures, alternatives, examples
from mmjax.evals.prompts import embed_ensemble, load_templates, normalise
from mmjax.evals.ranking import best_ranks


@dataclass(frozen=True)
class ZeroShot:
    """The evaluator. Yields `{name}/top1`, `{name}/top5` with `…_lo`, `…_hi`, and `{name}/mean_per_class`.

    Attributes:
      name: prefix of the metrics.
      images: uint8[N, Y, X, 3], or a lazy sequence of uint8[Y, X, 3].
      labels: int[N], index of each image's class.
      classes: names of the classes.
      templates: prompt ensemble, each with one `{}`.
      tokenize: texts -> (ids, valid).
      per_class: also yield `{name}/class/{class}`.
    """

    name: str
    images: Rows
    labels: Int[np.ndarray, " N"]
    classes: Sequence[str]
    templates: Sequence[str]
    tokenize: Tokenize
    resamples: int = 1000
    per_class: bool = False

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.images) or not len(self.labels):
            raise UserError(f"{self.name}: {len(self.images)} images and {len(self.labels)} labels")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise UserError(
                f"{self.name}: labels span {self.labels.min()} … {self.labels.max()}, "
                f"but there are {len(self.classes)} classes"
            )

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Embeds images and classes and yields (name, value)."""
        classes = embed_ensemble(predictor, self.tokenize, self.classes, self.templates)
        yield from self.score(normalise(predictor.embed_image(self.images)), classes)

    def score(self, images: Float32[np.ndarray, "N E"], classes: Float32[np.ndarray, "C E"]) -> Iterator[Value]:
        """(name, value) from embeddings; a tie between classes counts as a mistake."""
        ranks = best_ranks(images, classes, self.labels[:, None])
        for k in (1, 5):
            if k > 1 and k >= len(self.classes):
                continue  # always right
            hits = ranks <= k
            yield f"{self.name}/top{k}", float(hits.mean())
            if self.resamples:
                lo, hi = interval(hits, resamples=self.resamples)
                yield f"{self.name}/top{k}_lo", lo
                yield f"{self.name}/top{k}_hi", hi
        seen = np.unique(self.labels)
        accuracy = {int(c): float((ranks[self.labels == c] == 1).mean()) for c in seen}
        yield f"{self.name}/mean_per_class", float(np.mean(list(accuracy.values())))
        if self.per_class:
            yield from ((f"{self.name}/class/{self.classes[c]}", value) for c, value in accuracy.items())

    def baselines(self) -> dict[str, dict[str, float]]:
        """What guessing scores, under the same names."""
        size = len(self.classes)
        return {"chance": {f"{self.name}/top{k}": k / size for k in (1, 5) if k == 1 or k < size}}


def load_classes(classes: str | Sequence[str]) -> tuple[str, ...]:
    """Class names from a list, or from a text file with one name on each line.

    Raises:
      UserError: no such file, fewer than two classes, or a repeated name.
    """
    if isinstance(classes, str):
        if not Path(classes).is_file():
            raise UserError(f"classes {classes!r} is not a file; give a list of names, or a file with one on each line")
        lines = Path(classes).read_text(encoding="utf-8").splitlines()
        classes = [line.strip() for line in lines if line.strip()]
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice or len(classes) < 2:
        raise UserError(f"classes needs two or more distinct names; there are {len(classes)}, repeated: {twice[:5]}")
    return tuple(classes)


OPTIONS = ("data", "classes", "templates", "label", "resamples", "limit", "per_class")


def build(name: str, options: Mapping[str, Any], tools: Tools) -> ZeroShot:
    """A ZeroShot from the options of a config.

    Options:
      data: source spec; every example holds `label` (or the key that the option `label` names): the index of its
        class, or the class's name.
      classes: names of the classes, or a file of them; default: the source's own `class_names()`.
      templates: prompt ensemble: a list, a file, or the name of a built-in set (default "photo").
      resamples, per_class: see ZeroShot. limit: at most this many examples, spread evenly over the source.

    Raises:
      UserError: an unknown, missing or unusable option.
    """
    check_options("zeroshot", options, OPTIONS, required=("data",))
    source, key = tools.open_source(options["data"]), options.get("label", "label")
    if "classes" not in options and not hasattr(source, "class_names"):
        raise UserError(f"source {options['data']!r} names no classes; give the option 'classes'")
    named = options["classes"] if "classes" in options else source.class_names()
    classes = load_classes(named)
    index_of = {class_name: i for i, class_name in enumerate(classes)}
    places, labels = [], []
    for index, example in examples(source, options.get("limit")):
        if key not in example:
            raise UserError(f"example {index} has no {key!r}; its keys are {sorted(example)}")
        label = index_of.get(example[key]) if isinstance(example[key], str) else int(example[key])
        if label is None:
            raise UserError(f"{key} {example[key]!r} is not a class; the first are {classes[:8]}")
        for alternative in range(len(alternatives(example))):
            places.append((index, alternative))
            labels.append(label)
    return ZeroShot(
        name,
        Pictures(source, places, tools.preprocess),
        np.asarray(labels, np.int64),
        classes,
        load_templates(options.get("templates", "photo")),
        tools.tokenize,
        int(options.get("resamples", 1000)),
        bool(options.get("per_class", False)),
    )
