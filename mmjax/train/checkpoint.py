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
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mmjax.core import files, trees
from mmjax.core.errors import UserError
from mmjax.train.digest import describe, digests, form
from mmjax.train.state import State

FORMAT = 1
DESCRIPTION = "mmjax.json"
_OWN = ("digests", "check")  # keys of the stored meta that are not the caller's


class Damaged(Exception):
    """A step cannot be read, or does not hold what was saved."""


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
        _silence_leftovers()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True, create=False)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: State, meta: Mapping[str, Any]) -> None:
        """Starts writing `state` as of global step `step`; the arrays are copied before this returns.

        Raises:
          UserError: this step or the one before could not be written.
        """
        tree = _storable(state)
        meta = {**json.loads(json.dumps(meta)), "digests": digests(tree)}
        meta["check"] = _check(meta)
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
        with self._writing():
            self._manager.save(step, args=args, force=True)

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return self._manager.latest_step()

    def meta(self, step: int) -> dict[str, Any]:
        """What `save` was given.

        Raises:
          Damaged: it cannot be read, or is not what was saved.
        """
        return {k: v for k, v in _read_meta(self.directory / str(step)).items() if k not in _OWN}

    def restore(self, step: int, abstract: State, shardings: State) -> State:
        """The state of a step, placed as `shardings` say.

        Raises:
          UserError: names or shapes are not exactly those of `abstract`.
          Damaged: it cannot be read, or is not what was saved.
        """
        folder, wanted = self.directory / str(step), _forms(_storable(abstract))
        saved = _read_meta(folder).get("digests")
        if saved is not None:
            _check_same(folder, form(saved), wanted)
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), _storable(abstract), _storable(shardings)
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        with _reading():
            stored = _forms(_stored(folder / "state"))
            if saved is None:  # of an earlier version: nothing tells damage from another system
                _check_same(folder, stored, wanted)
            _check_saved(form(saved or stored), stored)
            state = self._manager.restore(step, args=args)["state"]
        _check_saved(saved or {}, digests(state) if saved else {})
        return _usable(state)

    def restore_last(self, place: Callable[[dict[str, Any]], tuple[State, State]]) -> tuple[int, State, dict[str, Any]]:
        """(step, state, meta) of the last step that is whole; later ones are set aside as <step>.damaged, and named.

        Args:
          place: from the meta of a step to what `restore` takes: shapes and shardings of its state.

        Raises:
          UserError: no step is whole, or (with several processes, which cannot agree on one) the last one is not.
        """
        damaged: dict[int, str] = {}
        for step in reversed(steps(self.directory)):
            try:
                meta = self.meta(step)
                state = self.restore(step, *place(meta))
            except Damaged as error:
                damaged[step] = str(error)
                if jax.process_count() > 1:
                    break
                continue
            for bad, why in damaged.items():
                aside = _set_aside(self.directory / str(bad))
                _say(f"checkpoint {self.directory / str(bad)} is damaged ({why}): kept as {aside.name}, going on from "
                     f"step {step}")  # fmt: skip
            if damaged:
                self._manager.reload()
            return step, state, meta
        raise UserError(_all_damaged(self.directory, damaged))

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
    path: str | pathlib.Path, step: int | None = None
) -> tuple[dict[str, Any], dict[str, Any], pathlib.Path | None, dict[str, Any] | None]:
    """Reads (system mapping, variables as numpy arrays, tokenizer directory or None, config or None).

    From a training run these are the weights that its evaluators see (the averaged ones where the stage says so).
    Without `step`, steps that are damaged are passed over, and named on stderr.

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
    damaged: dict[int, str] = {}
    for number in reversed(there if step is None else [step]):
        try:
            variables = _read_variables(directory / str(number), description)
        except Damaged as error:
            damaged[number] = str(error)
            continue
        for bad, why in damaged.items():
            _say(f"checkpoint {directory / str(bad)} is damaged ({why}): taking step {number}")
        tokenizer = directory / "tokenizer"
        return description["system"], variables, tokenizer if tokenizer.is_dir() else None, description.get("config")
    raise UserError(_all_damaged(directory, damaged, there))


def _read_variables(folder: pathlib.Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a step, as its evaluators see them.

    Raises:
      Damaged: it cannot be read, or is not what was saved.
    """
    if (folder / "model").is_dir():
        with _reading():
            variables = _read(folder / "model")
        saved = description.get("digests")
        _check_saved(saved or {}, digests(variables) if saved else {})
        return variables
    meta = _read_meta(folder)
    with _reading():
        stored = _read(folder / "state")
    saved = meta.get("digests")
    _check_saved(saved or {}, digests(stored) if saved else {})
    teacher = stored["teacher"] if meta.get("evaluate") == "teacher" else {}
    params = trees.merge(stored["frozen"], stored["params"], teacher)
    return {"params": params, **stored["stats"]}


