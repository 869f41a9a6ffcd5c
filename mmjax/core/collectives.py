"""What devices say to each other: the collectives of a compiled program, read from its HLO text.

found = collectives(jax.jit(f).lower(*args).compile().as_text())
totals(found, mesh)  # {("all-gather", ("fsdp",)): (instructions run, bytes a device holds of them), ...}
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
         "collective-broadcast")  # fmt: skip

_MODULE = re.compile(r"(replica_count|num_partitions)=(\d+)")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) (?:\(.*)?\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?) (?P<opcode>[a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,<=]*)\]")
_LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=(?:@\w+|mesh)\[(?P<axes>[^\]]*)\](?P<order>[^{]*)\{(?P<over>[^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
_SOURCE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction, and how often a run of the program executes it.

    Attributes:
      kind: one of KINDS; both halves of an asynchronous one are one.
      bytes: of its larger side on one device: what an all-gather gives, what a reduce-scatter takes, else either.
      count: executions; those in a loop's body times the loop's trips.
      group: the devices that take part together with the first one, as positions in the flattened mesh.
      source: the operation of the traced program that it stems from, as XLA recorded it.
    """

    kind: str
    bytes: int
    count: int
    group: tuple[int, ...]
    source: str

    @property
    def group_size(self) -> int:
        """Devices that take part together."""
        return len(self.group)

    @property
    def sent(self) -> float:
        """Bytes that a device sends for all executions, if the devices of a group form a ring."""
        n = self.group_size
        ways = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(self.kind, (n - 1) / n)
        return self.count * self.bytes * ways

    def axes(self, mesh: Mapping[str, int]) -> tuple[str, ...]:
        """The mesh axes along which the group's devices differ; `mesh` is axis -> size, e.g. `jax.Mesh.shape`."""
        places = np.unravel_index(self.group, tuple(mesh.values()))
        return tuple(axis for axis, at in zip(mesh, places, strict=True) if len(set(at.tolist())) > 1)


def collectives(hlo_text: str) -> list[Collective]:
    """The collectives that a compiled program executes, in the order of its text.

    Loops count as often as XLA knows them to run, conditionals as their branch that moves most. A collective among
    one device moves nothing and is left out.

    Args:
      hlo_text: `compiled.as_text()`, of the optimised module: before partitioning there are no collectives.

    Raises:
      ValueError: no entry computation (not HLO text, or one that a compiler cut), or a loop with collectives inside
        whose number of trips is not known when it is compiled.
    """
    entry, computations, devices = _read(hlo_text)
    if entry is None:
        raise ValueError("not the text of an HLO module: it has no ENTRY computation")
    known: dict[str, list[Collective]] = {}

    def executed(name: str) -> list[Collective]:
        if name not in known:
            known[name] = [c for line in computations.get(name, ()) for c in _executed_by(line, devices, executed)]
        return known[name]

    return executed(entry)


def totals(found: Iterable[Collective], mesh: Mapping[str, int]) -> dict[tuple[str, tuple[str, ...]], tuple[int, int]]:
    """(kind, mesh axes) -> (executions, bytes of all executions together), over `Collective.bytes`.

    Example:
      >>> totals([Collective("all-reduce", 8, 3, (0, 1), "")], {"data": 1, "fsdp": 2})
      {('all-reduce', ('fsdp',)): (3, 24)}
    """
    sums: dict[tuple[str, tuple[str, ...]], tuple[int, int]] = {}
    for c in found:
        key = c.kind, c.axes(mesh)
        count, size = sums.get(key, (0, 0))
        sums[key] = count + c.count, size + c.count * c.bytes
    return sums


# ---------------------------------------------------------------- text


def _read(text: str) -> tuple[str | None, dict[str, list[str]], int]:
    """(entry computation, computation -> lines of its instructions, devices)."""
    entry, current = None, None
    computations: dict[str, list[str]] = {}
    devices = 1
    for line in text.splitlines():
        if line.startswith("HloModule"):
            devices = math.prod(int(n) for _, n in _MODULE.findall(line))
        elif line[:1] not in (" ", "}", "") and (match := _COMPUTATION.match(line)):
            current = match["name"]
            computations[current] = []
            entry = current if match["entry"] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and line.startswith(" "):
            computations[current].append(line)
    return entry, computations, devices


def _executed_by(line: str, devices: int, executed: Any) -> list[Collective]:
    """What one instruction executes: itself, or what it calls."""
    match = _INSTRUCTION.match(line)
    if match is None:
        return []
    opcode = match["opcode"]
    kind = opcode.removesuffix("-start")
    if kind in KINDS:
        group = _group(line, kind, devices)
        source = _SOURCE.search(line)
        moved = Collective(kind, _bytes(match["type"], opcode, len(group)), 1, group, source[1] if source else "")
        return [moved] if len(group) > 1 else []
    if opcode.endswith(("-done", "-update")):  # names what its start has called
        return []
    if branches := _BRANCHES.search(line):
        names = [name.strip().removeprefix("%") for name in branches[1].split(",")]
    else:
        names = [name for _, name in _CALLED.findall(line)]
    if opcode == "conditional":
        return max((executed(name) for name in names), key=lambda found: sum(c.sent for c in found), default=[])
    inside = [c for name in names for c in executed(name)]
    if opcode != "while" or not inside:
        return inside
    trips = _TRIPS.search(line)
    if trips is None:
        raise ValueError(f"loop {match['name']} holds collectives ({inside[0].source}), but how often it runs is not "
                         "known when it is compiled")  # fmt: skip
    return [dataclasses.replace(c, count=c.count * int(trips[1])) for c in inside]


