"""Golden fixtures: folders with a checkpoint, inputs and the outputs that its publisher's code computes.

```
meta.json           system, variant, layout, and for each task its inputs, outputs and tolerance
config.json         the publisher's configuration
model.safetensors   the publisher's weights (none for losses and tables)
io.safetensors      "<task>/in/<name>" and "<task>/out/<name>"; tables: io.json, a list of cases, or
<task>.json         "items", the cases, and outputs that are of all cases together
```
A task or an output that mmjax cannot compute fails: nothing is skipped.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mmjax.core.errors import UserError
from mmjax.weights import files

META, CONFIG, IO, TABLE = "meta.json", "config.json", "io.safetensors", "io.json"
NO_WEIGHTS = ("generation_metrics", "losses")
# System of a fixture -> module of this folder and its function, which opens a fixture and returns its runner. By name:
# a fixture of one system does not import the others.
OPENERS = {
    "albef": ("golden_albef", "open_albef"),
    "blip": ("golden_blip", "open_model"),
    "beit3": ("golden_multiway", "open_beit3"),
    "clip_vit_l": ("golden_llava", "open_tower"),
    "llama": ("golden_llava", "open_language"),
    "llava1": ("golden_llava", "open_llava"),
    "llava15": ("golden_llava", "open_llava"),
    "llava_next": ("golden_llava", "open_llava"),
    "llava_next_original": ("golden_llava", "open_llava"),
    "mistral": ("golden_llava", "open_language"),
    "clip": ("golden_clip", "open_clip_model"),
    "coca": ("golden_coca", "open_coca"),
    "generation_metrics": ("golden_metrics", "open_arrays"),
    "losses": ("golden_clip", "open_loss"),
    "metrics": ("golden_metrics", "open_arrays"),
    "siglip": ("golden_clip", "open_clip_model"),
    "vlmo": ("golden_multiway", "open_vlmo"),
    "vqkd": ("golden_multiway", "open_vqkd"),
}
# System of a fixture whose cases stand in files of their own -> module and function: (folder, task) -> output ->
# (our values, the reference's), one for each case.
CASES = {
    "llava_next_anyres_table": ("golden_chat", "run_grids"),
    "templates": ("golden_chat", "run_task"),
}
# (System, task) of a fixture that is a table of cases -> module and function; see `_run_table`.
TABLES = {("clip", "tokenize"): ("golden_clip", "tokenize")}
# The same of tables in files of their own; see `_run_files`.
FILES = {
    ("metrics", "caption_metrics"): ("golden_metrics", "caption_metrics"),
    ("metrics", "pope"): ("golden_metrics", "pope"),
    ("metrics", "text_processors"): ("golden_metrics", "text_processors"),
    ("metrics", "vqa_accuracy"): ("golden_metrics", "vqa_accuracy"),
}

Arrays = dict[str, np.ndarray]
# (task, inputs, names of the outputs) -> outputs; what it cannot compute it leaves out, or says in `Unable`.
Runner = Callable[[str, Arrays, list[str]], Mapping[str, Any]]


class Unable(Exception):
    """A task, or an input or output of one, that mmjax does not compute."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One output of one task of one fixture.

    Attributes:
      delta: max |Δ|; None where there is nothing to compare.
      why: what is wrong besides the size of the difference.
    """

    fixture: str
    task: str
    output: str
    tolerance: float
    delta: float | None = None
    why: str = ""

    @property
    def passed(self) -> bool:
        """Within tolerance; a difference that is not a number is not."""
        return not self.why and self.delta is not None and self.delta <= self.tolerance

    def line(self) -> str:
        """For the terminal."""
        delta = "-" if self.delta is None else f"{self.delta:.2e}"
        verdict = "pass" if self.passed else "FAIL"
        name = f"{self.fixture} {self.task}/{self.output}"
        why = f": {self.why.splitlines()[0]}" if self.why else ""
        return f"{verdict}  max |Δ| {delta:>8}  tolerance {self.tolerance:.0e}  {name}{why}"

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**dataclasses.asdict(self), "passed": self.passed}


def find_fixtures(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folder itself if it is a fixture, else every fixture below it.

    Raises:
      UserError: there is none.
    """
    if (folder / META).is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    found = sorted(path.parent for path in folder.rglob(META))
    if not found:
        raise UserError(f"{folder}: {META} is missing, here and in every folder below")
    return found


