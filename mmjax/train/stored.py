"""One stored step: reading its arrays to where they belong, and telling a damaged one from the one that was saved."""

import contextlib
import json
import pathlib
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from mmjax.core import processes, trees
from mmjax.core.errors import UserError
from mmjax.train.digest import describe, digests


class Damaged(Exception):
    """A step cannot be read, or does not hold what was saved."""


def last_whole(
    there: list[int], read: Callable[[int], tuple[Any, Mapping[str, str], Any]]
) -> tuple[int | None, Any, dict[int, str]]:
    """(step, what was read of it, damaged later steps with the reason): the last step that is whole, for all processes.

    A process may meet damage that the others do not read: they exchange what they found before they take a step.

    Args:
      there: steps, ascending; the same in all processes.
      read: step -> (result, saved digests, the arrays that they are of), without waiting for another process.

    Returns:
      None in the place of the step if no one is whole.

    Raises:
      UserError: one that `read` raises in any process.
    """
    damaged: dict[int, str] = {}
    for step in reversed(there):
        found: Any = None
        told: list[str] | None = None
        try:
            found = read(step)
        except Damaged as error:
            told = ["damaged", str(error)]
        except UserError as error:
            told = ["mistake", str(error)]
        told = next((each for each in processes.every(told) if each), None)
        if told is None:
            result, saved, arrays = found
            try:
                check_saved(saved, digests(arrays) if saved else {})
                return step, result, damaged
            except Damaged as error:
                told = ["damaged", str(error)]
        if told[0] == "mistake":
            raise UserError(told[1])
        damaged[step] = told[1]
    return None, None, damaged


def read_meta(folder: pathlib.Path) -> dict[str, Any]:
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
    if "check" in meta and meta["check"] != checksum(meta):
        raise Damaged("meta/metadata is not what was saved")
    return meta


def checksum(meta: Mapping[str, Any]) -> int:
    """CRC-32 of a meta, less the entry for itself."""
    return zlib.crc32(json.dumps({k: v for k, v in meta.items() if k != "check"}, sort_keys=True).encode())


def check_saved(saved: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raises Damaged if digests (or forms) of arrays are not those that were saved."""
    differ = sorted(name for name in {*saved, *found} if saved.get(name) != found.get(name))
    if differ:
        more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
        raise Damaged(f"the array {differ[0]}{more} is not what was saved")


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turns whatever the storage library says of files that are cut, missing or changed into Damaged."""
    try:
        yield
    except (Damaged, UserError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # damaged JSON alone gives some ten kinds
        silence_leftovers()
        raise Damaged(_brief(error)) from error


def silence_leftovers() -> None:
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


def read(
    folder: pathlib.Path,
    only: Callable[[str], bool] | None = None,
    where: Callable[[str], Sharding | None] | None = None,
) -> dict[str, Any]:
    """A stored tree, whatever devices wrote it; no process waits for another one.

    Args:
      only: which leaves, by their paths; default: all.
      where: path -> sharding, to which a leaf is read piece by piece; None, or None for a leaf: a numpy array.
    """
    tree = stored_tree(folder)

    def what(path: tuple, leaf: Any) -> Any:
        return leaf if only is None or only(trees.path_name(path)) else ocp.PLACEHOLDER

    def how(path: tuple, leaf: Any) -> Any:
        read = what(path, leaf) is not ocp.PLACEHOLDER
        sharding = where(trees.path_name(path)) if read and where is not None else None
        if sharding is None:
            return ocp.RestoreArgs(restore_type=np.ndarray)
        return ocp.ArrayRestoreArgs(sharding=sharding)

    item = jax.tree_util.tree_map_with_path(what, tree)
    args = ocp.args.PyTreeRestore(item=item, restore_args=jax.tree_util.tree_map_with_path(how, tree))
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        found = handler.restore(folder, args=args)
    if only is None:
        return found
    flat = jax.tree_util.tree_leaves_with_path(found)
    return trees.unflatten({trees.path_name(path): leaf for path, leaf in flat if leaf is not ocp.PLACEHOLDER})


def stored_tree(folder: pathlib.Path) -> Any:
    """A stored tree's shapes, from the handler: the checkpointer would warn of a file that it can do without."""
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        return handler.metadata(folder).tree


def forms(tree: Any) -> dict[str, str]:
    """ "a/b/c" -> "float32[8,4]" for every leaf of a tree."""
    return {trees.path_name(path): describe(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def check_same(where: pathlib.Path, stored: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises UserError that lists what differs; orbax alone would fail in the middle of reading."""
    missing, unused = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
    wrong = [f"{k}: {stored[k]} for {wanted[k]}" for k in wanted if k in stored and stored[k] != wanted[k]]
    if missing or unused or wrong:
        raise UserError(f"{where} is of another state: missing {missing[:8]}, unused {unused[:8]}, shapes {wrong[:8]}")