def _read_meta(folder: pathlib.Path) -> dict[str, Any]:
    """The stored meta of a step, digests included.

    Raises:
      Damaged: it cannot be read, or is not what was saved.
    """
    try:
        meta = json.loads((folder / "meta" / "metadata").read_text(encoding="utf-8"))
    except OSError as error:
        raise Damaged(f"meta/metadata: {error.strerror or error}") from error
    except ValueError as error:
        raise Damaged(f"meta/metadata is not JSON: {_brief(error)}") from error
    if not isinstance(meta, dict) or "stage" not in meta or ("digests" in meta) != ("check" in meta):
        raise Damaged("meta/metadata is not what was saved")
    if "check" in meta and meta["check"] != _check(meta):
        raise Damaged("meta/metadata is not what was saved")
    return meta


def _check(meta: Mapping[str, Any]) -> int:
    """CRC-32 of a meta, less the entry for itself."""
    return zlib.crc32(json.dumps({k: v for k, v in meta.items() if k != "check"}, sort_keys=True).encode())


def _check_saved(saved: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raises Damaged if digests (or forms) of arrays are not those that were saved."""
    differ = sorted(name for name in {*saved, *found} if saved.get(name) != found.get(name))
    if differ:
        more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
        raise Damaged(f"the array {differ[0]}{more} is not what was saved")


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Turns whatever the storage library says of files that are cut, missing or changed into Damaged."""
    try:
        yield
    except (Damaged, UserError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # damaged JSON alone gives some ten kinds
        _silence_leftovers()
        raise Damaged(_brief(error)) from error


def _silence_leftovers() -> None:
    """Where one read or write fails, the library drops the others in mid-air: Python would print a traceback for each.

    The failure itself is raised; from here on, what the dropped ones say after it is left out.
    """
    before = sys.unraisablehook
    if getattr(before, "leaves_out_reads", False):
        return

    def hook(info: Any) -> None:
        code = getattr(info.object, "cr_code", None) or getattr(info.object, "__code__", None)
        from_reads = code is not None and ("orbax" in code.co_filename or "tensorstore" in code.co_filename)
        if not (from_reads or "Event loop is closed" in str(info.exc_value)):
            before(info)

    hook.leaves_out_reads = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}{'…' if len(text) > 160 else ''}"


def _set_aside(folder: pathlib.Path) -> pathlib.Path:
    """Renames the folder of a damaged step, so that the step can be made again."""
    names = (folder.with_name(f"{folder.name}.damaged{number or ''}") for number in range(1_000))
    aside = next(name for name in names if not name.exists())
    folder.rename(aside)
    return aside


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


def _read(folder: pathlib.Path) -> dict[str, Any]:
    """A stored tree as numpy arrays, whatever devices wrote it."""
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _stored(folder))
    with ocp.PyTreeCheckpointer() as reader:
        return reader.restore(folder, restore_args=args)


def _stored(folder: pathlib.Path) -> Any:
    """A stored tree's shapes, from the handler: the checkpointer would warn of a file that it can do without."""
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        return handler.metadata(folder).tree


def _forms(tree: Any) -> dict[str, str]:
    return {trees.path_name(path): describe(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check_same(where: pathlib.Path, stored: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises UserError that lists what differs; orbax alone would fail in the middle of reading."""
    missing, unused = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
    wrong = [f"{k}: {stored[k]} for {wanted[k]}" for k in wanted if k in stored and stored[k] != wanted[k]]
    if missing or unused or wrong:
        raise UserError(f"{where} is of another state: missing {missing[:8]}, unused {unused[:8]}, shapes {wrong[:8]}")
