"""How many bytes of a program's values live at once on a device, without compiling it.

What a compiler fuses is never stored: an elementwise result whose users all compute it on the way, unless it is dear
and would be computed twice. Everything else lives from the operation that makes it to the last that reads it, in the
order in which JAX wrote the program down. A loop adds what its body needs while it runs.
"""

import itertools
import math
from collections.abc import Sequence

from mmjax.plan.program import Op, Program, Value, times
from mmjax.plan.spread import Spread

_VIEWS = {"reshape", "squeeze", "expand_dims", "transpose", "copy", "sharding_constraint", "pvary", "stop_gradient",
          "convert_element_type", "optimization_barrier", "copy_p", "random_wrap", "random_unwrap",
          "reduce_precision"}  # fmt: skip
_DEAR = {"exp", "log", "tanh", "logistic", "erf", "erf_inv", "pow", "sin", "cos", "log1p", "expm1", "cbrt"}
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"}
_PRODUCTS = {"dot_general", "conv_general_dilated"}
_OWN = {"dot_general", "conv_general_dilated", "gather", "scatter", "scatter-add", "sort", "concatenate", "cumsum",
        "dynamic_update_slice", "scan", "while", "cond", "shard_map"}  # fmt: skip
FUSED_INTO = 2  # so many products of a TPU compute an elementwise operand each for itself; for more it is stored
TILE = (8, 128)  # rows of 32 bits, and columns, that a TPU stores together


def peak(program: Program, places: Spread, donated: int, platform: str) -> int:
    """Most bytes a device holds at once beside the arguments.

    Args:
      program: of the whole step.
      places: of its values.
      donated: so many results, the first, are written where arguments were.
      platform: "cpu", "gpu" or "tpu"; a TPU stores arrays in tiles.
    """
    return _Liveness(places, platform).peak(program, free=program.outs[:donated])


def traffic(program: Program, places: Spread, platform: str) -> int:
    """Bytes that a device writes and reads of stored values, beside the step's own arguments and results."""
    return _Liveness(places, platform).traffic(program, 1)


