"""What a pipeline is made of, as JSON-able data: a checkpoint keeps it, and what has changed since can be told."""

import dataclasses
import json
from typing import Any


def describe(transform: Any) -> dict[str, Any]:
    """The kind and the fields of a transform, for the state."""
    kind = type(transform).__name__
    if dataclasses.is_dataclass(transform) and not isinstance(transform, type):
        return dict(kind=kind, **dataclasses.asdict(transform))
    return {"kind": getattr(transform, "__qualname__", kind)}


def plain(value: Any) -> Any:
    """As JSON reads it back: tuples become lists, so that saved and present values compare equal."""
    return json.loads(json.dumps(value))


def differences(saved: Any, now: Any, path: str = "") -> list[str]:
    """'path: was x, is y' for every leaf that differs."""
    if isinstance(saved, dict) and isinstance(now, dict):
        keys = [*saved, *(key for key in now if key not in saved)]
        nested = (differences(saved.get(k), now.get(k), f"{path}.{k}" if path else k) for k in keys)
        return [line for lines in nested for line in lines]
    if isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        pairs = enumerate(zip(saved, now, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{path}[{i}]")]
    return [] if saved == now else [f"{path} was {saved!r}, is {now!r}"]
