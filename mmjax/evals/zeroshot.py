"""Zero-shot classification: the class whose prompt ensemble lies nearest to the image (CLIP §3.1)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from mmjax.core.errors import UserError
from mmjax.evals import classes as labelling
from mmjax.evals.base import Predictor, Rows, Tokenize, Tools, Value, check_options
from mmjax.evals.classes import Labelled, load_classes
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
        Labelled(self.images, self.labels).check(self.name, len(self.classes))

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Embeds images and classes and yields (name, value)."""
        yield from self.score(*self.embed(predictor))

    def embed(self, predictor: Predictor) -> tuple[Float32[np.ndarray, "N E"], Float32[np.ndarray, "C E"]]:
        """Unit embeddings of all images and of all classes."""
        classes = embed_ensemble(predictor, self.tokenize, self.classes, self.templates)
        return normalise(predictor.embed_image(self.images)), classes

    def score(self, images: Float32[np.ndarray, "N E"], classes: Float32[np.ndarray, "C E"]) -> Iterator[Value]:
        """(name, value) from embeddings; a tie between classes counts as a mistake."""
        ranks = best_ranks(images, classes, self.labels[:, None])
        yield from labelling.accuracies(
            self.name, ranks, self.labels, self.classes, resamples=self.resamples, per_class=self.per_class
        )

    def baselines(self) -> dict[str, dict[str, float]]:
        """What guessing scores, under the same names."""
        return labelling.chance(self.name, len(self.classes))


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
    own = labelling.source_classes(source)
    named = options.get("classes", own)
    if named is None:
        raise UserError(f"source {options['data']!r} names no classes; give the option 'classes'")
    classes = load_classes(named)
    pictures, labels = labelling.read_labels(source, key, tools, options.get("limit"))
    return ZeroShot(
        name,
        pictures,
        labelling.indices(labels, classes, key, own),
        classes,
        load_templates(options.get("templates", "photo")),
        tools.tokenize,
        int(options.get("resamples", 1000)),
        bool(options.get("per_class", False)),
    )
