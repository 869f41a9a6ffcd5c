"""A jaxpr as a flat list of operations: calls inlined, dead ones removed; loops, branches and shard_map keep a body.

What runs for every chip is read from this form: its FLOPs (flops.py), where its values lie (spread.py) and how many of
them live at once (liveness.py).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.extend import core as jex

# Calls whose body is part of the program around it. A rematerialised body stands where it is recomputed.
_INLINED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_KEPT = {"scan", "while", "cond", "shard_map"}


@dataclasses.dataclass(eq=False)
class Value:
    """One array of the program.

    Attributes:
      shape: global; inside of a shard_map, of one device.
      itemsize: bytes an element.
      constant: a literal or captured constant.
      literal: a scalar literal's value, written out.
    """

    shape: tuple[int, ...]
    itemsize: int
    constant: bool = False
    literal: str | None = None


@dataclasses.dataclass(eq=False)
class Op:
    """One operation; `bodies` holds a loop's body, the branches of a cond, the inside of a shard_map."""

    name: str
    ins: list[Value]
    outs: list[Value]
    params: Mapping[str, Any]
    bodies: tuple["Program", ...] = ()


@dataclasses.dataclass(eq=False)
class Program:
    """Operations in order; `ins` and `outs` are its arguments and results."""

    ins: list[Value]
    ops: list[Op]
    outs: list[Value]


def read(closed: Any, platform: str = "cpu") -> Program:
    """The program of a ClosedJaxpr, with the code that is written for "cpu", "gpu" (NVIDIA) or "tpu"."""
    return _read(closed.jaxpr, {"gpu": "cuda"}.get(platform, platform))


def times(op: Op) -> int:
    """How often an operation's body runs; a while loop's count is not known before it runs and is taken as 1."""
    return int(op.params["length"]) if op.name == "scan" else 1


def _read(jaxpr: Any, platform: str) -> Program:
    values: dict[Any, Value] = {}
    ops: list[Op] = []
    for var in jaxpr.constvars:
        values[var] = _value(var.aval, constant=True)
    ins = [values.setdefault(var, _value(var.aval)) for var in jaxpr.invars]
    _inline(jaxpr, values, ops, platform)
    outs = [_lookup(var, values) for var in jaxpr.outvars]
    if platform == "cpu":
        ops, outs = _shared(ops, outs)
    return Program(ins, _alive(ops, outs), outs)


def _inline(jaxpr: Any, values: dict[Any, Value], ops: list[Op], platform: str) -> None:
    """Appends a jaxpr's equations; `values` knows its arguments and learns the rest."""
    for eqn in jaxpr.eqns:
        ins = [_lookup(var, values) for var in eqn.invars]
        name = eqn.primitive.name
        inner = next((eqn.params[key] for key in _INLINED if key in eqn.params), None)
        if by_platform := eqn.params.get("branches_platforms"):  # chosen when the step is lowered
            inner = eqn.params["branches"][_chosen(by_platform, platform)]
        if inner is not None and (by_platform or name not in _KEPT):
            inner = _open(inner)
            if eqn.params.get("prevent_cse") and eqn.params.get("differentiated") and platform != "cpu":
                ins = [_barrier(value, ops) for value in ins]
            scope = dict(zip(inner.invars, ins[len(ins) - len(inner.invars) :], strict=True))
            scope |= {var: _value(var.aval, constant=True) for var in inner.constvars}
            _inline(inner, scope, ops, platform)
            values.update({var: _lookup(out, scope) for var, out in zip(eqn.outvars, inner.outvars, strict=True)})
            continue
        outs = [values.setdefault(var, _value(var.aval)) for var in eqn.outvars]
        ops.append(Op(name, ins, outs, eqn.params, tuple(_read(_open(body), platform) for body in _bodies(eqn))))


def _barrier(value: Value, ops: list[Op]) -> Value:
    """What a rematerialised body reads: it stands in memory, and nothing is shared across."""
    out = Value(value.shape, value.itemsize)
    ops.append(Op("optimization_barrier", [value], [out], {}))
    return out


def _shared(ops: list[Op], outs: list[Value]) -> tuple[list[Op], list[Value]]:
    """Equal operations on equal operands done once.

    XLA's compiler for CPUs drops the barriers around rematerialised blocks and shares what they compute with the
    forward pass again, so that blocks that are not in a loop keep everything after all.
    """
    same: dict[Value, Value] = {}
    known: dict[Any, list[Value]] = {}
    kept = []
    for op in ops:
        ins = [same.get(value, value) for value in op.ins]
        names = tuple(value.literal or id(value) for value in ins)
        key = (op.name, names, repr(sorted(op.params.items(), key=lambda item: item[0])))
        if not op.bodies and key in known:
            same.update(zip(op.outs, known[key], strict=True))
            continue
        kept.append(Op(op.name, ins, op.outs, op.params, op.bodies))
        if not op.bodies:
            known[key] = op.outs
    return kept, [same.get(value, value) for value in outs]


def _bodies(eqn: Any) -> list[Any]:
    p = eqn.params
    match eqn.primitive.name:
        case "scan" | "shard_map":
            return [p["jaxpr"]]
        case "while":
            return [p["body_jaxpr"]]
        case "cond":
            return list(p["branches"])
    return []


def _chosen(by_platform: Any, platform: str) -> int:
    """The branch of a lax.platform_dependent: the platform's, or the default, which is None and last."""
    return next(i for i, names in enumerate(by_platform) if names is None or platform in names)


def _open(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, jex.ClosedJaxpr) else jaxpr


def _lookup(var: Any, values: dict[Any, Value]) -> Value:
    if not isinstance(var, jex.Literal):
        return values[var]
    value = _value(var.aval, constant=True)
    value.literal = f"{var.aval} {var.val}" if not value.shape else None
    return value


def _value(aval: Any, constant: bool = False) -> Value:
    return Value(tuple(getattr(aval, "shape", ())), itemsize(aval), constant)


def itemsize(aval: Any) -> int:
    """Bytes an element of an array or its shape; a random key's are those of its words."""
    return int(aval.dtype.itemsize) if hasattr(aval, "dtype") else 0


def _alive(ops: list[Op], outs: list[Value]) -> list[Op]:
    """The operations that a result depends on, or that have an effect."""
    wanted = set(outs)
    kept = []
    for op in reversed(ops):
        if wanted.intersection(op.outs):
            wanted.update(op.ins)
            kept.append(op)
    return kept[::-1]
