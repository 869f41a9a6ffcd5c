"""More rows for a token embedding, and for the bias of a head that shares it, for tokens that a checkpoint lacks."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.core import trees
from mmjax.core.errors import UserError

EMBEDDING = "params/txt/embed/embedding"
_BY_TOKEN = re.compile(r"(params|teacher)/(txt|dec)/(embed/embedding|head_bias)")


def grows(path: str) -> bool:
    """Whether a variable has an entry for each token and can be given more."""
    return _BY_TOKEN.fullmatch(path) is not None


def grow_rows(table: np.ndarray, rows: int, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A token embedding float32[V, D] with more rows: the new ones are the mean of the old ones, plus noise if told.

    Of a bias float32[V] the new entries are 0.

    Example:
      >>> grow_rows(np.array([[1.0], [3.0]], np.float32), 3).tolist()
      [[1.0], [3.0], [2.0]]
    """
    if table.ndim == 1:
        return np.pad(table, (0, rows - len(table)))
    new = np.repeat(table.mean(axis=0, dtype=np.float64, keepdims=True), rows - len(table), axis=0)
    if noise:
        new = new + noise * np.random.default_rng(seed).normal(size=new.shape)
    return np.concatenate([table, new.astype(np.float32)])


def account(old: int, new: int, noise: float = 0.0, path: str = EMBEDDING) -> str:
    """A line that says what `grow_rows` did."""
    if path.endswith("head_bias"):
        return f"{path}: {old} entries -> {new}, the new ones 0"
    more = f" plus noise of {noise}" if noise else ""
    return f"{path}: {old} rows -> {new}, the new ones the mean of the old ones{more}"


def grow(system: Mapping[str, Any], variables: Mapping[str, Any], rows: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(system, variables) with a token embedding of so many rows.

    Args:
      system: mapping, sizes spelled out.
      variables: numpy arrays by collection.
      rows: of the new embedding.

    Raises:
      UserError: fewer rows than there are.
    """
    vocab = system["txt"]["vocab"]
    if rows < vocab:
        raise UserError(f"a vocabulary of {rows}: the checkpoint's has {vocab} tokens, and none is taken away")
    flat = trees.flatten(variables)
    for path in filter(_of_txt, flat):
        flat[path] = grow_rows(np.asarray(flat[path]), rows)
    return {**system, "txt": {**system["txt"], "vocab": rows}}, trees.unflatten(flat)


def _of_txt(path: str) -> bool:
    return grows(path) and path.split("/")[1] == "txt"
