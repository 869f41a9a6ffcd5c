"""Images and texts alone beside pairs: batches of three kinds, each from sources of its own (masked data modelling).

    c.data.train = "webdataset:pairs/*.tar"
    c.data.alone = {"image": {"train": "folder:photos"}, "text": {"train": {"text:wiki/*.txt": 3, "text:news.txt": 1}}}
    c.data.task = {"kind": "masked", "modality": "all"}

A kind without a source of its own is made of the pairs, by the system. A stage whose task is of images (or of texts)
alone reads that source in the place of `train`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.core.config import check_keys, check_types
from mmjax.core.errors import UserError
from mmjax.data import ledger
from mmjax.data.pipeline import DROPPED, NumpyBatch, Pipeline, PipelineIterator

ALONE = {"image": ("image",), "text": ("ids", "valid", "begins")}  # kind -> keys of its rows in a batch
PREFIX = "alone_"  # of these keys, beside those of the pairs
OPTIONS = {
    "train": "source spec, or {spec: weight}; empty: the pairs'",
    "share": "rows for each row of pairs, default 1 (BEiT-3: 2,048 images, 2,048 texts, 2,048 pairs)",
    "text_length": "tokens of a text alone, default as the pairs have",
}


def own_sources(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Kind -> its options, of `config.data.alone`; kinds without a source of their own are left out.

    Raises:
      UserError: an unknown kind or option, or a value of another type.
    """
    given = data.get("alone") or {}
    check_keys("config.data.alone", given, tuple(ALONE))
    check_types("config.data.alone", given, dict.fromkeys(given, "mapping"))
    found: dict[str, dict[str, Any]] = {}
    for kind, options in given.items():
        where = f"config.data.alone.{kind}"
        check_keys(where, options or {}, OPTIONS)
        check_types(where, options or {}, {"share": "number", "text_length": "whole"})
        train = (options or {}).get("train")
        if train and not isinstance(train, str | Mapping):
            raise UserError(f"{where}.train = {train!r}; valid: a source's spec, or a mapping from specs to weights")
        if train:
            found[kind] = dict(options)
    return found


def rows_of(kind: str, options: Mapping[str, Any], batch_size: int) -> int:
    """Rows of a kind beside so many pairs.

    Raises:
      UserError: none.
    """
    rows = round(batch_size * options.get("share", 1.0))
    if rows < 1:
        share = options.get("share", 1.0)
        raise UserError(f"config.data.alone.{kind}.share = {share} of {batch_size} pairs is {rows} rows; valid: 1 up")
    return rows


class Mixture:
    """Batches of pairs, and in each of them rows of images alone, of texts alone, or both.

    Batch k has batch k of every part, so that it is a function of its number alone, as a `Pipeline`'s is, and the
    state of an iterator is one number: it has the fields of a `Pipeline` that training reads. `index`, `rows`,
    `batch_size` and `epoch` are those of the pairs; what could not be used is told of every part.

    Args:
      pairs: the pipeline of the pairs.
      alone: kind -> its pipeline, whose batches have that kind's keys.
    """

    def __init__(self, pairs: Pipeline, alone: Mapping[str, Pipeline]) -> None:
        self.parts: dict[str, Pipeline] = {"": pairs, **alone}
        self.rows, self.batch_size = pairs.rows, pairs.batch_size
        self.workers, self.threads, self.read_ahead = pairs.workers, pairs.threads, pairs.read_ahead
        self.batches = _Joined({kind: part.batches for kind, part in self.parts.items()})
        self.fingerprint = {kind or "pair": part.fingerprint for kind, part in self.parts.items()}
        self.lengths: dict[str, int] = {}
        for part in self.parts.values():
            self.lengths |= part.lengths

    @property
    def apart(self) -> dict[str, tuple[Sequence[int] | np.ndarray, int]]:
        """Key of a batch -> (rows made here, rows of the global batch), for what has others than the pairs."""
        return {
            PREFIX + key: (part.rows, part.batch_size)
            for kind, part in self.parts.items()
            for key in ALONE.get(kind, ())
        }

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> NumpyBatch:
        batch = self.batches[step]
        batch.pop(DROPPED, None)
        return batch

    def __iter__(self) -> PipelineIterator:
        return PipelineIterator(self)

    def epoch(self, step: int) -> float:
        """Epochs of the pairs seen after `step` batches."""
        return self.parts[""].epoch(step)

    def seen(self, step: int) -> dict[str, int]:
        """How many distinct places of each source `step` global batches visit; of one that two parts read, each in an
        order of its own, about as many."""
        unseen = dict.fromkeys(self.lengths, 1.0)
        for part in self.parts.values():
            for name, count in part.seen(step).items():
                unseen[name] *= 1 - count / part.lengths[name]
        return {name: round(length * (1 - unseen[name])) for name, length in self.lengths.items()}


@dataclasses.dataclass(frozen=True)
class _Joined:
    """Random access to the batches of several pipelines at once."""

    parts: Mapping[str, Any]  # kind -> a pipeline's `batches`; "" has the pairs
    pack: int = 1

    def __len__(self) -> int:
        return min(len(part) for part in self.parts.values())

    def __getitem__(self, step: Any) -> NumpyBatch:
        joined: NumpyBatch = {}
        bad: list[ledger.Dropped] = []
        for kind, part in self.parts.items():
            batch = dict(part[step])
            packed = batch.pop(DROPPED, None)
            bad += [] if packed is None else ledger.unpack(packed)
            joined |= {PREFIX + key: batch[key] for key in ALONE[kind] if key in batch} if kind else batch
        return {**joined, DROPPED: ledger.pack(bad)} if bad else joined
