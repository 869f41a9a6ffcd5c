"""What classification evaluators share: labelled pictures of a source, class names, and accuracies."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from mmjax.core.errors import UserError
from mmjax.evals.base import Rows, Tools, Value
from mmjax.evals.bootstrap import interval
from mmjax.evals.images import Pictures, alternatives, examples

KS = (1, 5)


@dataclass(frozen=True)
class Labelled:
    """Pictures with the index of each one's class.

    Attributes:
      images: uint8[N, Y, X, 3], or a lazy sequence of uint8[Y, X, 3].
      labels: int[N].
    """

    images: Rows
    labels: Int[np.ndarray, " N"]

    def check(self, where: str, classes: int) -> None:
        """Raises UserError if there is nothing, or a label outside the classes."""
        if len(self.labels) != len(self.images) or not len(self.labels):
            raise UserError(f"{where}: {len(self.images)} images and {len(self.labels)} labels")
        if self.labels.min() < 0 or self.labels.max() >= classes:
            raise UserError(
                f"{where}: labels span {self.labels.min()} … {self.labels.max()}, but there are {classes} classes"
            )


def load_classes(classes: str | Sequence[str]) -> tuple[str, ...]:
    """Class names from a list, or from a text file with one name on each line.

    Raises:
      UserError: no such file, not UTF-8, fewer than two classes, or a repeated name.
    """
    if isinstance(classes, str):
        if not Path(classes).is_file():
            raise UserError(f"classes {classes!r} is not a file; give a list of names, or a file with one on each line")
        classes = read_lines("classes", classes)
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice or len(classes) < 2:
        raise UserError(f"classes needs two or more distinct names; there are {len(classes)}, repeated: {twice[:5]}")
    return tuple(classes)


def read_lines(what: str, path: str | Path) -> list[str]:
    """The lines of a text file that are not empty, without white space around them.

    Raises:
      UserError: the file is not UTF-8.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {str(path)!r} is not UTF-8: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def source_classes(source: Any) -> tuple[str, ...] | None:
    """The class names that a source has; None if it names none."""
    if not hasattr(source, "class_names"):
        return None
    try:
        return tuple(source.class_names()) or None
    except UserError:  # a source of this kind may name its classes, and this one does not
        return None


def read_labels(source: Any, key: str, tools: Tools, limit: int | None = None) -> tuple[Pictures, list[int | str]]:
    """Pictures of a source and the label of each, an index or a name.

    Raises:
      UserError: an example without the key, or a label that is neither an integer nor a text.
    """
    places, labels = list[tuple[int, int]](), list[int | str]()
    for index, example in examples(source, limit, tools):
        where = f"{key!r} of example {example.get('key', index)!r}"
        if key not in example:
            raise UserError(f"example {index} has no {key!r}; its keys are {sorted(example)}")
        label = example[key]
        if isinstance(label, float | np.floating) and float(label).is_integer():
            label = int(label)  # a column of CSV or Parquet with a missing value somewhere is read as floats
        if not isinstance(label, int | np.integer | str):
            raise UserError(f"{where} is {label!r}; a label is the index of a class, or its name")
        for alternative in range(len(alternatives(example))):
            places.append((index, alternative))
            labels.append(label if isinstance(label, str) else int(label))
    return Pictures(source, places, tools.preprocess), labels


def indices(
    labels: Sequence[int | str], classes: Sequence[str], key: str, own: Sequence[str] | None = None
) -> Int[np.ndarray, " N"]:
    """Labels as indices into the classes.

    Args:
      labels: names, or indices into `own`.
      classes: what is evaluated.
      key: of the labels, for messages.
      own: the names that the source itself has for its classes. Where the classes have the same names, in whatever
        order, names decide; else they are taken as other words for the same classes in the same order.

    Raises:
      UserError: a name that is no class, or another number of classes than the source's.
    """
    if own is not None and tuple(own) != tuple(classes):
        if set(own) <= set(classes):
            labels = [label if isinstance(label, str) or not 0 <= label < len(own) else own[label] for label in labels]
        elif len(own) != len(classes):
            raise UserError(f"the source has {len(own)} classes ({_some(own)}), and {len(classes)} names are given "
                            f"({_some(classes)}): neither the same names nor one for each")  # fmt: skip
    index_of = {name: i for i, name in enumerate(classes)}
    unknown = sorted({label for label in labels if isinstance(label, str) and label not in index_of})
    if unknown:
        more = f" and {len(unknown) - 1} more are not classes" if len(unknown) > 1 else " is not a class"
        raise UserError(f"{key} {unknown[0]!r}{more}; the first are {list(classes[:8])}")
    return np.asarray([index_of[label] if isinstance(label, str) else label for label in labels], np.int64)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def accuracies(
    name: str,
    ranks: Int[np.ndarray, " N"],
    labels: Int[np.ndarray, " N"],
    classes: Sequence[str],
    *,
    resamples: int,
    per_class: bool,
) -> Iterator[Value]:
    """`{name}/top1`, `{name}/top5` with `…_lo`, `…_hi`, `{name}/mean_per_class` and, if asked, `{name}/class/{class}`.

    Args:
      ranks: of the right class of each picture, from 1.
      labels: the right classes.
    """
    for k in KS:
        if k > 1 and k >= len(classes):
            continue  # always right
        hits = ranks <= k
        yield f"{name}/top{k}", float(hits.mean())
        if resamples:
            lo, hi = interval(hits, resamples=resamples)
            yield f"{name}/top{k}_lo", lo
            yield f"{name}/top{k}_hi", hi
    by_class = class_accuracy(ranks, labels)
    yield f"{name}/mean_per_class", float(np.mean(list(by_class.values())))
    if per_class:
        yield from ((f"{name}/class/{classes[c]}", value) for c, value in by_class.items())


def class_accuracy(ranks: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> dict[int, float]:
    """Share of the pictures of each class that occurs for which the class comes first."""
    return {int(c): float((ranks[labels == c] == 1).mean()) for c in np.unique(labels)}


def chance(name: str, classes: int) -> dict[str, dict[str, float]]:
    """What guessing scores, under the metrics' names."""
    return {"chance": {f"{name}/top{k}": k / classes for k in KS if k == 1 or k < classes}}


def score_ranks(scores: Float32[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Rank (from 1) of the right class by its score; a tie with a wrong class counts as a mistake."""
    right = np.take_along_axis(scores, labels[:, None], axis=1)
    return (scores >= right).sum(axis=1)