def run_fixture(folder: pathlib.Path) -> list[Result]:
    """Runs every task of a fixture.

    Raises:
      UserError: a file is missing or not in the format.
    """
    meta = files.read_json(folder / META)
    for key in ("system", "tasks"):
        if key not in meta:
            raise UserError(f"{folder / META}: the key {key!r} is missing")
    if meta["system"] in CASES:
        return _run_cases(folder, meta)
    if meta["system"] not in OPENERS:
        why = f"mmjax has no fixtures of the system {meta['system']!r}; there are {', '.join((*OPENERS, *CASES))}"
        tasks = meta["tasks"].items()
        return [Result(str(folder), task, name, 0.0, why=why) for task, about in tasks for name in about["outputs"]]
    # Highest: accelerators would otherwise multiply float32 in fewer bits than the reference did.
    with jax.default_matmul_precision("highest"):
        if all((folder / f"{task}.json").is_file() for task in meta["tasks"]):
            return _run_files(folder, meta)
        return _run_table(folder, meta) if (folder / TABLE).is_file() else _run_tensors(folder, meta)


def _run_tensors(folder: pathlib.Path, meta: Mapping[str, Any]) -> list[Result]:
    needed = (IO, CONFIG) if meta["system"] in NO_WEIGHTS else (IO, CONFIG, files.WEIGHTS)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} is missing")
    io = files.open_tensors(folder / IO)
    keys = io.keys()
    results, runner = [], None
    for task, about in meta["tasks"].items():
        inputs = {key.split("/", 2)[2]: io.read(key) for key in keys if key.startswith(f"{task}/in/")}
        wanted = {key.split("/", 2)[2]: io.read(key) for key in keys if key.startswith(f"{task}/out/")}
        absent = [name for name in about.get("outputs", {}) if name not in wanted]
        if absent or not wanted:
            raise UserError(f"{folder / IO} lacks the outputs of the task {task!r}: {', '.join(absent) or 'all'}")
        why, outputs = "", {}
        try:
            runner = runner or _open(folder, meta)
            outputs = dict(runner(task, inputs, list(wanted)))
        except (Unable, UserError) as error:
            why = str(error)
        tolerance = float(about.get("tolerance", 1e-4))
        for name, reference in wanted.items():
            reason = why or ("" if name in outputs else "mmjax does not compute this output")
            at = Result(str(folder), task, name, tolerance, why=reason)
            results.append(at if reason else compare(at, np.asarray(outputs[name]), reference))
    return results


def compare(result: Result, ours: np.ndarray, reference: np.ndarray) -> Result:
    """Fills in the difference: float arrays by max |Δ|, integers and booleans by equality."""
    if ours.shape != reference.shape:
        return dataclasses.replace(result, why=f"shape {list(ours.shape)}, expected {list(reference.shape)}")
    same = ours == reference
    with np.errstate(invalid="ignore"):  # infinities that agree
        delta = np.where(same, 0.0, np.abs(ours.astype(np.float64) - reference.astype(np.float64)))
    largest = float(delta.max()) if delta.size else 0.0
    if not np.issubdtype(reference.dtype, np.floating):
        wrong = int((~same).sum())
        why = f"{wrong} of {reference.size} integers differ" if wrong else ""
        return dataclasses.replace(result, delta=largest, tolerance=0.0, why=why)
    return dataclasses.replace(result, delta=largest, why="" if np.isfinite(largest) else "not finite")


def _open(folder: pathlib.Path, meta: Mapping[str, Any]) -> Runner:
    return _function(*OPENERS[meta["system"]])(folder)


def _function(module: str, name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"mmjax.commands.{module}"), name)


def _run_cases(folder: pathlib.Path, meta: Mapping[str, Any]) -> list[Result]:
    """Cases in files of their own: every output of every case must be equal."""
    run, results = _function(*CASES[meta["system"]]), []
    for task, about in meta["tasks"].items():
        for name in about["outputs"]:
            at = Result(str(folder), task, name, 0.0)
            try:
                ours, wanted = run(folder, task)(name)
            except Unable as error:
                results.append(dataclasses.replace(at, why=str(error)))
                continue
            wrong = [pair for pair in zip(ours, wanted, strict=True) if pair[0] != pair[1]]
            first = f"{len(wrong)} of {len(wanted)} cases differ, the first: {wrong[0]}" if wrong else ""
            results.append(dataclasses.replace(at, delta=float(len(wrong)), why=first[:300]))
    return results


