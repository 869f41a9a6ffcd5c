"""What was dropped, and why: one line for every item of a source that training met and could not use.

The pipeline notes what it drops within the batch for which it dropped it, so the ledger, too, is a function of the
batches read: whatever the count of workers and processes, and however often a run was killed and resumed.
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.errors import BadExample, UserError

FILE = "ledger.jsonl"
MAX_BAD = 0.1
LEAST = 200  # distinct examples (or all there are, if fewer) before the share of bad ones is judged
LONGEST = 300  # characters of a key or a detail
NO_ROOM = "no room in its row"  # of packed rows: told and counted, but no fault of the data


@dataclasses.dataclass(frozen=True)
class Dropped:
    """An item that could not be used."""

    source: str  # the spec
    index: int  # place in the source
    key: str  # name of the item, if it is known
    reason: str
    detail: str
    step: int = 0  # the first step whose batch would have held it


def dropped(source: Any, name: str, index: int, error: BadExample) -> Dropped:
    """The entry for an error that `source[index]` raised."""
    key = error.key
    if not key and hasattr(source, "record"):  # the decoder does not know the name, the record does
        try:
            key = source.record(index).key
        except BadExample as again:
            key = again.key
    return Dropped(name, int(index), writable(key), error.reason, writable(error.detail))


def writable(value: str) -> str:
    """A text that can be written as UTF-8 and is not too long: it may quote what was not."""
    value = value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def pack(items: Sequence[Dropped]) -> np.ndarray:
    """Entries as uint8[N], to travel with a batch from a worker process or between hosts."""
    return np.frombuffer(json.dumps([dataclasses.astuple(item) for item in items]).encode(), np.uint8)


def unpack(packed: np.ndarray) -> list[Dropped]:
    """What `pack` packed."""
    return [Dropped(*item) for item in json.loads(packed.tobytes())]


def gather(items: Sequence[Dropped]) -> list[Dropped]:
    """The entries of all processes in the order of the global batches; every process must call it.

    Within a step, processes hold its rows in their order; what two of them hold, both tell.
    """
    from mmjax.core import processes  # and with it JAX, which workers that make batches do without

    rows = processes.every([dataclasses.astuple(item) for item in items])
    return sorted((Dropped(*item) for row in rows for item in row), key=lambda item: item.step)


class Ledger:
    """`ledger.jsonl` of a work directory: a line for every item that was not used, at the step that met it first.

        {"source": "jsonl:pairs.jsonl", "index": 7, "key": "7.jpg", "reason": "truncated image", …, "step": 3}

    Args:
      workdir: of the run.
      resume_step: the (global) step from which the run goes on: later lines are dropped, they come again. None begins
        afresh.
      writes: whether this process writes the file; all of them count.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None = None, *, writes: bool = True):
        self.path = Path(workdir) / FILE
        self.first: list[Dropped] = []  # the first few bad ones
        self._reasons: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()  # by source
        self._known: dict[str, set[int]] = {}
        self._seen: dict[str, int] = {}
        kept = [] if resume_step is None else [item for item in read(self.path) if item.step <= resume_step]
        self._file = None
        if writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_name(FILE + ".partial")
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(_line(item) for item in kept)
            os.replace(partial, self.path)
            self._file = self.path.open("a", encoding="utf-8")
        for item in kept:
            self._note(item)

    def add(self, items: Iterable[Dropped]) -> None:
        """Enters what is new among `items`, whose steps are global."""
        for item in items:
            if self._note(item) and self._file is not None:
                self._file.write(_line(item))
        if self._file is not None:
            self._file.flush()  # before the checkpoint of the same step is written

    def _note(self, item: Dropped) -> bool:
        known = self._known.setdefault(item.source, set())
        if item.index in known:
            return False
        known.add(item.index)
        self._reasons[item.reason] += 1
        if item.reason != NO_ROOM:
            self._bad[item.source] += 1
            self.first += [item] if len(self.first) < 3 else []
        return True

    def saw(self, seen: Mapping[str, int]) -> None:
        """Takes note that so many distinct places of each source were read (`Pipeline.seen`)."""
        for name, count in seen.items():
            self._seen[name] = max(count, self._seen.get(name, 0))

    def totals(self) -> dict[str, int]:
        """Reason -> count of distinct items, the most frequent first."""
        return dict(sorted(self._reasons.items(), key=lambda pair: (-pair[1], pair[0])))

    def check(self, lengths: Mapping[str, int], max_bad: float = MAX_BAD) -> None:
        """Stops a run whose data is worse than it may be. Judged once `LEAST` distinct items were seen, or all.

        Args:
          lengths: source -> its length.
          max_bad: largest share of the distinct items seen that may be bad; 1 never stops. What found no room in a
            packed row is not bad.

        Raises:
          UserError: with the worst reasons and the first items.
        """
        bad = sum(self._bad[name] for name in lengths)
        # What stands in for a bad item was seen, too.
        seen = sum(min(length, self._seen.get(name, 0) + self._bad[name]) for name, length in lengths.items())
        if bad <= max_bad * seen or seen < min(LEAST, sum(lengths.values())):
            return
        faults = {reason: count for reason, count in self.totals().items() if reason != NO_ROOM}
        raise UserError(
            f"{bad:,} of {seen:,} examples ({bad / seen:.1%}) could not be used, more than config.data.max_bad = "
            f"{max_bad:g}: {words(faults)}. The first: {'; '.join(map(describe, self.first))}. All are in "
            f"{self.path}; the last checkpoint is kept, and a larger max_bad goes on from it"
        )

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def check_max_bad(value: Any) -> float:
    """`config.data.max_bad`, a share.

    Raises:
      UserError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"config.data.max_bad = {value!r}; valid: a share from 0 to 1")
    return float(value)


def words(totals: Mapping[str, int]) -> str:
    """`5 missing file, 3 truncated image`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in totals.items())


def describe(item: Dropped) -> str:
    """`jsonl:pairs.jsonl[7] (7.jpg): truncated image: …`."""
    key = f" ({item.key})" if item.key else ""
    detail = f": {item.detail}" if item.detail else ""
    return f"{item.source}[{item.index}]{key}: {item.reason}{detail}"


def read(path: str | os.PathLike) -> list[Dropped]:
    """The entries of a ledger; a file that is not there has none, a last line that a kill cut short is left out.

    Raises:
      UserError: another line that is no entry.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.removesuffix("\n").split("\n") if text else []  # not splitlines: a detail may hold other line ends
    items: list[Dropped] = []
    for number, line in enumerate(lines, 1):
        try:
            items.append(Dropped(**json.loads(line)))
        except (ValueError, TypeError) as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not an entry of a ledger ({error}): {line[:80]!r}") from error
    return items


def _line(item: Dropped) -> str:
    return json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n"
