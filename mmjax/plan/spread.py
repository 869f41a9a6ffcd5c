"""Where the values of a program lie on a mesh, and what its devices have to send each other for it.

The compiler's partitioner decides this; here its usual choices are followed without compiling: a value keeps the
axes of what it is computed from; two operands that want the same axis gather the smaller one (ZeRO's parameters); a
product over a split axis is a partial sum, scattered where the result is used split and reduced otherwise.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.plan import flops
from mmjax.plan.program import Op, Program, Value, times

Spec = tuple[tuple[str, ...], ...]  # for every axis of a value, the mesh axes that it is split over

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "permute", "all-to-all")
_MANUAL = {
    "psum": "all-reduce", "psum2": "all-reduce", "psum_invariant": "all-reduce", "pmax": "all-reduce",
    "pmin": "all-reduce", "all_gather": "all-gather", "all_gather_invariant": "all-gather",
    "reduce_scatter": "reduce-scatter", "psum_scatter": "reduce-scatter", "ppermute": "permute",
    "all_to_all": "all-to-all",
}  # fmt: skip
_SAME_AXES = {"cumsum", "cumprod", "cumlogsumexp", "cummax", "rev", "sort", "pad", "slice", "dynamic_slice",
              "dynamic_update_slice", "concatenate"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange: `size` bytes a device of the larger of operand and result, `count` times, over `axes`."""

    kind: str
    size: int
    axes: tuple[str, ...]
    count: int


