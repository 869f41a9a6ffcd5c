"""From sources to batches: shuffle, mix, augment, tokenise and batch, every batch a function of its number alone.

Batch number k can be made without the ones before it. That is why the state of an iterator is one number, why any
count of workers and processes gives the same global batches, and why a resumed run continues bit for bit.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags, logging

from mmjax.core.errors import UserError
from mmjax.data import ledger, tasks
from mmjax.data.example import NO_PICTURE
from mmjax.data.fingerprint import describe, differences, plain
from mmjax.data.load import Check, Examples, Load
from mmjax.data.rows import no_room
from mmjax.data.task import Whole
from mmjax.data.workers import follow_parent

ImageTransform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
TextTransform = Callable[[Mapping[str, Any], np.random.Generator], str]
NumpyBatch = dict[str, np.ndarray]

STATE_VERSION = 1
# grain's shuffle needs no memory, but searches in a space of 2^16: 20 us for one of 1,600 places, 2 ms for one of 16.
# Shorter sources keep their permutation instead.
SMALL = 2**16
DROPPED = "dropped"  # key under which a batch carries what could not be used, packed; readers of batches never see it


@runtime_checkable
class Tokenizer(Protocol):
    """What the pipeline needs of a tokenizer."""

    @property
    def digest(self) -> str:
        """Equal digests: equal ids for every text."""
        ...

    def batch(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """ids int32[B, T] and valid bool[B, T]."""
        ...


class Pipeline:
    """Endless (or `epochs` long), shuffled, mixed and augmented batches of images and texts, and what else a task has.

    A batch is a dict of numpy arrays: `image` uint8[b, Y, X, 3], `ids` int32[b, T], `valid` bool[b, T] and `index`
    int64[b], the place of each example in the sources laid end to end. b = batch_size, or len(rows). Where a task puts
    several examples into a row (its `pack`), `index` is the first one's.

    Every epoch of a source is a new permutation. An epoch of the whole is as long as its first source to end; sources
    go on from where they are in the next one. All randomness of a sample comes from (seed, its place in the global
    order), so whoever makes some rows of a global batch makes the rows that another would have made there.

    `pipeline[k]` is batch k; `iter(pipeline)` reads ahead in threads (and in worker processes) and has a state.

    Args:
      sources: one source, or name (best its spec: it becomes part of the state) -> source.
      tokenizer: see `Tokenizer`.
      length: tokens per text, T.
      image: image transform, `augment.from_config(…)`.
      text: text transform, `text.from_config(…)`.
      task: what of an example a batch has, `tasks.from_config(…)`; an image and a text unless told.
      batch_size: rows of a global batch, each of one example, or of as many as the task's `pack`.
      seed: of the order and of the transforms.
      weights: name -> share of the examples; without it, sources count by their lengths.
      shuffle: False keeps the order of the sources (and their interleaving by weight).
      epochs: None for ever.
      drop_remainder: True ends each epoch after its last full batch. False lets batches run across epochs; then the
        very last batch may be shorter.
      rows: which rows of every global batch are made here, ascending (`core.sharding.local_rows`); None: all.
      text_buckets: lengths below `length`, ascending: `ids` and `valid` are cut to the smallest of them that holds the
        longest text of the global batch, whichever rows are made here. To know it, all texts of the batch are read
        everywhere, without their images: these are decoded for `rows` alone, and draw from generators of their own.
        What stands in for an example whose image cannot be decoded is not known everywhere: its text is cut, should it
        be the longest.
      workers: processes that make batches; 0 makes them in threads of this one. The stream is the same.
      threads: per worker (or in this process). More than one pays when sources wait for a disk or decode large files.
      read_ahead: batches kept ready per worker (or in this process); each takes memory.

    Raises:
      UserError: sizes that do not fit, empty sources, weights that are not for the sources.
    """

    def __init__(
        self,
        sources: Examples | Mapping[str, Examples],
        *,
        tokenizer: Tokenizer,
        length: int,
        image: ImageTransform,
        text: TextTransform,
        task: tasks.Task | None = None,
        batch_size: int,
        seed: int = 0,
        weights: Mapping[str, float | int] | None = None,
        shuffle: bool = True,
        epochs: int | None = None,
        drop_remainder: bool = True,
        rows: Sequence[int] | None = None,
        text_buckets: Sequence[int] = (),
        workers: int = 0,
        threads: int = 1,
        read_ahead: int = 2,
    ):
        named = dict(sources) if isinstance(sources, Mapping) else {getattr(sources, "name", "source"): sources}
        shares = _shares(named, weights)
        _check_sizes(batch_size, length, epochs, workers, threads, read_ahead)
        whole = range(batch_size)
        self.rows = whole if rows is None or list(rows) == list(whole) else np.asarray(rows, np.int64)
        if not len(self.rows) or self.rows[0] < 0 or self.rows[-1] >= batch_size or (np.diff(self.rows) < 1).any():
            raise UserError(f"rows {rows} of a batch of {batch_size}; valid: some of 0 … {batch_size - 1}, ascending")

        task = task or tasks.Pairs()
        without = getattr(task, "without", ())
        buckets, check = (
            _check_buckets(() if "ids" in without else text_buckets, length),
            functools.partial(_check, task, text, tokenizer, length),
        )
        if buckets and isinstance(task, Whole):
            raise UserError(
                f"data text_buckets = {buckets}: the rows of this task are not cut to buckets; leave it out"
            )
        pack = getattr(task, "pack", 1)
        self.each = batch_size * pack  # examples of a batch
        samples, epoch = _samples(named, shares, seed, shuffle, check, images="image" not in without)
        texts = _samples(named, shares, seed, shuffle, check, images=False)[0] if buckets else None
        if drop_remainder:
            if epoch < self.each:
                raise UserError(
                    f"batch_size {batch_size} is larger than one epoch ({epoch} examples"
                    f"{f', {pack} a row' if pack > 1 else ''}); valid: at most {epoch // pack}, or "
                    "drop_remainder=False, which lets batches run across epochs"
                )
            epoch = epoch // self.each * self.each
            samples, texts = samples[:epoch], texts and texts[:epoch]
        samples = samples.repeat(epochs)
        if len(samples) % self.each and epochs is not None and (len(self.rows) < batch_size or pack > 1):
            raise UserError(
                f"{len(samples)} examples leave a short last batch of {len(samples) % self.each}, which "
                "several processes, or rows of several examples, cannot share; valid: drop_remainder=True"
            )
        own = derive(seed, "transform")
        samples = samples.random_map(_Transform(_Apart(image) if buckets else image, text, task), seed=own)
        texts = texts and texts.repeat(epochs).random_map(_Transform(_Apart(None), text, task), seed=own)
        self.samples_per_epoch = epoch
        self.lengths = {name: len(source) for name, source in named.items()}
        self._shares = shares
        self.batch_size = batch_size
        self.workers, self.threads, self.read_ahead = workers, threads, read_ahead
        self.batches = _Batches(samples, tokenizer, length, batch_size, self.rows, task, buckets, texts, self.lengths)
        self.fingerprint = plain(
            {
                "seed": seed,
                "batch_size": batch_size,
                "length": length,
                "shuffle": shuffle,
                "drop_remainder": drop_remainder,
                "sources": [{"name": n, "length": len(s), "weight": shares[n]} for n, s in named.items()],
                "image": describe(image),
                "text": describe(text),
                "tokenizer": {"kind": type(tokenizer).__name__, "digest": tokenizer.digest},
                **({"text_buckets": buckets} if buckets else {}),
                **({} if task == tasks.Pairs() else {"task": describe(task)}),
            }
        )

    def __len__(self) -> int:
        """Number of batches, `sys.maxsize // batch_size` for an endless pipeline."""
        return len(self.batches)

    def __getitem__(self, step: int) -> NumpyBatch:
        """Batch `step`, counted from 0: what an iterator gives as its (step + 1)-th."""
        batch = self.batches[step]
        batch.pop(DROPPED, None)
        return batch

    def __iter__(self) -> "PipelineIterator":
        return PipelineIterator(self)

    def epoch(self, step: int) -> float:
        """Epochs seen after `step` batches."""
        return step * self.each / self.samples_per_epoch

    def seen(self, step: int) -> dict[str, int]:
        """How many distinct places of each source `step` global batches visit, to within one batch."""
        taken = step * self.each
        return {name: min(length, round(taken * self._shares[name])) for name, length in self.lengths.items()}


class PipelineIterator(Iterator[NumpyBatch]):
    """Reads a pipeline's batches in order, ahead of the consumer, from any step on.

    The state counts the batches handed out, not those read ahead; `close` ends threads and workers.

    Attributes:
      step: batches handed out.
      dropped: what could not be used for this process's rows of the latest batch, with `step` as of now.
    """

    def __init__(self, pipeline: Any):  # a Pipeline, or a Mixture of several
        self.pipeline = pipeline
        self.step = 0
        self.dropped: list[ledger.Dropped] = []
        self._reader: Any = None

    def __iter__(self) -> "PipelineIterator":
        return self

    def __next__(self) -> NumpyBatch:
        if self._reader is None:
            self._reader = self._open()
        batch = dict(next(self._reader))
        if self.pipeline.workers:
            # Workers hand arrays over in shared memory, which a consumer may hold until the process ends (on the CPU a
            # device array is the array itself): a copy lets the memory go now, in order.
            batch = {key: np.array(array) for key, array in batch.items()}
        self.step += 1
        packed = batch.pop(DROPPED, None)
        items = [] if packed is None else ledger.unpack(packed)
        self.dropped = [dataclasses.replace(item, step=self.step) for item in items]
        return batch

    def get_state(self) -> dict[str, Any]:
        """A JSON-able dict from which `set_state` of an equal pipeline continues with the next batch."""
        return plain(
            {
                "version": STATE_VERSION,
                "step": self.step,
                "workers": self.pipeline.workers,
                "pipeline": self.pipeline.fingerprint,
            }
        )

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from a state of `get_state`; the count of workers (that is logged) and the rows may differ.

        Raises:
          UserError: the state is of a pipeline with another seed, batch size, source, …: it names each difference.
        """
        try:
            version, step, saved = state["version"], state["step"], state["pipeline"]
        except (KeyError, TypeError) as error:
            raise UserError(f"not the state of a data pipeline: it lacks {error}") from None
        if version != STATE_VERSION:
            raise UserError(f"pipeline state of version {version}; this mmjax reads version {STATE_VERSION}")
        changed = differences(plain(saved), self.pipeline.fingerprint)
        if changed:
            raise UserError(
                "the data pipeline is not the one that the checkpoint was made with, so its order cannot be "
                "continued: " + "; ".join(changed)
            )
        if not isinstance(step, int) or not 0 <= step <= len(self.pipeline):
            raise UserError(f"pipeline state at step {step!r}; valid: 0 … {len(self.pipeline)}")
        if state.get("workers") != self.pipeline.workers:
            logging.info("data: workers was %s, is %s", state.get("workers"), self.pipeline.workers)
        self.close()
        self.step = step

    def close(self) -> None:
        """Stops threads and workers. A later `next` starts them again at the same place."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _open(self) -> Iterator[NumpyBatch]:
        pipeline = self.pipeline
        rest = grain.MapDataset.source(pipeline.batches)[self.step :]
        options = grain.ReadOptions(num_threads=pipeline.threads, prefetch_buffer_size=pipeline.read_ahead)
        ahead = rest.to_iter_dataset(options)
        if pipeline.workers:
            if not flags.FLAGS.is_parsed():  # grain reads absl flags; in a program without them the defaults count
                flags.FLAGS.mark_as_parsed()
            count = grain.MultiprocessingOptions(pipeline.workers, per_worker_buffer_size=pipeline.read_ahead)
            ahead = ahead.mp_prefetch(count, worker_init_fn=_start_worker)
        return iter(ahead)


def _start_worker(index: int, count: int) -> None:
    del index, count
    follow_parent()


@dataclasses.dataclass(frozen=True)
class _Permute:
    """(place in the endless order of a source, …) -> place in the source; every epoch another permutation."""

    length: int
    seed: int

    def __call__(self, place: int, _: Any) -> int:
        epoch, place = divmod(int(place), self.length)
        return int(_permutation(self.length, self.seed, epoch)[place])


@functools.lru_cache(maxsize=64)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox([seed, epoch])).permutation(length)


def _check(
    task: tasks.Task, text: TextTransform, tokenizer: Tokenizer, length: int, example: Mapping[str, Any]
) -> None:
    task.check(example, text)
    if isinstance(task, Whole):
        task.check_length(example, tokenizer, length)


@dataclasses.dataclass(frozen=True)
class _Transform:
    """(number, example, dropped) -> (number, sample of the task, dropped)."""

    image: ImageTransform
    text: TextTransform
    task: tasks.Task

    def __call__(self, loaded: tuple[int, Mapping[str, Any], list], rng: np.random.Generator) -> tuple:
        number, example, bad = loaded
        return number, self.task.sample(example, number, tasks.Make(self.image, self.text), rng), bad


@dataclasses.dataclass(frozen=True)
class _Apart:
    """An image transform with a generator of its own: what else is drawn does not depend on it; None makes no image."""

    image: ImageTransform | None

    def __call__(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        own = np.random.default_rng(int(rng.integers(2**63)))
        return NO_PICTURE if self.image is None else self.image(picture, own)


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Random access to some rows of every global batch."""

    samples: Any  # grain.MapDataset of (number, sample, dropped)
    tokenizer: Tokenizer
    length: int
    batch_size: int
    rows: Sequence[int] | np.ndarray  # of every global batch, that are made here
    task: tasks.Task
    buckets: Sequence[int] = ()
    texts: Any = None  # as `samples`, no image decoded; with `buckets`
    lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of the sources

    @property
    def pack(self) -> int:
        """Examples of a row."""
        return getattr(self.task, "pack", 1)

    def __len__(self) -> int:
        total, each = len(self.samples), self.batch_size * self.pack
        return total // each if total == sys.maxsize else -(-total // each)

    def __getitem__(self, step: Any) -> NumpyBatch:
        step = int(step)
        if not 0 <= step < len(self):
            raise IndexError(f"batch {step} of {len(self)}")
        begin, pack = step * self.batch_size, self.pack
        there = min(self.batch_size, len(self.samples) // pack - begin)
        rows = [int(row) for row in self.rows if row < there]
        drawn = [self.samples[(begin + row) * pack + place] for row in rows for place in range(pack)]
        numbers, samples, dropped = zip(*drawn, strict=True)
        length = self._bucket(range(begin, begin + there), dict(zip(rows, drawn[::pack], strict=True)))
        batch = {"index": np.array(numbers[::pack], np.int64)}
        if not isinstance(self.task, Whole) and "image" in samples[0]:
            batch["image"] = np.stack([sample["image"] for sample in samples])
        if not isinstance(self.task, Whole) and "text" in samples[0]:
            batch["ids"], batch["valid"] = tasks.tokens(self.tokenizer, [s["text"] for s in samples], length)
        batch |= self.task.collate(samples, self.tokenizer, length)
        bad = [item for items in dropped for item in items]
        bad += no_room(batch, pack, numbers, samples, self.lengths) if pack > 1 else []
        return batch if not bad else {**batch, DROPPED: ledger.pack(bad)}

    def _bucket(self, places: range, made: Mapping[int, tuple]) -> int:
        """Tokens of the texts at these places: the same number whichever of their rows were made here."""
        if not self.buckets:
            return self.length
        # What stands in for an unusable image is known where the row is made: it does not count anywhere.
        known = {row: sample["text"] for row, (_, sample, bad) in made.items() if not bad}
        texts = [known[row] if row in known else self.texts[place][1]["text"] for row, place in enumerate(places)]
        longest = tasks.tokens(self.tokenizer, texts, self.length)[1].sum(1).max()
        return next((size for size in self.buckets if size >= longest), self.length)


def _samples(
    sources: Mapping[str, Examples],
    shares: Mapping[str, float],
    seed: int,
    shuffle: bool,
    check: Check | None = None,
    images: bool = True,
) -> tuple[grain.MapDataset, int]:
    """The endless global order of numbered examples, and the length of its first epoch."""
    parts, first = [], 0
    for place, (name, source) in enumerate(sources.items()):
        part = grain.MapDataset.range(len(source))
        if shuffle:
            # grain adds the epoch to the seed: neighbouring seeds would share permutations, so they are hashed.
            own = derive(seed, "shuffle", place)
            if len(source) < SMALL:
                part = part.map_with_index(_Permute(len(source), own))
            else:
                part = part.shuffle(seed=own)
        parts.append(part.map(Load(source, name, first, derive(seed, "substitute", place), check, images)))
        first += len(source)
    mixed = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, [shares[name] for name in sources])
    return mixed, len(mixed)


