"""What an evaluator is, what it is given to work with, and the predictor that runs a system's named methods.

Evaluators and commands know a system by these methods alone; a system has those that it can do. All are pure and
jitted by the Predictor, with `train=False` meant. `batch` is a mapping of keys of data/example.py.

```
embed_image(image)                    float[B, E], unit length
embed_text(ids, valid)                float[B, E], unit length
encode_states_image(image)            [B, P, D], what `match` takes of an image: encoded once, matched many times
encode_states_text(ids, valid)        [B, T, …], what `match` takes of a text; where the text is encoded anew for each
                                      image (BLIP), that is int32[B, T], its ids
match(image_states, text_states, valid)   float[B, 2], logits of (does not fit, fits)
logits(batch)                         float[B, C], of a classifier's classes (NLVR2, SNLI-VE, a closed set of answers)
likelihood(batch, most)               {"log": float[B], "count": int32[B]}: log-probability of the tokens that the
                                      batch's `mask_loss` names, which are the last ones of a row, and how many they
                                      are; at most `most`
generate(batch, settings)             {"ids": int32[B, L], "valid": bool[B, L]}: what was written after the prompt,
                                      without begin and end tokens. batch: image; ids and valid, padded on the right,
                                      what the text begins with (begin token and words, no end token), or of a system
                                      that answers questions the whole question (end token and all); and seed
                                      uint32[B] for sampling: a row's text follows from its own seed, whatever stands
                                      beside it.
                                      settings: hashable, the decoders' settings of generation; static under jit.
rank_answers(batch, answer_ids, answer_valid, k)   {"index": int32[B, k], "score": float[B, k]}, best first: of the
                                      candidates int32[A, L] that all rows share, the k whose first token is most
                                      likely, ranked by the whole answer
```
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, Int32, Shaped

from mmjax.core import processes
from mmjax.core.errors import UserError
from mmjax.core.padding import check_right_padded
from mmjax.core.sharding import BATCH_AXES, batch_sharding, replicated, use_mesh

Value = tuple[str, float]
Tokenize = Callable[[Sequence[str]], tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]]

METHODS = ("embed_image", "embed_text", "pool_image", "encode_image", "encode_text", "encode_states_image",
           "encode_states_text", "match", "logits", "likelihood", "generate", "rank_answers")  # fmt: skip
_IN_FLIGHT = 2  # batches dispatched before the oldest result is fetched: bounds memory, overlaps host and device


@runtime_checkable
class Rows(Protocol):
    """An array, a list, or anything else with a length and a row for every index (read lazily)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class Evaluator(Protocol):
    """Data and a named predict method: yields (name, value) pairs whose names start with `name + "/"`."""

    @property
    def name(self) -> str: ...

    def run(self, predictor: "Predictor") -> Iterator[Value]: ...

    def baselines(self) -> dict[str, dict[str, float]]:
        """Scores that need no model ("chance", …), under the names of the metrics they are compared with."""
        ...


@runtime_checkable
class Ask(Protocol):
    """Makes what a system that reads conversations answers from: a question each, behind its picture."""

    def __call__(
        self,
        questions: Sequence[str],
        pictures: Rows,
        answers: Sequence[str] | None = None,
        shown: Sequence[bool] | None = None,
    ) -> Mapping[str, Rows]:
        """`image`, `slot`, `ids`, `valid`; with answers behind the questions also `mask_loss`, which names these.

        Args:
          pictures: of `Tools.prepare`. shown: which questions have one; None: all.
        """
        ...


@dataclass(frozen=True)
class LeftOut:
    """An example that an evaluator could not use."""

    source: str
    index: int
    why: str
    key: str = ""  # its name, where that can be known


