"""Weights to begin with: `config.init`, a whole checkpoint or parts of one or several.

    c.init = "openai/ViT-B-32.pt"                                   # everything, and everything must fit
    c.init = {"path": "openai/ViT-B-32.pt", "load": ("img/.*",)}    # the image tower; the rest begins at random
    c.init = [{"path": A, "load": ("img/.*",)}, {"path": B, "load": ("txt/.*", "txt_proj/.*"), "grow_vocab": True}]

A mapping's keys:
  path *       a checkpoint of any layout; "random" says that what `load` names here is to begin at random, and may stay
  load         patterns over the checkpoint's parameter paths ("img/.*"), default all
  skip         patterns of what to leave out of these
  rename       {pattern: replacement} from its paths to ours; the first pattern that matches a path counts
  grow_vocab   True: rows of the token embedding that the checkpoint lacks begin as the mean of its own, and as 0 in
               the bias of a head for words
  grow_noise   standard deviation of noise on these rows, default 0

Patterns match whole paths. One that matches nothing is an error, and so is whatever is chosen and does not fit; but
positions are resized to the system's image size and text length, and the printed account says so.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import NamedSharding

from mmjax import inputs
from mmjax.checks import RANDOM
from mmjax.commands import models
from mmjax.core import trees
from mmjax.core.config import check_keys
from mmjax.core.errors import UserError
from mmjax.core.placement import Placer, as_stack
from mmjax.core.stacking import unstack_blocks
from mmjax.weights import positions, vocabulary
from mmjax.weights.layout import float32
from mmjax.weights.vocabulary import EMBEDDING

KEYS = ("path", "load", "skip", "rename", "grow_vocab", "grow_noise")
_NAMED = 8  # paths that a message lists


class Entry(NamedTuple):
    """One item of `config.init`; `whole`: a path alone, which must fill the system."""

    where: str
    path: str
    load: tuple[str, ...] = (".*",)
    skip: tuple[str, ...] = ()
    rename: Mapping[str, str] = {}
    grow_vocab: bool = False
    grow_noise: float = 0.0
    whole: bool = False


def entries(init: Any) -> list[Entry]:
    """The items of `config.init`.

    Raises:
      UserError: neither a path nor a mapping with one, or keys that do not exist.
    """
    if isinstance(init, str):
        return [Entry("config.init", init, whole=True)]
    several = isinstance(init, Sequence)
    found = []
    for number, item in enumerate(init if several else [init]):
        where = f"config.init[{number}]" if several else "config.init"
        if isinstance(item, str):
            item = {"path": item}
        if not isinstance(item, Mapping):
            raise UserError(f"{where} is {item!r}; expected a path, or a mapping with the keys {', '.join(KEYS)}")
        check_keys(where, item, KEYS)
        if not isinstance(item.get("path"), str) or not item["path"]:
            raise UserError(f"{where}.path is missing: the checkpoint to read")
        if item["path"] == RANDOM and (reads := sorted(set(item) & {"rename", "grow_vocab", "grow_noise"})):
            raise UserError(f"{where}.{reads[0]} is for a checkpoint; with the path {RANDOM!r} there are load and skip")
        patterns = {
            key: (item[key],) if isinstance(item[key], str) else tuple(item[key])
            for key in ("load", "skip")
            if item.get(key)
        }
        found.append(Entry(where, **{**item, **patterns}))
    return found


def load(
    config: Mapping[str, Any],
    abstract: Mapping[str, Any],
    shardings: Mapping[str, Any],
    random: Callable[[], Mapping[str, Any]],
) -> tuple[dict[str, Any], str]:
    """(variables, account): read one tensor at a time and placed at once; what no checkpoint gives begins at random.

    Args:
      config: the run's: `init`, `system` (positions of other sizes are resized) and `seed` (of `grow_noise`).
      abstract: shapes of the system's variables, blocks stacked or numbered.
      shardings: where they live.
      random: makes all of them; called only if some are left at random.

    Raises:
      UserError: a checkpoint that cannot be read, patterns that match nothing, names or shapes that do not fit, a
        system that computes something else, or a variable that two items would fill. All this is found before the
        first tensor is read.
    """
    flat, wanted = trees.flatten(abstract), _shapes(abstract)
    plans = _plans(config, wanted)
    filled = {path for entry, plan in plans if entry.path != RANDOM for path in plan.values()}
    left = sorted(set(wanted) - filled)
    placer = Placer(flat, trees.flatten(shardings), trees.flatten(random()) if left else None)
    sizes, seed = (inputs.image_size(config), inputs.positions_length(config)), int(config["seed"])
    account = [_read(entry, plan, wanted, placer, sizes, seed) for entry, plan in plans if entry.path != RANDOM]
    account.append(f"left at random: {_by_module(left, wanted)}" if left else "nothing is left at random")
    return placer.tree(), "\n".join(account)


def given(config: Mapping[str, Any], abstract: Mapping[str, Any]) -> set[str]:
    """Parameters, blocks numbered, that `config.init` fills or says to be random on purpose: "img/cls", ….

    Raises:
      UserError: see `load`.
    """
    init, wanted = config.get("init"), _shapes(abstract)
    if not init or isinstance(init, str):  # nothing, or everything
        return {path.partition("/")[2] for path in wanted} if init else set()
    return {path.partition("/")[2] for _, plan in _plans(config, wanted) for path in plan.values()}


def _shapes(abstract: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in trees.flatten(unstack_blocks(abstract)).items()}


def _plans(config: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> list[tuple[Entry, dict[str, str]]]:
    """Every item of `config.init` with what it fills; no two fill the same."""
    there: dict[str, There] = {}
    plans = [_plan(entry, wanted, config["system"], there) for entry in entries(config["init"])]
    filled: dict[str, str] = {}
    for entry, plan in plans:
        both = [path for path in plan.values() if path in filled]
        if both:
            raise UserError(f"{entry.where} and {filled[both[0]]} both give {_some(both)}: narrow their load or skip")
        filled |= dict.fromkeys(plan.values(), entry.where)
    return plans


There = tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]  # a checkpoint's system, and its variables' shapes


def _plan(
    entry: Entry, wanted: Mapping[str, tuple[int, ...]], system: Mapping[str, Any], there: dict[str, There]
) -> tuple[Entry, dict[str, str]]:
    """The entry, and which path of its checkpoint fills which of ours, checked without reading a tensor.

    `there`: what is known of checkpoints, by their paths; it is added to.
    """
    random = entry.path == RANDOM
    if not random and entry.path not in there:
        found = models.read_system(entry.path)
        there[entry.path] = found, models.shapes(found)
    theirs, shapes = (system, wanted) if random else there[entry.path]
    paths = {path.partition("/")[2]: path for path in shapes}  # patterns do not say the collection
    trees.check_patterns(paths, entry.load, f"{entry.where}.load of {entry.path}:")
    trees.check_patterns(paths, entry.skip, f"{entry.where}.skip of {entry.path}:")
    chosen = [path for path in paths if trees.matches(path, entry.load) and not trees.matches(path, entry.skip)]
    if not chosen:
        raise UserError(f"{entry.where} loads nothing of {entry.path}: skip leaves out all that load chooses")
    trees.check_patterns(chosen, entry.rename, f"{entry.where}.rename of {entry.path}:")
    plan = {paths[path]: f"{paths[path].partition('/')[0]}/{_renamed(path, entry.rename)}" for path in chosen}
    twice = sorted({ours for ours in plan.values() if list(plan.values()).count(ours) > 1}) if entry.rename else []
    if twice:
        raise UserError(f"{entry.where}.rename gives one name to several parameters: {_some(twice)}")
    unused = [ours for ours in plan.values() if ours not in wanted]
    missing = sorted(set(wanted) - set(plan.values())) if entry.whole else []
    wrong = [
        f"{ours}: {shapes[path]} for {wanted[ours]}"
        for path, ours in plan.items()
        if ours in wanted and not _fits(entry, path, ours, shapes[path], wanted[ours])
    ]
    if unused or missing or wrong:
        hints = [] if not entry.whole else ["config.init as a mapping {path, load, skip, rename} takes parts"]
        if any(line.startswith(EMBEDDING) for line in wrong):
            hints.append("grow_vocab=True in that mapping fills new rows of the embedding with the mean of the others")
        raise UserError(
            f"{entry.where} {entry.path} does not fit the system: missing {missing[:_NAMED]}, "
            f"unused {unused[:_NAMED]}, shapes {wrong[:_NAMED]}" + "".join(f"; {hint}" for hint in hints)
        )
    if random:
        return entry, plan
    tops = {ours.split("/")[1] for path, ours in plan.items() if path.split("/")[1] == ours.split("/")[1]}
    inputs.check_same_computation(entry.path, theirs, system, {"", "img", "txt"} if entry.whole else tops)
    return entry, plan


def _renamed(path: str, rename: Mapping[str, str]) -> str:
    for pattern, replacement in rename.items():
        if match := re.fullmatch(pattern, path):
            try:
                return match.expand(replacement)
            except (re.error, IndexError) as error:
                raise UserError(f"config.init: rename {pattern!r} -> {replacement!r}: {error}") from error
    return path


def _fits(entry: Entry, path: str, ours: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if path in positions.TABLES and path == ours:  # resized on the way
        return shape[1:] == wanted[1:]
    if entry.grow_vocab and vocabulary.grows(ours):
        return shape[1:] == wanted[1:] and shape[0] <= wanted[0]
    return shape == wanted


def _read(
    entry: Entry,
    plan: Mapping[str, str],
    wanted: Mapping[str, tuple[int, ...]],
    placer: Placer,
    sizes: tuple[int, int],
    seed: int,
) -> str:
    """Reads and places the chosen tensors; returns what came from where. `sizes`: of the images, of the texts."""
    notes: list[str] = []

    def place(path: str, array: Any) -> None:
        ours = plan[path]
        if entry.grow_vocab and vocabulary.grows(ours) and array.shape[0] < wanted[ours][0]:
            rows = wanted[ours][0]
            notes.append(vocabulary.account(array.shape[0], rows, entry.grow_noise, ours))
            array = vocabulary.grow_rows(float32(np.asarray(array)), rows, noise=entry.grow_noise, seed=seed)
        if tuple(array.shape) != wanted[ours]:
            raise UserError(f"{entry.path}: {path} is {tuple(array.shape)}, {ours} of the system {wanted[ours]}")
        placer(ours, array)

    stacks = {as_stack(path): ours for path, ours in plan.items()}

    def where(path: str) -> NamedSharding | None:
        """Read straight to its devices, but what is changed on the way comes through the host."""
        ours = plan.get(path) or stacks.get(path, "")
        changed = path in positions.TABLES or (entry.grow_vocab and vocabulary.grows(ours))
        return None if changed else placer.sharding(ours if path in plan else as_stack(ours))

    image, text = (any(plan.get(path) == path for path in paths) for paths in (positions.IMAGE, (positions.TEXT,)))
    size, length = sizes[0] if image else None, sizes[1] if text else None
    found = models.load(
        entry.path, image_size=size, text_length=length, only=plan.__contains__, place=place, where=where
    )
    renamed = [f"{path} -> {ours}" for path, ours in plan.items() if path != ours]
    lines = [f"init: {len(plan)} of the system's {len(wanted)} variables from {entry.path} ({found.layout})"]
    lines.append(f"  {_by_module(plan.values(), wanted)}")
    lines += [f"  renamed: {_some(renamed)}"] if renamed else []
    lines += [f"  {line}" for line in [*found.account.splitlines(), *notes]]
    return "\n".join(lines)


def _by_module(paths: Any, wanted: Mapping[str, tuple[int, ...]]) -> str:
    """Counts of variables and of values for each top-level module."""
    sums: dict[str, list[int]] = {}
    for path in paths:
        top = sums.setdefault(path.split("/")[1], [0, 0])
        top[0], top[1] = top[0] + 1, top[1] + int(np.prod(wanted[path]))
    return ", ".join(f"{name} {count} ({values:,} values)" for name, (count, values) in sorted(sums.items()))


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more
