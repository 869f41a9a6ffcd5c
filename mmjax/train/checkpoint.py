"""Checkpoints: a directory is enough to resume bit for bit, evaluate, generate, serve or export.

```
DIR/mmjax.json           format version, system mapping, resolved config, licences of what went in
DIR/tokenizer/           the tokenizer's files
DIR/<step>/state/        orbax: a train State (or DIR/<step>/model/: variables alone)
DIR/<step>/meta/         JSON: stage, step within it, state of the data iterator; digests of the arrays
```

What is read is compared with the digests: a step that a disk, a full disk or a copy has damaged is never taken for the
one that was saved.
"""

import contextlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from mmjax.core import files, processes, trees
from mmjax.core.errors import UserError
from mmjax.train import stored
from mmjax.train.digest import digests, form
from mmjax.train.state import State

FORMAT = 1
DESCRIPTION = "mmjax.json"
_OWN = ("digests", "check")  # keys of the stored meta that are not the caller's


class Checkpointer:
    """Saves and restores a run; saving is asynchronous, one write at a time, the last `keep` steps are kept.

    Args:
      directory: made if missing.
      keep: number of latest steps to keep.
      description: what mmjax.json holds (`describe`).
    """

    def __init__(self, directory: str | pathlib.Path, *, keep: int = 2, description: Mapping | None = None) -> None:
        self.directory = files.make_folder(pathlib.Path(directory).absolute())
        if description is not None and jax.process_index() == 0:
            write_description(self.directory, description)
        stored.silence_leftovers()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True, create=False)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: State, meta: Mapping[str, Any]) -> None:
        """Starts writing `state` as of global step `step`; the arrays are copied before this returns.

        Raises:
          UserError: this step or the one before could not be written.
        """
        tree = _storable(state)
        meta = {**json.loads(json.dumps(meta)), "digests": digests(tree)}
        meta["check"] = stored.checksum(meta)
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
        with self._writing():
            self._manager.save(step, args=args, force=True)

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return self._manager.latest_step()

    def meta(self, step: int) -> dict[str, Any]:
        """What `save` was given.

        Raises:
          stored.Damaged: it cannot be read, or is not what was saved.
        """
        return {k: v for k, v in stored.read_meta(self.directory / str(step)).items() if k not in _OWN}

    def restore(self, step: int, abstract: State, shardings: State) -> State:
        """The state of a step, placed as `shardings` say.

        Raises:
          UserError: names or shapes are not exactly those of `abstract`.
          stored.Damaged: it cannot be read, or is not what was saved.
        """
        state, saved, arrays = self._read(step, abstract, shardings)
        stored.check_saved(saved, digests(arrays) if saved else {})
        return state

    def _read(self, step: int, abstract: State, shardings: State) -> tuple[State, dict[str, str], Any]:
        """(state, saved digests, the arrays that they are of), without waiting for another process."""
        folder, wanted = self.directory / str(step), stored.forms(_storable(abstract))
        saved = stored.read_meta(folder).get("digests")
        if saved is not None:
            stored.check_same(folder, form(saved), wanted)
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), _storable(abstract), _storable(shardings)
        )
        with stored.reading():
            found = stored.forms(stored.stored_tree(folder / "state"))
            if saved is None:  # of an earlier version: nothing tells damage from another system
                stored.check_same(folder, found, wanted)
            stored.check_saved(form(saved or found), found)
            # The manager's own `restore` waits for all processes, also for one that has met damage.
            with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
                arrays = handler.restore(folder / "state", args=ocp.args.StandardRestore(target))
        return _usable(arrays), saved or {}, arrays

    def restore_last(self, place: Callable[[dict[str, Any]], tuple[State, State]]) -> tuple[int, State, dict[str, Any]]:
        """(step, state, meta) of the last step that is whole; later ones are set aside as <step>.damaged, and named.

        With several processes all of them take the same step: one that any of them cannot read counts for none.

        Args:
          place: from the meta of a step to what `restore` takes: shapes and shardings of its state.

        Raises:
          UserError: no step is whole.
        """

        def read(step: int) -> tuple[Any, Mapping[str, str], Any]:
            meta = self.meta(step)
            state, saved, arrays = self._read(step, *place(meta))
            return (state, meta), saved, arrays

        step, found, damaged = stored.last_whole(processes.agree(steps(self.directory)), read)
        if step is None:
            raise UserError(_all_damaged(self.directory, damaged))
        for bad, why in damaged.items():
            folder = self.directory / str(bad)
            aside = processes.agree(_set_aside(folder) if jax.process_index() == 0 else None)
            _say(f"checkpoint {folder} is damaged ({why}): kept as {aside}, going on from step {step}")
        if damaged:
            self._manager.reload()
        return step, *found

    def wait(self) -> None:
        """Returns when what was started is on disk.

        Raises:
          UserError: it could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """`wait`, and ends the writer's threads."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # it repeats what `wait` has raised
                self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what the storage says about a full or closed disk into a UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(files.refusal(error, self.directory)) from error
        except Exception as error:  # of the storage library: the system's words are in its text
            number = files.number_in(str(error))
            if number is None:
                raise
            raise UserError(files.refusal(OSError(number, os.strerror(number)), self.directory)) from error


