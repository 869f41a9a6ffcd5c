"""FLOPs of a program: 2 for every multiply-add of a matrix product or a convolution, and nothing else.

Counted on the program as JAX differentiated it, loops multiplied out; compilers count a loop's body once.
"""

import math
from collections.abc import Sequence
from typing import Any

from mmjax.plan.program import Op, Program, times


def count(program: Program) -> int:
    """FLOPs of one execution on all devices together; work that devices repeat is counted once."""
    return sum(of(op) + _inside(op) for op in program.ops)


def _inside(op: Op) -> int:
    """Of an operation's body: a loop's as often as it runs, of branches the longest, a shard_map's on all its parts."""
    if op.name == "cond":
        return max(count(body) for body in op.bodies)
    return sum(count(body) for body in op.bodies) * times(op) * (parts(op) if op.name == "shard_map" else 1)


def parts(op: Op) -> int:
    """Over how many devices a shard_map splits its arguments; devices beyond these repeat the work."""
    named = {axis for spec in (*op.params["in_specs"], *op.params["out_specs"]) for axis in axes_of(spec)}
    return math.prod(op.params["mesh"].shape[axis] for axis in named)


def axes_of(spec: Any) -> list[str]:
    """The mesh axes that a PartitionSpec names."""
    return [axis for entry in spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)]


def of(op: Op) -> int:
    """FLOPs of one operation, 0 for what is neither a matrix product nor a convolution."""
    if op.name == "dot_general":
        return _dot(op)
    if op.name == "conv_general_dilated":
        return _convolution(op)
    return 0


def _dot(op: Op) -> int:
    (contracted, _), _ = op.params["dimension_numbers"]
    return 2 * math.prod(op.outs[0].shape) * math.prod(op.ins[0].shape[d] for d in contracted)


def _convolution(op: Op) -> int:
    """Taps that fall on padding or on the zeros of a dilated input are no work."""
    lhs, rhs = (value.shape for value in op.ins[:2])
    p = op.params
    numbers = p["dimension_numbers"]
    taps = 1
    for i, (at, kernel_at) in enumerate(zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], strict=True)):
        out = op.outs[0].shape[numbers.out_spec[2 + i]]
        taps *= _taps(lhs[at], rhs[kernel_at], out, p["window_strides"][i], p["padding"][i][0],
                      p["lhs_dilation"][i], p["rhs_dilation"][i])  # fmt: skip
    rows, features = (op.outs[0].shape[numbers.out_spec[d]] for d in (0, 1))
    return 2 * rows * features * rhs[numbers.rhs_spec[1]] * taps


def _taps(size: int, kernel: int, out: int, stride: int, before: int, dilation: int, spread: int) -> int:
    """Pairs of an output position and a kernel position that meet an element of the input, along one axis."""
    last = (size - 1) * dilation
    total = 0
    for k in range(kernel):
        offset = k * spread - before
        positions: Sequence[int] = range(offset, offset + out * stride, stride)
        total += sum(1 for at in positions if 0 <= at <= last and at % dilation == 0)
    return total
