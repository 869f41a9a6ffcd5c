"""Parameter trees as flat dictionaries: patterns over "a/b/c" paths select, split, merge and count."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mmjax.core.errors import UserError

Tree = dict[str, Any]


def flatten(tree: Mapping) -> dict[str, Any]:
    """`{"a": {"b": x}}` -> `{"a/b": x}`."""
    return flatten_dict(dict(tree), sep="/")


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """`{"a/b": x}` -> `{"a": {"b": x}}`."""
    return unflatten_dict(dict(flat), sep="/")


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether any pattern matches the whole path."""
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def check_patterns(paths: Iterable[str], patterns: Iterable[str], what: str = "pattern") -> None:
    """Raises UserError for a pattern that matches none of the paths: it is nearly always a typo."""
    paths, patterns = sorted(paths), tuple(patterns)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{what} {pattern!r} is not a regular expression: {error}") from error
    dead = [p for p in patterns if not any(re.fullmatch(p, path) for path in paths)]
    if dead:
        tops = sorted({path.split("/")[0] for path in paths})
        shown = ", ".join(paths[:12]) + (f", … ({len(paths)} in all)" if len(paths) > 12 else "")
        raise UserError(f"{what} {dead} matches no parameter; top-level modules: {tops}; parameters: {shown}")


def split(tree: Mapping, patterns: Iterable[str], what: str = "pattern") -> tuple[Tree, Tree]:
    """Splits a tree into (matched, rest) by full-match patterns over "a/b/c" paths.

    Raises:
      UserError: a pattern matches nothing; the message lists what exists.
    """
    flat, patterns = flatten(tree), tuple(patterns)
    check_patterns(flat, patterns, what)
    hit = {k: matches(k, patterns) for k in flat}
    return unflatten({k: v for k, v in flat.items() if hit[k]}), unflatten(
        {k: v for k, v in flat.items() if not hit[k]}
    )


def merge(*trees: Mapping) -> Tree:
    """Merges trees leaf by leaf; later trees win."""
    return unflatten({k: v for tree in trees for k, v in flatten(tree).items()})


def count(tree: Any) -> int:
    """Number of scalars in a tree of arrays or ShapeDtypeStructs."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def count_by_module(tree: Mapping) -> dict[str, int]:
    """Number of scalars under each top-level module."""
    return {name: count(sub) for name, sub in sorted(tree.items())}


def path_name(path: tuple) -> str:
    """A jax key path as "a/b/c" (attributes, indices and dictionary keys alike)."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
