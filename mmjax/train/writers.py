"""Where metrics go: lines on stdout, metrics.jsonl, metrics.csv, TensorBoard, Weights & Biases.

Every back end forgets what lies past the step from which a run resumes, so that a run that was killed and resumed
leaves the files of one that never stopped.
"""

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from mmjax.core import files
from mmjax.core.errors import UserError

Row = dict[str, Any]


class Writer(Protocol):
    """One back end."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class MetricWriter:
    """Hands each row of metrics to all back ends. Only process 0 writes.

    Example:
      writer = MetricWriter("runs/a", writers=("jsonl", "tensorboard"), resume_step=200)
      writer.write(250, {"loss": 1.5})

    Args:
      workdir: directory of the run.
      writers: names from WRITERS.
      resume_step: the (global) step from which the run goes on; rows past it are dropped. None begins afresh: what an
        earlier run wrote is replaced.

    Raises:
      UserError: an unknown writer, or one whose package is not installed.
    """

    def __init__(
        self, workdir: str | os.PathLike, writers: Sequence[str] = ("jsonl", "csv"), resume_step: int | None = None
    ):
        unknown = sorted(set(writers) - set(WRITERS))
        if unknown:
            raise UserError(f"metric writer {unknown} does not exist; valid: {sorted(WRITERS)}")
        self._writers: list[Writer] = []
        if jax.process_index() == 0:
            files.make_folder(workdir)
            self._writers = [WRITERS[name](Path(workdir), resume_step) for name in dict.fromkeys(writers)]

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One row of scalars (anything `float` takes) at a step; names may differ from row to row."""
        row = {name: float(value) for name, value in values.items()}
        for writer in self._writers:
            writer.write(int(step), row)

    def close(self) -> None:
        """Flushes and closes all back ends."""
        for writer in self._writers:
            writer.close()
        self._writers = []


class StdoutWriter:
    """`step 250  loss 1.5  lr 0.0001`."""

    def __init__(self, _workdir: Path, _resume_step: int | None):
        pass

    def write(self, step: int, values: Mapping[str, float]) -> None:
        print(f"step {step}  " + "  ".join(f"{name} {value:.5g}" for name, value in values.items()), flush=True)

    def close(self) -> None:
        sys.stdout.flush()


class JsonlWriter:
    """metrics.jsonl: `{"step": 250, "loss": 1.5}` on each line; a value that is not finite is null."""

    def __init__(self, workdir: Path, resume_step: int | None):
        self._path = workdir / "metrics.jsonl"
        rows = [] if resume_step is None else [row for row in read_history(self._path) if row["step"] <= resume_step]
        files.write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with files.writing(self._path):
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            self._file.flush()  # a row that was logged survives a kill

    def close(self) -> None:
        with files.writing(self._path):
            self._file.close()


def read_history(path: str | os.PathLike) -> list[Row]:
    """Rows of a metrics.jsonl; a file that is not there has none.

    A last line that a kill cut short is left out.

    Raises:
      UserError: a line that is no row, other than the last.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("no step")
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not a row of metrics ({error}): {line[:80]!r}") from error
        rows.append(row)
    return rows


class CsvWriter:
    """metrics.csv: a column for every metric, in the order in which they first appear; cells are empty where unset.

    When a new metric appears the file is rewritten with the longer header (atomically).
    """

    def __init__(self, workdir: Path, resume_step: int | None):
        self._path = workdir / "metrics.csv"
        rows = [] if resume_step is None else [row for row in self._read() if int(row["step"]) <= resume_step]
        # Columns that only dropped rows filled go with them: the file equals that of a run that never stopped.
        filled = {name for row in rows for name, value in row.items() if value != ""}
        known = list(rows[0]) if rows else []
        self._columns = ["step", *(name for name in known if name != "step" and name in filled)]
        self._rewrite(rows)

    def _read(self) -> list[dict[str, str]]:
        """Whole rows of the file; a line that a kill cut short is left out."""
        if not self._path.exists():
            return []
        text = self._path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        rows = list(csv.DictReader(whole.splitlines(), restval=""))
        if rows and not rows[0].get("step", "").isdigit():
            raise UserError(f"{self._path}: not a file of metrics: its first column must be 'step'")
        return rows

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = [self._columns, *([row.get(name, "") for name in self._columns] for row in rows)]
        files.write_text(self._path, "".join(_csv_line(line) for line in lines))
        self._file = self._path.open("a", encoding="utf-8", newline="")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        new = [name for name in values if name not in self._columns]
        if new:
            self._file.close()
            rows = self._read()
            self._columns += new
            self._rewrite(rows)
        row: Row = {"step": step, **values}
        with files.writing(self._path):
            self._file.write(_csv_line([row.get(name, "") for name in self._columns]))
            self._file.flush()

    def close(self) -> None:
        with files.writing(self._path):
            self._file.close()


class TensorBoardWriter:
    """Event files in workdir/tensorboard; on resume, TensorBoard is told to drop the steps past it."""

    def __init__(self, workdir: Path, resume_step: int | None):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard", "tensorboardX") from error
        purge = 0 if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge, flush_secs=20)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            # '@' is not allowed in a tag: the package would replace it, and log that for every value.
            self._writer.add_scalar(name.replace("@", "_at_"), value, step)

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """Weights & Biases; the run's id is kept in workdir/wandb_id, so a resumed run goes on with the same curve."""

    def __init__(self, workdir: Path, resume_step: int | None):
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb", "wandb") from error
        path = workdir / "wandb_id"
        known = path.read_text().strip() if resume_step is not None and path.exists() else None
        self._run = wandb.init(dir=str(workdir), name=workdir.name, id=known, resume="allow" if known else None)
        files.write_text(path, self._run.id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _missing(extra: str, package: str) -> UserError:
    return UserError(
        f"metric writer {extra!r} needs the package {package}: pip install 'mmjax[{extra}]', or leave it out of writers"
    )


def _csv_line(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


WRITERS: dict[str, Callable[[Path, int | None], Writer]] = {
    "stdout": StdoutWriter,
    "jsonl": JsonlWriter,
    "csv": CsvWriter,
    "tensorboard": TensorBoardWriter,
    "wandb": WandbWriter,
}
