"""Checkpoints: a directory is enough to resume bit for bit, evaluate, generate, serve or export.

```
DIR/mmjax.json           format version, system mapping, resolved config
DIR/tokenizer/           the tokenizer's files
DIR/<step>/state/        orbax: a train State (or DIR/<step>/model/: variables alone)
DIR/<step>/meta/         JSON: stage, step within it, state of the data iterator
```
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mmjax.core import files, trees
from mmjax.core.errors import UserError
from mmjax.train.state import State

FORMAT = 1
DESCRIPTION = "mmjax.json"


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
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True, create=False)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: State, meta: Mapping[str, Any]) -> None:
        """Starts writing `state` as of global step `step`; the arrays are copied before this returns."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_storable(state)), meta=ocp.args.JsonSave(json.loads(json.dumps(meta)))
        )
        self._manager.save(step, args=args, force=True)

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return self._manager.latest_step()

    def meta(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore(self, step: int, abstract: State, shardings: State) -> State:
        """The state of a step, placed as `shardings` say.

        Raises:
          UserError: names or shapes are not exactly those of `abstract`.
        """
        _check_same(self.directory / str(step), _shapes(_stored(self.directory / str(step) / "state")),
                    _shapes(_storable(abstract)))  # fmt: skip
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), _storable(abstract), _storable(shardings)
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return _usable(self._manager.restore(step, args=args)["state"])

    def wait(self) -> None:
        """Returns when what was started is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


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
    """The complete steps in a checkpoint directory, ascending; orbax renames a step's folder when it is complete."""
    folders = directory.iterdir() if directory.is_dir() else ()
    return sorted(
        int(p.name) for p in folders if p.name.isdigit() and ((p / "state").is_dir() or (p / "model").is_dir())
    )


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
) -> None:
    """Writes variables alone (an import, an export) in the layout of this module, as step 0.

    Args:
      system: the mapping that `systems.build` takes.
      variables: {"params": …} and other collections.
      tokenizer: anything with `save(directory)`.
      config: the resolved config, if there is one.

    Raises:
      UserError: the directory holds a training run.
    """
    directory = pathlib.Path(directory).absolute()
    if steps(directory) not in ([], [0]):
        raise UserError(f"{directory} holds a training run (steps {steps(directory)}); give another directory")
    files.make_folder(directory)
    if tokenizer is not None:
        save_tokenizer(directory, tokenizer)
    with ocp.StandardCheckpointer() as writer:
        writer.save(directory / "0" / "model", jax.tree.map(np.asarray, dict(variables)), force=True)
    # Last: with it the directory counts as a checkpoint.
    write_description(directory, {"system": dict(system), "config": dict(config) if config else None})


def load_model(
    path: str | pathlib.Path, step: int | None = None
) -> tuple[dict[str, Any], dict[str, Any], pathlib.Path | None, dict[str, Any] | None]:
    """Reads (system mapping, variables as numpy arrays, tokenizer directory or None, config or None).

    From a training run these are the weights that its evaluators see (the averaged ones where the stage says so).

    Raises:
      UserError: no checkpoint, or no such step.
    """
    directory = find(path)
    description = read_description(directory)
    there = steps(directory)
    asked = pathlib.Path(path).name
    if step is None and asked.isdigit() and directory == pathlib.Path(path).absolute().parent:
        step = int(asked)
    if not there or (step is not None and step not in there):
        raise UserError(f"{directory} has no complete step{'' if step is None else f' {step}'}; there are {there}")
    folder = directory / str(there[-1] if step is None else step)
    if (folder / "model").is_dir():
        variables = _read(folder / "model")
    else:
        stored = _read(folder / "state")
        meta = json.loads((folder / "meta" / "metadata").read_text())
        teacher = stored["teacher"] if meta.get("evaluate") == "teacher" else {}
        params = trees.merge(stored["frozen"], stored["params"], teacher)
        variables = {"params": params, **stored["stats"]}
    tokenizer = directory / "tokenizer"
    return description["system"], variables, tokenizer if tokenizer.is_dir() else None, description.get("config")


def _read(folder: pathlib.Path) -> dict[str, Any]:
    """A stored tree as numpy arrays, whatever devices wrote it."""
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _stored(folder))
    with ocp.PyTreeCheckpointer() as reader:
        return reader.restore(folder, restore_args=args)


def _stored(folder: pathlib.Path) -> Any:
    """A stored tree's shapes, from the handler: the checkpointer would warn of a file that it can do without."""
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        return handler.metadata(folder).tree


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {trees.path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check_same(where: pathlib.Path, stored: Mapping[str, tuple], wanted: Mapping[str, tuple]) -> None:
    """Raises UserError that lists what differs; orbax alone would fail in the middle of reading."""
    missing, unused = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
    wrong = [f"{k}: {stored[k]} for {wanted[k]}" for k in wanted if k in stored and stored[k] != wanted[k]]
    if missing or unused or wrong:
        raise UserError(f"{where} is of another state: missing {missing[:8]}, unused {unused[:8]}, shapes {wrong[:8]}")
