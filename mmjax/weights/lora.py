"""Adapters put into the maps that they stand beside: a checkpoint of a published layout has no place for them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.core import trees
from mmjax.core.errors import UserError

SUFFIX = "_lora"
TOWER = "llm"


def merged(system: Mapping[str, Any], variables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], int]:
    """(system, variables, adapters): every kernel with `α/r · down up` of its adapter added, and the adapters gone.

    Args:
      system: mapping whose `llm` may have `lora`.
      variables: arrays by collection; blocks stacked or numbered.

    Raises:
      UserError: an adapter beside no map.
    """
    llm = dict(system.get(TOWER, {}))
    lora = llm.pop("lora", None)
    if lora is None:
        return dict(system), dict(variables), 0
    flat, count = dict(trees.flatten(variables)), 0
    for path in [path for path in flat if path.endswith(f"{SUFFIX}/down/kernel")]:
        stem = path.removesuffix(f"{SUFFIX}/down/kernel")
        down, up = (np.asarray(flat.pop(f"{stem}{SUFFIX}/{part}/kernel"), np.float32) for part in ("down", "up"))
        if f"{stem}/kernel" not in flat:
            raise UserError(f"the adapter {stem}{SUFFIX} stands beside no map {stem}")
        kernel = np.asarray(flat[f"{stem}/kernel"], np.float32)
        flat[f"{stem}/kernel"] = kernel + np.float32(lora["alpha"] / lora["rank"]) * (down @ up)
        count += 1
    return {**system, TOWER: llm}, trees.unflatten(flat), count