def _storable(state: State) -> dict[str, Any]:
    """The state as plain dictionaries and arrays: typed random keys become their words."""
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    rng = fields.pop("rng")
    if isinstance(rng, jax.Array):
        rng = jax.random.key_data(rng)
    elif isinstance(rng, jax.ShapeDtypeStruct):
        rng = jax.eval_shape(jax.random.key_data, rng)
    return {**fields, "rng": rng}


def _usable(stored: Mapping[str, Any]) -> State:
    return State(**{**stored, "rng": jax.random.wrap_key_data(stored["rng"])})


def steps(directory: pathlib.Path) -> list[int]:
    """The steps in a checkpoint directory, ascending; orbax renames a step's folder when it is complete."""
    folders = directory.iterdir() if directory.is_dir() else ()
    return sorted(int(p.name) for p in folders if p.name.isdigit() and p.is_dir())


def save_tokenizer(directory: pathlib.Path, tokenizer: Any) -> None:
    """Writes DIR/tokenizer whole or not at all; `tokenizer` is anything with `save(directory)`."""
    partial, final = directory / "tokenizer.partial", directory / "tokenizer"
    shutil.rmtree(partial, ignore_errors=True)
    with files.writing(final):
        tokenizer.save(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)


def write_description(directory: pathlib.Path, description: Mapping) -> None:
    """Writes mmjax.json atomically."""
    text = json.dumps({"format": FORMAT, **description}, indent=1)
    files.write_text(directory / DESCRIPTION, text)


def find(path: str | pathlib.Path) -> pathlib.Path:
    """The checkpoint directory for a work directory, a checkpoint directory or one step of it.

    Raises:
      UserError: nothing of the kind is there.
    """
    path = pathlib.Path(path).absolute()
    for candidate in (path, path / "checkpoints", *([path.parent] if path.name.isdigit() else [])):
        if (candidate / DESCRIPTION).is_file():
            return candidate
    raise UserError(f"{path} is no mmjax checkpoint: neither it nor {path / 'checkpoints'} holds {DESCRIPTION}")


def read_description(path: str | pathlib.Path) -> dict[str, Any]:
    """The content of mmjax.json.

    Raises:
      UserError: missing, or written by a newer format.
    """
    directory = find(path)
    try:
        description = json.loads((directory / DESCRIPTION).read_text())
    except ValueError as error:
        raise UserError(f"{directory / DESCRIPTION} is not JSON: {error}") from error
    if description.get("format") != FORMAT:
        raise UserError(f"{directory / DESCRIPTION}: format {description.get('format')}, this version reads {FORMAT}")
    return description


def save_model(
    directory: str | pathlib.Path,
    system: Mapping[str, Any],
    variables: Mapping[str, Any],
    *,
    tokenizer: Any = None,
    config: Mapping[str, Any] | None = None,
    licences: Sequence[Mapping[str, str]] = (),
) -> None:
    """Writes variables alone (an import, an export) in the layout of this module, as step 0.

    Args:
      system: the mapping that `systems.build` takes.
      variables: {"params": …} and other collections.
      tokenizer: anything with `save(directory)`.
      config: the resolved config, if there is one.
      licences: the ledger of what went into the model.

    Raises:
      UserError: the directory holds a training run.
    """
    directory = pathlib.Path(directory).absolute()
    if steps(directory) not in ([], [0]):
        raise UserError(f"{directory} holds a training run (steps {steps(directory)}); give another directory")
    files.make_folder(directory)
    if tokenizer is not None:
        save_tokenizer(directory, tokenizer)
    ready = jax.tree.map(np.asarray, dict(variables))
    with ocp.StandardCheckpointer() as writer:
        writer.save(directory / "0" / "model", ready, force=True)
    # Last: with it the directory counts as a checkpoint.
    description = {"system": dict(system), "config": dict(config) if config else None, "digests": digests(ready)}
    write_description(directory, {**description, "licences": [dict(item) for item in licences]})