@dataclasses.dataclass
class Spread:
    """The answer.

    Attributes:
      specs: of every value.
      collectives: all exchanges.
      gathered: bytes of gathered operands that an operation needs while it runs.
      flops: of one device.
    """

    mesh: Mapping[str, int]
    specs: dict[Value, Spec] = dataclasses.field(default_factory=dict)
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    gathered: dict[Op, int] = dataclasses.field(default_factory=dict)
    flops: int = 0
    wanted: dict[Value, Spec] = dataclasses.field(default_factory=dict)

    def of(self, value: Value) -> Spec:
        """Where a value lies; what is not known is whole on every device."""
        return self.specs.get(value, ((),) * len(value.shape))

    def ways(self, axes: Sequence[str]) -> int:
        """Number of parts over mesh axes."""
        return math.prod(self.mesh[a] for a in axes)

    def size(self, value: Value, spec: Spec | None = None) -> int:
        """Bytes that a device holds of a value."""
        return math.prod(self.shape(value, spec)) * value.itemsize

    def shape(self, value: Value, spec: Spec | None = None) -> tuple[int, ...]:
        """A device's part of a value."""
        spec = self.of(value) if spec is None else spec
        return tuple(-(-dim // self.ways(axes)) for dim, axes in zip(value.shape, spec, strict=True))


def spread(program: Program, ins: Sequence[Spec], outs: Sequence[Spec], mesh: Mapping[str, int]) -> Spread:
    """Follows the arguments' places through the program, twice: the second time it is known where results are used."""
    wanted: dict[Value, Spec] = dict(zip(program.outs, outs, strict=True))
    found = Spread(mesh)
    for _ in range(2):
        found = Spread(mesh, wanted=wanted)
        found.specs.update(zip(program.ins, ins, strict=True))
        _visit(program, found, 1)
        _want(program, found, wanted)
    return found


# ---------------------------------------------------------------- forward


def _visit(program: Program, s: Spread, count: int) -> None:
    for op in program.ops:
        rule = _RULES.get(op.name, _elementwise if _is_elementwise(op) else _unknown)
        rule(op, s, count)


def _is_elementwise(op: Op) -> bool:
    """Operands of the result's shape; an axis of 1 is repeated, and a scalar."""
    shape = op.outs[0].shape
    fits = all(not v.shape or _repeats(v.shape, shape) for v in op.ins)
    return fits and all(v.shape == shape for v in op.outs)


def _repeats(given: Sequence[int], shape: Sequence[int]) -> bool:
    return len(given) == len(shape) and all(have in (1, need) for have, need in zip(given, shape, strict=True))


def _emit(s: Spread, kind: str, size: int, axes: Sequence[str], count: int) -> None:
    axes = tuple(a for a in s.mesh if a in axes and s.mesh[a] > 1)
    if axes and size:
        s.collectives.append(Collective(kind, size, axes, count))


def _gather(op: Op, value: Value, kept: Spec, s: Spread, count: int) -> None:
    """`op` needs `value` in `kept` places: gathers what is split further."""
    lost = [a for have, keep in zip(s.of(value), kept, strict=True) for a in have if a not in keep and s.mesh[a] > 1]
    if lost and not value.constant:
        size = s.size(value, kept)
        _emit(s, "all-gather", size, lost, count)
        s.gathered[op] = s.gathered.get(op, 0) + size


def _merge(specs: Sequence[Spec], rank: int) -> Spec:
    """The union, the first operand's wishes first; no axis twice."""
    used: set[str] = set()
    out: list[tuple[str, ...]] = [()] * rank
    for spec in specs:
        for dim, axes in enumerate(spec):
            if axes and not out[dim] and not used.intersection(axes):
                out[dim] = axes
                used.update(axes)
    return tuple(out)


def _elementwise(op: Op, s: Spread, count: int) -> None:
    shape = op.outs[0].shape
    ins = [v for v in op.ins if len(v.shape) == len(shape)]
    ordered = sorted(ins, key=lambda v: -s.ways([a for axes in s.of(v) for a in axes]))
    merged = _merge([s.of(v) for v in ordered], len(shape))
    for value in ins:
        _gather(op, value, tuple(tuple(a for a in h if a in m) for h, m in zip(s.of(value), merged, strict=True)),
                s, count)  # fmt: skip
    s.specs.update(dict.fromkeys(op.outs, merged))


def _unknown(op: Op, s: Spread, count: int) -> None:
    """Leading axes that all operands share keep their place; the rest is whole."""
    for out in op.outs:
        same = [v for v in op.ins if v.shape[:1] == out.shape[:1] and v.shape]
        first = next((s.of(v)[0] for v in same if s.of(v)[0]), ())
        s.specs[out] = (first, *((),) * (len(out.shape) - 1)) if out.shape else ()


def _reduced(op: Op, out: Value, spec: Spec, partial: Sequence[str], s: Spread, count: int) -> None:
    """The result of a partial sum over mesh axes: scattered where it is wanted split, the rest reduced."""
    partial = [a for a in partial if s.mesh[a] > 1]
    wanted, held = s.wanted.get(out, spec), {a for axes in spec for a in axes}
    placed = [have if have else tuple(a for a in want if a in partial and a not in held)
              for have, want in zip(spec, wanted, strict=True)]  # fmt: skip
    scattered = [a for axes, before in zip(placed, spec, strict=True) for a in axes if a not in before]
    _emit(s, "reduce-scatter", s.size(out, spec), scattered, count)
    spec = tuple(placed)
    _emit(s, "all-reduce", s.size(out, spec), [a for a in partial if a not in scattered], count)
    s.specs[out] = spec


def _product(op: Op, pairs: Sequence[tuple[int | None, int | None, int | None]], s: Spread, count: int) -> None:
    """A matrix product or convolution: (axis of the left, of the right, of the result) of every index."""
    lhs, rhs, out = op.ins[0], op.ins[1], op.outs[0]
    specs = [list(s.of(lhs)), list(s.of(rhs))]
    first = 0 if s.size(lhs, ((),) * len(lhs.shape)) >= s.size(rhs, ((),) * len(rhs.shape)) else 1
    owner: dict[str, tuple] = {}
    for side in (first, 1 - first):
        for pair in pairs:
            at = pair[side]
            if at is None:
                continue
            kept = tuple(a for a in specs[side][at] if owner.setdefault(a, pair) == pair)
            specs[side][at] = kept
    _gather(op, lhs, tuple(specs[0]), s, count)
    _gather(op, rhs, tuple(specs[1]), s, count)
    spec: list[tuple[str, ...]] = [()] * len(out.shape)
    partial: list[str] = []
    for axis, pair in owner.items():
        if pair[2] is None:
            partial.append(axis)
        else:
            spec[pair[2]] = (*spec[pair[2]], axis)
    s.flops += flops.of(op) * count // s.ways(list(owner))
    _reduced(op, out, tuple(spec), partial, s, count)


def _dot(op: Op, s: Spread, count: int) -> None:
    (lc, rc), (lb, rb) = op.params["dimension_numbers"]
    lf = [d for d in range(len(op.ins[0].shape)) if d not in (*lc, *lb)]
    rf = [d for d in range(len(op.ins[1].shape)) if d not in (*rc, *rb)]
    pairs = [*((a, b, i) for i, (a, b) in enumerate(zip(lb, rb, strict=True)))]
    pairs += [(a, None, len(lb) + i) for i, a in enumerate(lf)]
    pairs += [(None, b, len(lb) + len(lf) + i) for i, b in enumerate(rf)]
    pairs += [(a, b, None) for a, b in zip(lc, rc, strict=True)]  # type: ignore[misc]
    _product(op, pairs, s, count)


def _conv(op: Op, s: Spread, count: int) -> None:
    n = op.params["dimension_numbers"]
    pairs = [(n.lhs_spec[0], None, n.out_spec[0]), (None, n.rhs_spec[0], n.out_spec[1]),
             (n.lhs_spec[1], n.rhs_spec[1], None)]  # fmt: skip
    _product(op, pairs, s, count)


def _reduce(op: Op, s: Spread, count: int) -> None:
    axes = op.params["axes"]
    spec = s.of(op.ins[0])
    partial = [a for d in axes for a in spec[d]]
    for out in op.outs:
        _reduced(op, out, tuple(axes_ for d, axes_ in enumerate(spec) if d not in axes), partial, s, count)


def _broadcast(op: Op, s: Spread, count: int) -> None:
    value, out = op.ins[0], op.outs[0]
    dims = op.params["broadcast_dimensions"]
    spec: list[tuple[str, ...]] = [()] * len(out.shape)
    if math.prod(out.shape) > math.prod(value.shape):
        # What is repeated meets values that are split by example: a bias, gathered before it is repeated.
        by_example = [axes if d == 0 and dims[:1] == (0,) else () for d, axes in enumerate(s.of(value))]
        _gather(op, value, tuple(by_example), s, count)
        kept: Sequence[tuple[str, ...]] = by_example
    else:
        kept = s.of(value)
    for d, at in enumerate(dims):
        if value.shape[d] == out.shape[at]:
            spec[at] = kept[d]
    s.specs[out] = tuple(spec)


def _transpose(op: Op, s: Spread, count: int) -> None:
    spec = s.of(op.ins[0])
    s.specs[op.outs[0]] = tuple(spec[d] for d in op.params["permutation"])


def _reshape(op: Op, s: Spread, count: int) -> None:
    s.specs[op.outs[0]] = reshaped(op.ins[0].shape, s.of(op.ins[0]), op.outs[0].shape, s)


def reshaped(shape: Sequence[int], spec: Spec, out: Sequence[int], s: Spread) -> Spec:
    """The places after a reshape: of every group of axes that are joined or cut, the major axis keeps its own."""
    result: list[tuple[str, ...]] = [()] * len(out)
    i = j = 0
    while i < len(shape) and j < len(out):
        first_in, first_out, left, right = i, j, shape[i], out[j]
        while left != right:
            if left < right:
                i += 1
                left *= shape[i]
            else:
                j += 1
                right *= out[j]
        # axes of size 1 carry nothing: the major axis is the first larger one
        source = next((d for d in range(first_in, i + 1) if shape[d] > 1), first_in)
        target = next((d for d in range(first_out, j + 1) if out[d] > 1), first_out)
        if out[target] % s.ways(spec[source]) == 0:
            result[target] = spec[source]
        i, j = i + 1, j + 1
    return tuple(result)


def _same_axes(op: Op, s: Spread, count: int) -> None:
    for out in op.outs:
        kept: list[Spec] = [
            tuple(axes if have == need else () for axes, have, need in zip(s.of(v), v.shape, out.shape, strict=True))
            for v in op.ins
            if len(v.shape) == len(out.shape)
        ]
        s.specs[out] = _merge(kept, len(out.shape))


def _lookup(op: Op, s: Spread, count: int) -> None:
    """Rows of a table by index: the rows lie where the indices do, and the table is gathered over those axes."""
    table, index, out = op.ins[0], op.ins[1], op.outs[0]
    n = op.params["dimension_numbers"]
    spec: list[tuple[str, ...]] = [()] * len(out.shape)
    by_index = [d for d in range(len(out.shape)) if d not in n.offset_dims]
    for at, axes in zip(by_index, s.of(index)[:-1], strict=False):
        spec[at] = axes
    if _by_row(table, index):  # every row has an index of its own
        s.specs[out] = tuple(spec)
        return
    used = {a for axes in spec for a in axes}
    kept = tuple(tuple(a for a in axes if a not in used) for axes in s.of(table))
    _gather(op, table, kept, s, count)
    rest = [d for d in range(len(table.shape)) if d not in (*n.collapsed_slice_dims, *n.operand_batching_dims)]
    for at, d in zip(n.offset_dims, rest, strict=False):
        if out.shape[at] == table.shape[d]:
            spec[at] = kept[d]
    s.specs[out] = tuple(spec)
    _emit(s, "all-reduce", s.size(out), [a for d in n.collapsed_slice_dims for a in kept[d]], count)


def _by_row(table: Value, index: Value) -> bool:
    """Whether rows are taken from, or added to, a table with one row an example, so that none leaves its device."""
    return len(table.shape) > 2 and table.shape[0] == index.shape[0]


def _scatter(op: Op, s: Spread, count: int) -> None:
    into, index, out = op.ins[0], op.ins[1], op.outs[0]
    if _by_row(into, index):
        s.specs[out] = (s.of(index)[0], *s.of(into)[1:])
        return
    _reduced(op, out, s.of(into), [a for axes in s.of(index) for a in axes], s, count)


def _constraint(op: Op, s: Spread, count: int) -> None:
    value, out = op.ins[0], op.outs[0]
    given = op.params["sharding"].spec
    spec = tuple((e,) if isinstance(e, str) else tuple(e or ()) for e in given)
    s.specs[out] = (*spec, *((),) * (len(value.shape) - len(spec)))
    _gather(op, value, tuple(tuple(a for a in h if a in k) for h, k in zip(s.of(value), s.specs[out], strict=True)),
            s, count)  # fmt: skip


def _scan(op: Op, s: Spread, count: int) -> None:
    (body,) = op.bodies
    consts, carry = op.params["num_consts"], op.params["num_carry"]
    s.specs.update({inner: s.of(v) for inner, v in zip(body.ins[:consts], op.ins[:consts], strict=True)})
    state = [s.of(v) for v in op.ins[consts : consts + carry]]
    for inner, v in zip(body.ins[consts + carry :], op.ins[consts + carry :], strict=True):
        s.specs[inner] = s.of(v)[1:]
    for _ in range(3):  # until the carry lies where the body leaves it
        before = (len(s.collectives), s.flops)
        s.specs.update(zip(body.ins[consts : consts + carry], state, strict=True))
        _visit(body, s, count * times(op))
        after = [_merge([s.of(v), spec], len(spec)) for v, spec in zip(body.outs[:carry], state, strict=True)]
        if after == state:
            break
        state = after
        del s.collectives[before[0] :]
        s.flops = before[1]
        for inside in body.ops:
            s.gathered.pop(inside, None)
    else:
        s.specs.update(zip(body.ins[consts : consts + carry], state, strict=True))
        _visit(body, s, count * times(op))
    s.specs.update(zip(op.outs[:carry], state, strict=True))
    for out, v in zip(op.outs[carry:], body.outs[carry:], strict=True):
        s.specs[out] = ((), *s.of(v))


def _loop(op: Op, s: Spread, count: int) -> None:
    """A while loop or a cond: bodies on their arguments' places, results as the first body leaves them."""
    before, most = s.flops, 0
    for body in op.bodies:
        given = op.ins[len(op.ins) - len(body.ins) :]
        s.specs.update({inner: s.of(v) for inner, v in zip(body.ins, given, strict=True)})
        s.flops = before
        _visit(body, s, count)
        most = max(most, s.flops)
    s.flops = max(before, most)
    s.specs.update({out: s.of(v) for out, v in zip(op.outs, op.bodies[0].outs, strict=True)})


def _manual(op: Op, s: Spread, count: int) -> None:
    """shard_map: the body sees one device's part; what it sends is written in it."""

    def of(given: Any, value: Value) -> Spec:
        spec = tuple((e,) if isinstance(e, str) else tuple(e or ()) for e in given)
        return (*spec, *((),) * (len(value.shape) - len(spec)))

    for value, given in zip(op.ins, op.params["in_specs"], strict=True):
        kept = tuple(tuple(a for a in h if a in k) for h, k in zip(s.of(value), of(given, value), strict=True))
        _gather(op, value, kept, s, count)
    _inside(op.bodies[0], s, count)
    s.specs.update({out: of(given, out) for out, given in zip(op.outs, op.params["out_specs"], strict=True)})


def _inside(program: Program, s: Spread, count: int) -> None:
    for op in program.ops:
        s.flops += flops.of(op) * count
        if op.name in _MANUAL:
            axes = op.params.get("axes", op.params.get("axis_name", ()))
            size = sum(max(s.size(a), s.size(b)) for a, b in zip(op.ins, op.outs, strict=True))
            _emit(s, _MANUAL[op.name], size, (axes,) if isinstance(axes, str) else tuple(axes), count)
        for body in op.bodies:
            _inside(body, s, count * times(op))


_RULES = {
    "dot_general": _dot, "conv_general_dilated": _conv, "broadcast_in_dim": _broadcast, "transpose": _transpose,
    "reshape": _reshape, "squeeze": _reshape, "expand_dims": _reshape, "gather": _lookup, "scatter-add": _scatter,
    "scatter": _scatter, "sharding_constraint": _constraint, "scan": _scan, "while": _loop, "cond": _loop,
    "shard_map": _manual, **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and",
    "reduce_or", "argmax", "argmin"), _reduce), **dict.fromkeys(_SAME_AXES, _same_axes),
}  # fmt: skip