@dataclass(frozen=True)
class Tools:
    """What evaluators need from other folders, passed in by the command that joins them.

    Attributes:
      open_source: a source spec -> random access examples (`len(source)`, `source[i]` -> mapping).
      preprocess: uint8[Y, X, C] of any size, C in (1, 3, 4) -> uint8[S, S, 3], as the model sees it at evaluation.
      tokenize: texts -> (int32[B, T], bool[B, T]) at the system's length.
      unusable: what a source raises for an example that cannot be used; without it, any error stops.
      left_out: the examples that were not used, in the order in which they were met.
      decode: token ids -> text.
      settings: a config's mapping -> settings of generation.
      ask: questions and a picture each (of `prepare`) -> the batch from which a system that reads conversations
        answers; None: such a batch holds `image`, and the questions as texts.
    """

    open_source: Callable[[str], Any]
    preprocess: Callable[[np.ndarray], np.ndarray]
    tokenize: Tokenize
    unusable: tuple[type[Exception], ...] = ()
    left_out: list[LeftOut] = field(default_factory=list)
    decode: Callable[[Int32[np.ndarray, " T"]], str] | None = None
    settings: Callable[[Mapping[str, Any]], Hashable] | None = None
    ask: Ask | None = None

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """A picture for `generate`: preprocessed, or as it is where `ask` does that."""
        return self.preprocess(picture) if self.ask is None else picture

    def begin(self, texts: Sequence[str]) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """Tokens of texts that are to be gone on with: as `tokenize`, without the end token."""
        ids, valid = self.tokenize(texts)
        valid = np.asarray(valid) & (np.cumsum(valid, axis=1) < valid.sum(axis=1, keepdims=True))
        keep = max(1, int(valid.sum(axis=1).max()))
        return np.ascontiguousarray(ids[:, :keep]), np.ascontiguousarray(valid[:, :keep])

    def written(self, made: Mapping[str, np.ndarray]) -> list[str]:
        """Texts from what a system's `generate` returns, white space around them removed.

        Raises:
          UserError: there is no tokenizer that decodes.
        """
        if self.decode is None:
            raise UserError("the checkpoint's tokenizer cannot turn ids into text")
        return [self.decode(ids[valid]).strip() for ids, valid in zip(made["ids"], made["valid"], strict=True)]

    def how(self, options: Mapping[str, Any]) -> Hashable:
        """Settings of generation from a config's mapping.

        Raises:
          UserError: an unknown or impossible setting.
        """
        if self.settings is None:
            raise UserError("nothing here says how text is generated")
        return self.settings(options)


