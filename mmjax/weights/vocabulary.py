"""More rows for a token embedding, for tokens that a checkpoint does not know."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.core import trees
from mmjax.core.errors import UserError

EMBEDDING = "params/txt/embed/embedding"


def grow_rows(table: np.ndarray, rows: int, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A token embedding float32[V, D] with more rows: the new ones are the mean of the old ones, plus noise if told.

    Example:
      >>> grow_rows(np.array([[1.0], [3.0]], np.float32), 3).tolist()
      [[1.0], [3.0], [2.0]]
    """
    new = np.repeat(table.mean(axis=0, dtype=np.float64, keepdims=True), rows - len(table), axis=0)
    if noise:
        new = new + noise * np.random.default_rng(seed).normal(size=new.shape)
    return np.concatenate([table, new.astype(np.float32)])


def account(old: int, new: int, noise: float = 0.0) -> str:
    """A line that says what `grow_rows` did."""
    more = f" plus noise of {noise}" if noise else ""
    return f"{EMBEDDING}: {old} rows -> {new}, the new ones the mean of the old ones{more}"


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
    flat[EMBEDDING] = grow_rows(np.asarray(flat[EMBEDDING]), rows)
    return {**system, "txt": {**system["txt"], "vocab": rows}}, trees.unflatten(flat)