# ---------------------------------------------------------------- where results are used


def _want(program: Program, s: Spread, wanted: dict[Value, Spec]) -> None:
    """Backwards through what keeps an array's form: a gradient is wanted where its moments lie."""
    for op in reversed(program.ops):
        target = next((wanted[out] for out in op.outs if out in wanted), None)
        if op.name == "scan":
            carry = op.params["num_carry"]
            for i, (out, inner) in enumerate(zip(op.outs, op.bodies[0].outs, strict=True)):
                if out in wanted:
                    wanted[inner] = wanted[out] if i < carry else wanted[out][1:]
            _want(op.bodies[0], s, wanted)
        elif op.name == "transpose" and target is not None:
            permutation = list(op.params["permutation"])
            wanted.setdefault(op.ins[0], tuple(target[permutation.index(d)] for d in range(len(target))))
        elif op.name in ("reshape", "squeeze", "expand_dims") and target is not None:
            wanted.setdefault(op.ins[0], reshaped(op.outs[0].shape, target, op.ins[0].shape, s))
        elif op.name not in _RULES and not op.bodies and _is_elementwise(op):
            spec = target if target is not None else s.of(op.outs[0])
            for value in op.ins:  # of several users the one that splits it counts
                if value.shape == op.outs[0].shape and any(spec) and not any(wanted.get(value, ())):
                    wanted[value] = spec