class Predictor:
    """Runs a system's named methods over any number of examples in batches of one fixed size, so each compiles once.

    The last batch is padded with zeros and its surplus rows are dropped. On a mesh, batches are split over its data
    axes and the results are gathered to every process.

    Example:
      predictor = Predictor(system, {"params": params}, batch_size=256)
      features = predictor.embed_image(images)  # uint8[N, Y, X, 3] -> float32[N, E]

    Args:
      system: a Linen module with `embed_image(image)` and `embed_text(ids, valid)`.
      variables: its variables; the weights are an argument of the compiled function, not a constant in it.
      batch_size: examples at a time over all devices; rounded up to a multiple of the data-parallel devices.
      mesh: the device mesh, if there is one.
    """

    def __init__(self, system: Any, variables: Mapping[str, Any], *, batch_size: int = 256, mesh: Mesh | None = None):
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, not {batch_size}")
        self.system, self.variables, self.mesh = system, variables, mesh
        shards = 1 if mesh is None else int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
        self.batch_size = -(-batch_size // shards) * shards
        self._compiled: dict[Hashable, Callable] = {}

    def replace(self, variables: Mapping[str, Any]) -> "Predictor":
        """The same predictor with other weights; it shares the compiled functions."""
        other = Predictor(self.system, variables, batch_size=self.batch_size, mesh=self.mesh)
        other._compiled = self._compiled
        return other

    def embed_image(self, images: Rows) -> Float32[np.ndarray, "N E"]:
        """Normalised image embeddings of uint8[N, Y, X, 3], or of any sequence of uint8[Y, X, 3] (read lazily)."""
        return self("embed_image", images)

    def embed_text(self, ids: Int32[np.ndarray, "N T"], valid: Bool[np.ndarray, "N T"]) -> Float32[np.ndarray, "N E"]:
        """Normalised text embeddings of token ids and their validity.

        Raises:
          UserError: see `__call__`; or a row that is not padded on the right.
        """
        check_right_padded(valid, "embed_text")
        return self("embed_text", ids, valid)

    def __call__(self, method: str, *inputs: Rows) -> Shaped[np.ndarray, "N ..."]:
        """Applies a named method to inputs that share their leading axis; float results come back as float32.

        Raises:
          UserError: nothing to predict, inputs of different lengths, or a result that is not finite.
        """
        made = self._run(method, inputs, self._function(method, lambda *batch: batch, ()), ())
        return made

    def over(self, method: str, batch: Mapping[str, Rows], *arguments: Any) -> Any:
        """Applies a named method that takes a batch, and arguments that all rows share.

        Args:
          method: of the system.
          batch: key -> rows, all of one length.
          arguments: arrays go to the devices whole; anything else is hashable and static under jit.

        Returns:
          What the method returns, a mapping of arrays or an array, rows of all batches together.

        Raises:
          UserError: see `__call__`.
        """
        keys = tuple(batch)
        arrays = tuple(argument for argument in arguments if isinstance(argument, np.ndarray))
        static = tuple(None if isinstance(argument, np.ndarray) else argument for argument in arguments)

        def inputs(*rows: Any) -> tuple[Any, ...]:
            shared = iter(rows[len(keys) :])
            filled = [next(shared) if isinstance(a, np.ndarray) else a for a in arguments]
            return dict(zip(keys, rows, strict=False)), *filled

        return self._run(method, list(batch.values()), self._function(method, inputs, (keys, static)), arrays)

    def _run(self, method: str, inputs: Sequence[Rows], function: Callable, shared: Sequence[np.ndarray]) -> Any:
        total = len(inputs[0])
        if not total or any(len(array) != total for array in inputs):
            raise UserError(f"{method}: inputs need one common length above zero, not {[len(x) for x in inputs]}")
        pending, done = [], []
        for start in range(0, total, self.batch_size):
            count = min(self.batch_size, total - start)
            batch = [self._place(array, start, count) for array in inputs]
            with use_mesh(self.mesh) if self.mesh is not None else contextlib.nullcontext():
                pending.append((processes.settle(function(self.variables, *batch, *shared)), count))
            if len(pending) > _IN_FLIGHT:
                done.append(_fetch(*pending.pop(0)))
        done += [_fetch(*item) for item in pending]
        result = jax.tree.map(lambda *parts: np.concatenate(parts), *done)
        for leaf in jax.tree.leaves(result):
            if not np.isfinite(leaf).all():
                bad = np.flatnonzero(~np.isfinite(leaf).reshape(total, -1).all(axis=1))
                raise UserError(
                    f"{method} gives values that are not finite for {len(bad)} of {total} inputs, first {bad[0]}"
                )
        return result

    def _function(self, method: str, inputs: Callable[..., tuple[Any, ...]], key: Hashable) -> Callable:
        """The compiled method; `inputs` makes its arguments from rows and what they share, `key` names how."""
        if (method, key) not in self._compiled:
            self.check(method)
            where: dict[str, Any] = {} if self.mesh is None else {"out_shardings": replicated(self.mesh)}
            self._compiled[method, key] = jax.jit(
                lambda variables, *rows: self.system.apply(variables, *inputs(*rows), method=method), **where
            )
        return self._compiled[method, key]

    def check(self, *methods: str) -> None:
        """Raises UserError for a method that the system lacks; it names those that it has."""
        for method in methods:
            if not hasattr(self.system, method):
                offered = [name for name in METHODS if hasattr(self.system, name)]
                raise UserError(f"{type(self.system).__name__} has no method {method!r}; it offers {offered}")

    def _place(self, array: Rows, start: int, count: int) -> Any:
        """`count` rows from `start` on, padded; every process reads only those that its own devices hold."""
        if self.mesh is None:
            return _window(array, start, count, self.batch_size)
        made: dict[tuple[int, int], np.ndarray] = {}  # devices that split a model have the same rows

        def rows(index: Any) -> np.ndarray:
            first, stop, _ = index[0].indices(self.batch_size)
            if (first, stop) not in made:
                there = min(max(count - first, 0), stop - first)
                made[first, stop] = _window(array, start + min(first, count - 1), there, stop - first)
            return made[first, stop]

        shape = np.shape(array[0])
        return jax.make_array_from_callback((self.batch_size, *shape), batch_sharding(self.mesh), rows)


def seeds(seed: int, count: int) -> Shaped[np.ndarray, " N"]:
    """uint32[N], a seed for each text that is sampled; more texts change none of the first ones."""
    return np.random.SeedSequence(seed).generate_state(count, np.uint32)


def _window(array: Rows, start: int, count: int, size: int) -> np.ndarray:
    """Rows start … start + count of an array or a lazy sequence, padded with zeros to `size` rows."""
    stop = start + count
    if isinstance(array, np.ndarray):
        rows = array[start:stop]
    else:  # of no row, the kind and shape of the first
        rows = np.stack([array[i] for i in range(start, max(stop, start + 1))])[:count]
    return np.concatenate([rows, np.zeros((size - count, *rows.shape[1:]), rows.dtype)]) if count < size else rows


def _fetch(result: Any, count: int) -> Any:
    return jax.tree.map(lambda leaf: _plain(np.asarray(leaf)[:count]), result)


def _plain(rows: np.ndarray) -> np.ndarray:
    return rows if np.issubdtype(rows.dtype, np.integer) or rows.dtype == bool else rows.astype(np.float32)


def check_options(kind: str, options: Mapping[str, Any], valid: Sequence[str], required: Sequence[str] = ()) -> None:
    """Raises UserError for options of an evaluator that are unknown or missing."""
    unknown, missing = sorted(set(options) - set(valid)), sorted(set(required) - set(options))
    if unknown:
        raise UserError(f"evaluator kind {kind!r} has no option {unknown}; valid options: {sorted(valid)}")
    if missing:
        raise UserError(f"evaluator kind {kind!r} needs the option {missing}; valid options: {sorted(valid)}")