def _run_table(folder: pathlib.Path, meta: Mapping[str, Any]) -> list[Result]:
    """A table of cases: every output of every case must be equal."""
    cases = files.read_json_list(folder / TABLE)
    results = []
    for task, about in meta["tasks"].items():
        make = TABLES.get((meta["system"], task))
        for name in about["outputs"]:
            at = Result(str(folder), task, name, 0.0)
            if make is None:
                why = f"mmjax has no task {task!r} of {meta['system']!r}"
                results.append(dataclasses.replace(at, why=why))
                continue
            try:
                ours = _function(*make)(folder, meta, cases, name)
            except Unable as error:
                results.append(dataclasses.replace(at, why=str(error)))
                continue
            wrong = [case for case, value in zip(cases, ours, strict=True) if case[name] != value]
            first = f"{len(wrong)} of {len(cases)} cases differ, the first: {wrong[0]}" if wrong else ""
            results.append(dataclasses.replace(at, delta=float(len(wrong)), why=first[:300]))
    return results


class Table(NamedTuple):
    """What mmjax makes of a table in a file.

    Attributes:
      totals: outputs of all cases together.
      items: outputs of each case, as many names in each.
      reads: keys of a case that are inputs; any other must be an output.
    """

    totals: Mapping[str, Any]
    items: Sequence[Mapping[str, Any]]
    reads: Collection[str]


def _run_files(folder: pathlib.Path, meta: Mapping[str, Any]) -> list[Result]:
    """Tables of one file a task: the outputs that meta.json names, and every key of a case that is no input."""
    results = []
    for task, about in meta["tasks"].items():
        table = files.read_json(folder / f"{task}.json")
        tolerance = float(about.get("tolerance", 0.0))
        made = Table({}, [{} for _ in table["items"]], ())
        why = f"mmjax has no task {task!r} of {meta['system']!r}"
        if (meta["system"], task) in FILES:
            try:
                made, why = _function(*FILES[meta["system"], task])(table), "mmjax does not compute this output"
            except Unable as error:
                why = str(error)
        for name in about["outputs"]:
            at = Result(str(folder), task, name, tolerance)
            if name not in table:
                raise UserError(f"{folder / task}.json lacks the output {name!r}")
            known = name in made.totals
            results.append(_compare_values(at, [(made.totals[name], table[name])]) if known else
                           dataclasses.replace(at, why=why))  # fmt: skip
        for name in dict.fromkeys(key for case in table["items"] for key in case if key not in made.reads):
            at = Result(str(folder), task, f"items/{name}", tolerance)
            pairs = [(mine.get(name), case[name]) for mine, case in zip(made.items, table["items"], strict=True)
                     if name in case]  # fmt: skip
            known = all(name in mine for mine in made.items)
            results.append(_compare_values(at, pairs) if known else dataclasses.replace(at, why=why))
    return results


def _compare_values(result: Result, pairs: Sequence[tuple[Any, Any]]) -> Result:
    """Numbers by max |Δ|, everything else by equality; mappings and lists by their members."""
    largest, wrong = 0.0, list[str]()
    for ours, reference in pairs:
        for mine, theirs in _leaves(ours, reference):
            number = isinstance(theirs, float | int) and not isinstance(theirs, bool)
            if number and isinstance(mine, float | int):
                largest = max(largest, float(abs(mine - theirs)))
            elif mine != theirs:
                wrong.append(f"{mine!r}, expected {theirs!r}")
    why = f"{len(wrong)} of {len(pairs)} differ, the first: {wrong[0][:200]}" if wrong else ""
    return dataclasses.replace(result, delta=largest if not wrong else float(len(wrong)), why=why)


def _leaves(ours: Any, reference: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(reference, Mapping) and isinstance(ours, Mapping) and set(ours) == set(reference):
        for key in reference:
            yield from _leaves(ours[key], reference[key])
    elif isinstance(reference, list) and isinstance(ours, list) and len(ours) == len(reference):
        for mine, theirs in zip(ours, reference, strict=True):
            yield from _leaves(mine, theirs)
    else:
        yield ours, reference