class _Liveness:
    def __init__(self, places: Spread, platform: str):
        self.places, self.platform = places, platform

    def size(self, value: Value) -> int:
        shape = self.places.shape(value)
        if self.platform == "tpu":
            shape = tiled(shape, value.itemsize)
        return math.prod(shape) * value.itemsize

    def fuses(self, op: Op) -> bool:
        return op.name not in _OWN and op.name not in _REDUCTIONS and not self.moves(op)

    def moves(self, op: Op) -> bool:
        """Whether a reshape joins or cuts the last axis, along which a TPU's tiles lie: a copy there."""
        if self.platform != "tpu" or op.name != "reshape":
            return False
        before, after = ([n for n in value.shape if n > 1][-1:] for value in (op.ins[0], op.outs[0]))
        return before != after

    def absorbs(self, user: Op, maker: Op) -> bool:
        """Whether `user` can compute what `maker` makes on the way."""
        if user.name == "optimization_barrier" and self.platform != "cpu":
            return False
        if self.fuses(user) or user.name in _REDUCTIONS or self.moves(user):
            return True
        if user.name in _PRODUCTS:  # a TPU's products take what is elementwise on the way, others read their operands
            return maker.name in _VIEWS or self.platform == "tpu"
        if user.name in ("scan", "scatter-add", "scatter") and maker.name in ("broadcast_in_dim", "iota"):
            return True  # made anew in the loop; zeros that are added to in place
        return maker.name in ("reshape", "squeeze", "expand_dims", "copy", "pvary") or (
            user.name == "dynamic_update_slice" and user.ins[0] not in maker.outs
        )

    def peak(self, program: Program, free: Sequence[Value] = (), slices: Sequence[Value] = ()) -> int:
        """Most bytes live at once; `free` results take none, `slices` are a loop's rows, read from a stack."""
        users: dict[Value, list[Op]] = {}
        for op in program.ops:
            for value in op.ins:
                users.setdefault(value, []).append(op)
        stored = self.stored(program, users, set(program.outs) - set(free), set(free))
        at = self.runs_at(program, stored)
        last: dict[Value, int] = dict.fromkeys((v for v in program.outs if v in stored), len(program.ops))
        for op in program.ops:
            for value in op.ins:
                if value in stored:
                    last[value] = max(last.get(value, 0), at[op])
        ends: dict[int, list[Value]] = {}
        for value, end in last.items():
            ends.setdefault(end, []).append(value)
        live = most = 0
        for number, op in enumerate(program.ops):
            made = sum(self.size(out) for out in op.outs if out in stored)
            gone = sum(self.size(value) for value in ends.get(number, ()))
            reused = min(gone, made) if self.fuses(op) else 0  # computed in place
            during = self.places.gathered.get(op, 0) + self.inside(op)
            most = max(most, live + made - reused + during)
            live += made - gone
        return most

    def traffic(self, program: Program, count: int) -> int:
        """Every stored value is written once and read by each operation that reads it."""
        users: dict[Value, list[Op]] = {}
        for op in program.ops:
            for value in op.ins:
                users.setdefault(value, []).append(op)
        stored = self.stored(program, users, set(), set(program.outs))
        moved = sum(self.size(value) * (1 + len(users.get(value, ()))) for value in stored) * count
        return moved + sum(self.traffic(body, count * times(op)) for op in program.ops for body in op.bodies)

    def stored(self, program: Program, users: dict[Value, list[Op]], kept: set[Value], free: set[Value]) -> set[Value]:
        """The values that get a place in memory."""
        stored: set[Value] = set()
        computed: set[Value] = set()  # fused values that are more than another form of a stored one
        most = FUSED_INTO if self.platform == "tpu" else 0
        products: dict[Value, int] = {}  # how many read a value, in whatever form
        for op in reversed(program.ops):
            for value in op.ins:
                more = 1 if op.name in _PRODUCTS else products.get(op.outs[0], 0) if op.name in _VIEWS else 0
                products[value] = products.get(value, 0) + more
        for op in program.ops:
            for out in op.outs:
                if out in free:
                    continue
                reads = users.get(out, [])
                fused = self.fuses(op) and out not in kept and all(self.absorbs(user, op) for user in reads)
                plain = op.name in _VIEWS and self.fuses(op) and not computed.intersection(op.ins)
                if fused and not plain and products.get(out, 0) > most:
                    fused = False
                if plain and out not in kept:  # a barrier's operand that is another form of what is stored
                    fused = all(self.absorbs(user, op) or user.name == "optimization_barrier" for user in reads)
                if not fused or (op.name in _DEAR and len(reads) > 1):
                    stored.add(out)
                elif not plain:
                    computed.add(out)
        return stored

    def runs_at(self, program: Program, stored: set[Value]) -> dict[Op, int]:
        """When an operation reads its operands: a fused one when the last of its users does."""
        latest: dict[Value, int] = {}
        at: dict[Op, int] = {}
        for number, op in reversed(list(enumerate(program.ops))):
            virtual = not any(out in stored for out in op.outs)
            at[op] = max((latest.get(out, number) for out in op.outs), default=number) if virtual else number
            for value in op.ins:
                latest[value] = max(latest.get(value, 0), at[op])
        return at

    def inside(self, op: Op) -> int:
        """What an operation's body needs beside its arguments and results."""
        if op.name == "scan":
            (body,) = op.bodies
            given = op.params["num_consts"] + op.params["num_carry"]
            # Rows of a stack are written in place; the next carry stands beside the present one until the end.
            return self.peak(body, free=body.outs[op.params["num_carry"] :], slices=body.ins[given:])
        return max((self.peak(body) for body in op.bodies), default=0)


def tiled(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """The shape that a TPU stores: two of its axes filled up to whole tiles, those that waste least of the last three.

    Axes before these are layers, examples or heads, along which products are repeated: they stay outermost.
    """
    if not shape or itemsize == 0:
        return tuple(shape)
    if len(shape) == 1:
        return (-(-shape[0] // TILE[1]) * TILE[1],)
    rows = TILE[0] * max(4 // itemsize, 1)
    best: tuple[int, ...] = ()
    for row, column in itertools.permutations(range(max(len(shape) - 3, 0), len(shape)), 2):
        filled = list(shape)
        filled[row] = -(-shape[row] // (rows if shape[row] >= rows else TILE[0])) * (
            rows if shape[row] >= rows else TILE[0]
        )
        filled[column] = -(-shape[column] // TILE[1]) * TILE[1]
        if not best or math.prod(filled) < math.prod(best):
            best = tuple(filled)
    return best