def load_model(
    path: str | pathlib.Path,
    step: int | None = None,
    *,
    only: Callable[[str], bool] | None = None,
    where: Callable[[str], Sharding | None] | None = None,
) -> tuple[dict[str, Any], dict[str, Any], pathlib.Path | None, dict[str, Any] | None]:
    """Reads (system mapping, variables, tokenizer directory or None, config or None).

    From a training run these are the weights that its evaluators see (the averaged ones where the stage says so); its
    optimizer state is not read. Without `step`, steps that are damaged are passed over, and named on stderr.

    Args:
      only: which variables, by their paths as they are stored ("params/txt/pos"); default: all.
      where: path -> the sharding to which a variable is read piece by piece; without it, or for None, it becomes a
        numpy array.

    Raises:
      UserError: no checkpoint, no such step, or no step that is whole.
    """
    directory = find(path)
    description = read_description(directory)
    there = steps(directory)
    asked = pathlib.Path(path).name
    if step is None and asked.isdigit() and directory == pathlib.Path(path).absolute().parent:
        step = int(asked)
    if not there or (step is not None and step not in there):
        raise UserError(f"{directory} has no complete step{'' if step is None else f' {step}'}; there are {there}")

    def read(number: int) -> tuple[Any, Mapping[str, str], Any]:
        variables, saved = _read_variables(directory / str(number), description, only, where)
        return variables, saved, variables

    chosen = processes.agree(there if step is None else [step])
    taken, variables, damaged = stored.last_whole(chosen, read)
    if taken is None:
        raise UserError(_all_damaged(directory, damaged, there))
    for bad, why in damaged.items():
        _say(f"checkpoint {directory / str(bad)} is damaged ({why}): taking step {taken}")
    tokenizer = directory / "tokenizer"
    return description["system"], variables, tokenizer if tokenizer.is_dir() else None, description.get("config")


def _read_variables(
    folder: pathlib.Path,
    description: Mapping[str, Any],
    only: Callable[[str], bool] | None,
    where: Callable[[str], Sharding | None] | None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The variables of a step, as its evaluators see them, and their saved digests, under the same paths.

    Raises:
      stored.Damaged: it cannot be read.
    """
    run = not (folder / "model").is_dir()
    meta = stored.read_meta(folder) if run else {}
    saved = (meta if run else description).get("digests") or {}
    with stored.reading():
        part = folder / ("state" if run else "model")
        found = stored.forms(stored.stored_tree(part))
        if saved:
            stored.check_saved(form(saved), found)
        names = _variables(found, meta.get("evaluate") == "teacher") if run else {name: name for name in found}
        names = {name: path for name, path in names.items() if only is None or only(path)}
        tree = stored.read(part, names.__contains__, None if where is None else lambda name: where(names[name]))
    flat = trees.flatten(tree)
    variables = trees.unflatten({path: flat[name] for name, path in names.items()})
    return variables, {path: saved[name] for name, path in names.items()} if saved else {}


def _variables(found: Iterable[str], teacher: bool) -> dict[str, str]:
    """Path in a stored State -> path of the variable, for those that a forward pass takes."""
    averaged = {name.partition("/")[2] for name in found if name.startswith("teacher/")} if teacher else set()
    names = {}
    for name in found:
        top, _, rest = name.partition("/")
        if top == "stats":
            names[name] = rest
        elif (top in ("params", "frozen") and rest not in averaged) or (top == "teacher" and teacher):
            names[name] = f"params/{rest}"
    return names


def _set_aside(folder: pathlib.Path) -> str:
    """Renames the folder of a damaged step, so that the step can be made again; the new name."""
    names = (folder.with_name(f"{folder.name}.damaged{number or ''}") for number in range(1_000))
    aside = next(name for name in names if not name.exists())
    folder.rename(aside)
    return aside.name


def _all_damaged(directory: pathlib.Path, damaged: Mapping[int, str], there: list[int] | None = None) -> str:
    """The message when no step can be used."""
    named = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
    rest = sorted(set(steps(directory) if there is None else there) - set(damaged))
    if rest:
        return f"{directory}: damaged, {named}; other steps are {rest}: move the damaged one away, or name another step"
    return f"{directory} has no step that is whole: {named}; put a copy back, or begin anew in another directory"


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)