def _bytes(result: str, opcode: str, group_size: int) -> int:
    """Bytes of the larger side, from the result's type, e.g. "f32[8,4]{1,0}" or "(f32[4], f32[8])"."""
    if opcode.endswith("-start") and opcode != "all-reduce-start" and result.startswith("("):
        result = _elements(result)[1]  # (operands, results, contexts)
    size = sum(_bits(dtype) * math.prod(_numbers(dims)) for dtype, dims in _ARRAY.findall(result)) // 8
    return size * group_size if opcode.startswith("reduce-scatter") else size


def _elements(tuple_type: str) -> list[str]:
    """The elements of a tuple's type, nested ones whole."""
    parts, depth, start = [], 0, 1
    for at, char in enumerate(tuple_type):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 or (char == "," and depth == 1):
            parts.append(tuple_type[start:at].strip())
            start = at + 1
        if depth == 0:
            break
    return parts


def _bits(dtype: str) -> int:
    """Bits of an element: f32, bf16, s4, c64, f8e4m3fn, …"""
    return {"token": 0, "pred": 8}.get(dtype) or int("0" + re.sub(r"^[a-z]+(\d*).*", r"\1", dtype))


def _numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


# ---------------------------------------------------------------- groups


def _group(line: str, kind: str, devices: int) -> tuple[int, ...]:
    """The first group, in any of the forms in which XLA prints groups."""
    if kind == "collective-permute":
        pairs = _PAIRS.search(line)
        listed = re.findall(r"\{(\d+),(\d+)\}", pairs[1] if pairs else "")
        return _first_cycle({int(source): int(target) for source, target in listed})
    if match := _MESH.search(line):  # mesh['a'=4,'b'=2] {'a'}, with a device order if that is not 0, 1, 2, …
        return _first_of_mesh(match["axes"], match["order"], match["over"])
    if match := _IOTA.search(line):  # [groups, size]<=[dims]T(transposed)
        order = np.arange(math.prod(_numbers(match[2]))).reshape(_numbers(match[2]))
        if match[3]:
            order = order.transpose(_numbers(match[3]))
        return tuple(order.reshape(_numbers(match[1]))[0].tolist())
    explicit = _LISTED.search(line)
    groups = re.findall(r"\{([\d,]*)\}", explicit[1]) if explicit else []
    return tuple(_numbers(groups[0])) if groups else tuple(range(devices))


def _first_of_mesh(axes: str, order: str, over: str) -> tuple[int, ...]:
    """The first group of a mesh's axes: `'a'=4,'b'=2`, `, device_ids=([2,4]T(1,0))` or nothing, `'a'`."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    devices = np.arange(math.prod(sizes.values()))
    if match := re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?", order):
        devices = devices.reshape(_numbers(match[1])).transpose(_numbers(match[2]) if match[2] else None)
    elif match := re.search(r"device_ids=\(([\d,]+)\)", order):
        devices = np.asarray(_numbers(match[1]))
    # An axis 'a':(before)size is a part of 'a', whose factors are before · size · after.
    split: list[tuple[int, bool]] = []
    parts = {name: _numbers(part) for name, part in re.findall(r"'(\w+)'((?::\(\d+\)\d+)?)", over)}
    for name, whole in sizes.items():
        if name not in parts:
            split.append((whole, False))
        elif not parts[name]:
            split.append((whole, True))
        else:
            before, size = parts[name]
            split += [(before, False), (size, True), (whole // before // size, False)]
    grid = devices.reshape([size for size, _ in split])
    return tuple(grid[tuple(slice(None) if taken else 0 for _, taken in split)].reshape(-1).tolist())


def _first_cycle(targets: Mapping[int, int]) -> tuple[int, ...]:
    """The devices of the first way through source -> target that has more than one of them."""
    for start in sorted(targets):
        way: list[int] = [start]
        while (following := targets.get(way[-1])) is not None and following not in way:
            way.append(following)
        if len(way) > 1:
            return tuple(way)
    return ()


def describe(found: Sequence[Collective], mesh: Mapping[str, int]) -> str:
    """A table of the collectives, the largest first: kind, axes, executions, bytes, what they stem from."""
    rows = sorted(found, key=lambda c: -c.count * c.bytes)
    return "\n".join(f"{c.kind:20} {'+'.join(c.axes(mesh)):12} {c.count:5} x {c.bytes:12,}  {c.source}" for c in rows)