def derive(seed: int, purpose: str, place: int = 0) -> int:
    """An independent 32-bit seed for one purpose."""
    words = np.random.SeedSequence([seed, place, *purpose.encode()]).generate_state(1, np.uint32)
    return int(words[0])


def _shares(sources: Mapping[str, Examples], weights: Mapping[str, float | int] | None) -> dict[str, float]:
    """Source name -> share of the examples, summing to 1."""
    if not sources:
        raise UserError("the data pipeline has no source")
    empty = [name for name, source in sources.items() if len(source) == 0]
    if empty:
        raise UserError(f"data source {empty[0]!r} is empty")
    raw = {name: float(len(source)) for name, source in sources.items()} if weights is None else dict(weights)
    if set(raw) != set(sources) or not all(0 < value < float("inf") for value in raw.values()):
        raise UserError(f"source weights {raw}; valid: a positive weight for each of {list(sources)}")
    return {name: raw[name] / sum(raw.values()) for name in sources}


def _check_sizes(batch_size: int, length: int, epochs: int | None, workers: int, threads: int, read_ahead: int) -> None:
    least = {"batch_size": (batch_size, 1), "length": (length, 2), "epochs": (1 if epochs is None else epochs, 1)}
    least |= {"workers": (workers, 0), "threads": (threads, 1), "read_ahead": (read_ahead, 1)}
    for name, (value, bound) in least.items():
        if value < bound:
            raise UserError(f"data {name} = {value}; valid: at least {bound}")


def _check_buckets(buckets: Sequence[int], length: int) -> list[int]:
    found = list(buckets)
    if any(not isinstance(size, int) or not 1 < size < length for size in found) or found != sorted(set(found)):
        raise UserError(f"data text_buckets = {found}; valid: lengths from 2 to {length - 1}, ascending")
    return found
