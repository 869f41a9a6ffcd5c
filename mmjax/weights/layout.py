"""One declarative table per published layout, from which both import and export follow.

A `Row` says which published tensor is which of our parameters and how it is rearranged; a `Buffer` names an entry that
a checkpoint may hold and a model does not need, and why. `{name}` in the patterns of a row counts from 0 below
`ranges[name]`. Nothing else may stand in a file, and nothing may be missing: `check` lists every difference at once.
"""

import dataclasses
import itertools
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.weights.files import Tensors
from mmjax.weights.transforms import SAME, Shape, Transform


@dataclasses.dataclass(frozen=True)
class Row:
    """One published tensor (or one for each `{i}`) and the parameters that it holds.

    Attributes:
      published: its name, such as "visual.transformer.resblocks.{i}.attn.in_proj_weight".
      ours: path (or paths, for a fused tensor) in our tree, such as "img/transformer/block_{i}/attn/q/kernel".
      transform: from the published tensor to ours.
      collection: "params" or another variable collection, such as "batch_stats".
      dtype: in which it is written where nothing says how it was stored.
    """

    published: str
    ours: str | tuple[str, ...]
    transform: Transform = SAME
    collection: str = "params"
    dtype: str = "float32"

    @property
    def paths(self) -> tuple[str, ...]:
        """Our paths, each with its collection in front."""
        ours = (self.ours,) if isinstance(self.ours, str) else self.ours
        return tuple(f"{self.collection}/{path}" for path in ours)


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An entry that a checkpoint may hold and that is not a parameter.

    Attributes:
      published: its name.
      why: why it is not loaded.
      value: what an export writes.
      fixed: the stored value must be `value`: it follows from the configuration.
      always: the layout holds it in every checkpoint, so that an export writes it even if it was not imported.
    """

    published: str
    why: str
    value: np.ndarray
    fixed: bool = True
    always: bool = False


@dataclasses.dataclass(frozen=True)
class Alias:
    """An entry that repeats another one, such as the tied output map of a language model.

    Attributes:
      published: its name. A checkpoint may leave it out; an export writes it.
      of: the name of the tensor whose values it has.
      why: what ties the two.
    """

    published: str
    of: str
    why: str


@dataclasses.dataclass(frozen=True)
class Account:
    """What came from where: every tensor of a checkpoint is either loaded or named with the reason why not.

    Attributes:
      loaded: published name -> our paths.
      ignored: published name -> why.
      stored: our path -> the dtype in which it was stored.
      buffers: entries not needed: published name -> None where the table gives the value, else {"dtype", "value"}.
      notes: what was changed on the way, such as resized positions.
    """

    loaded: Mapping[str, tuple[str, ...]]
    ignored: Mapping[str, str]
    stored: Mapping[str, str]
    buffers: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """A few lines for people: counts, dtypes, what was ignored and why, what was changed."""
        kinds = sorted(set(self.stored.values()))
        lines = [f"{len(self.loaded)} tensors -> {len(self.stored)} parameters (stored as {', '.join(kinds)})"]
        reasons: dict[str, list[str]] = {}
        for key, why in self.ignored.items():
            reasons.setdefault(why, []).append(key)
        for why, keys in reasons.items():
            lines.append(f"not needed: {_some(keys, 3)}: {why}")
        return "\n".join([*lines, *self.notes])

    def table(self) -> str:
        """One line for every published tensor."""
        lines = [f"{key} -> {', '.join(paths)}" for key, paths in sorted(self.loaded.items())]
        return "\n".join([*lines, *(f"{key}: {why}" for key, why in sorted(self.ignored.items()))])


def _some(keys: list[str], most: int) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


@dataclasses.dataclass(frozen=True)
class Table:
    """The layout of one checkpoint: its rows, its buffers, and how far each `{name}` counts.

    `unneeded`: names of entries that it may hold, of any shape, and that are neither loaded nor written; and why.
    """

    layout: str
    rows: tuple[Row, ...]
    buffers: tuple[Buffer, ...] = ()
    ranges: Mapping[str, int] = dataclasses.field(default_factory=dict)
    aliases: tuple[Alias, ...] = ()
    unneeded: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def expand(self) -> Iterator[Row]:
        """The rows with every `{name}` counted out."""
        for row in self.rows:
            names = sorted({name for _, name, _, _ in string.Formatter().parse(row.published) if name})
            for values in itertools.product(*(range(self.ranges[name]) for name in names)):
                at = dict(zip(names, values, strict=True))
                ours = (row.ours,) if isinstance(row.ours, str) else row.ours
                yield dataclasses.replace(
                    row, published=row.published.format(**at), ours=tuple(path.format(**at) for path in ours)
                )

    def check(self, source: Tensors, shapes: Mapping[str, Shape], where: str) -> None:
        """Compares the names and shapes of a checkpoint with the table and with our tree, without reading a tensor.

        Args:
          source: the checkpoint.
          shapes: our paths ("params/…") and shapes.
          where: the checkpoint's name for messages.

        Raises:
          UserError: tensors missing, not known, or of the wrong shape; the message lists every one.
        """
        rows, keys = list(self.expand()), set(source.keys())
        expected = {row.published: row for row in rows}
        self._check_tree(rows, shapes)
        missing = [key for key in expected if key not in keys]
        besides = {buffer.published for buffer in self.buffers} | {alias.published for alias in self.aliases}
        unknown = sorted(keys - set(expected) - besides - set(self.unneeded))
        misshapen = []
        for key, row in expected.items():
            if key in keys:
                wanted = row.transform.published_shape([shapes[path] for path in row.paths])
                if source.shape(key) != wanted:
                    misshapen.append(f"{key} is {list(source.shape(key))}, expected {list(wanted)}")
        for buffer in self.buffers:
            if buffer.published in keys and buffer.fixed:
                stored = source.read(buffer.published)
                if not np.array_equal(stored, buffer.value):
                    misshapen.append(f"{buffer.published} is {stored.tolist()}, but the config says {buffer.value}")
        for alias in self.aliases:
            if {alias.published, alias.of} <= keys and not _equal(source, alias.published, alias.of):
                misshapen.append(f"{alias.published} is not {alias.of}, but {alias.why}")
        kinds = {"missing": missing, "not known to this layout": unknown, "not as the config says": misshapen}
        if any(kinds.values()):
            found = "".join(
                f"\n  {kind} ({len(k)}):" + "".join(f"\n    {key}" for key in k) for kind, k in kinds.items() if k
            )
            raise UserError(f"{where}: the tensors are not those of the layout {self.layout!r}:{found}")

    def _reasons(self, keys: set[str]) -> dict[str, str]:
        repeats = {alias.published: f"repeats {alias.of}: {alias.why}" for alias in self.aliases}
        return {key: why for key, why in {**repeats, **self.unneeded}.items() if key in keys}

    def _check_tree(self, rows: list[Row], shapes: Mapping[str, Shape]) -> None:
        """Our tree and the table must name the same parameters: a difference is a gap in the table."""
        paths = [path for row in rows for path in row.paths]
        unfilled, unmade = sorted(set(shapes) - set(paths)), sorted(set(paths) - set(shapes))
        if unfilled or unmade or len(set(paths)) < len(paths):
            raise UserError(
                f"the layout {self.layout!r} does not fit this system: parameters that it has no place for: "
                f"{unfilled or 'none'}; that it holds and the system does not have: {unmade or 'none'}"
            )

    def read(
        self,
        source: Tensors,
        shapes: Mapping[str, Shape],
        where: str,
        place: Callable[[str, np.ndarray], Any] | None = None,
        only: Callable[[str], bool] | None = None,
    ) -> tuple[dict[str, Any], Account]:
        """Our parameters as a flat dictionary, read one tensor at a time.

        Args:
          source: the checkpoint.
          shapes: our paths and shapes.
          where: the checkpoint's name for messages.
          place: called with path and array, a view in the stored dtype, as soon as each is read, to put it on its
            devices; default: `plain_numbers`.
          only: which of our paths to read; default: all.

        Raises:
          UserError: see `check`.
        """
        self.check(source, shapes, where)
        keys, flat, stored = set(source.keys()), {}, {}
        rows = [row for row in self.expand() if only is None or any(only(path) for path in row.paths)]
        for row in rows:
            tensor = source.read(row.published)
            for path, array in zip(row.paths, row.transform.to_ours(tensor), strict=True):
                if only is None or only(path):
                    stored[path] = str(tensor.dtype)
                    flat[path] = plain_numbers(array) if place is None else place(path, array)
            del tensor, array  # before the next one is read
        present = [buffer for buffer in self.buffers if buffer.published in keys]
        account = Account(
            loaded={row.published: row.paths for row in rows},
            ignored={buffer.published: buffer.why for buffer in present} | self._reasons(keys),
            stored=stored,
            buffers={buffer.published: _unlike(buffer.value, source.read(buffer.published)) for buffer in present},
        )
        return flat, account

    def published(self, flat: Mapping[str, Any], stored: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
        """Our parameters (or their gradients) in the names and shapes of this layout, without buffers.

        Args:
          flat: our paths -> arrays, of all collections or (gradients) of "params" alone.
          stored: our path -> dtype to write; the row's where it says nothing.
        """
        collections = {path.split("/")[0] for path in flat}
        rows = [row for row in self.expand() if row.collection in collections]
        self._check_tree(rows, {path: tuple(array.shape) for path, array in flat.items()})
        tensors = {}
        for row in rows:
            dtypes = {(stored or {}).get(path, row.dtype) for path in row.paths}
            dtype = dtypes.pop() if len(dtypes) == 1 else row.dtype
            tensor = row.transform.to_published([np.asarray(flat[path]) for path in row.paths])
            tensors[row.published] = np.ascontiguousarray(tensor, dtype=np.dtype(dtype)).reshape(tensor.shape)
        return tensors | {alias.published: tensors[alias.of] for alias in self.aliases if alias.of in tensors}

    def extra(self, buffers: Mapping[str, Any], same_layout: bool) -> dict[str, np.ndarray]:
        """The buffers that belong to an export.

        Args:
          buffers: as an `Account` holds them.
          same_layout: they come from a checkpoint of this layout, which then says which ones there are.
        """
        tensors = {}
        for buffer in self.buffers:
            name = buffer.published
            if name in buffers if same_layout else buffer.always:
                kept = buffers.get(name)
                # What follows from the configuration is made from the configuration, which may have changed since.
                if kept is not None and (not buffer.fixed or np.array_equal(kept["value"], buffer.value)):
                    tensors[name] = np.array(kept["value"], kept["dtype"])
                else:
                    tensors[name] = buffer.value
        return tensors


def float32(array: np.ndarray) -> np.ndarray:
    """A float32 copy without gaps of an array of any dtype, or the array itself if it is one."""
    return np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)


def plain_numbers(array: np.ndarray) -> np.ndarray:
    """`float32` of the array, and int32 of whole numbers."""
    whole = array.dtype.kind in "iu"
    return np.ascontiguousarray(array, dtype=np.int32).reshape(array.shape) if whole else float32(array)


def _equal(source: Tensors, one: str, other: str) -> bool:
    return source.shape(one) == source.shape(other) and np.array_equal(source.read(one), source.read(other))


def _unlike(value: np.ndarray, stored: np.ndarray) -> dict[str, Any] | None:
    """None if the stored buffer is exactly `value`, else its content."""
    if value.dtype == stored.dtype and np.array_equal(value, stored):
        return None
    return {"dtype": str(stored.dtype), "value": stored.tolist()}
