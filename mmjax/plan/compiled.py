"""What the compiler itself says of a step, for devices that are not there: in a process of its own, with a time limit.

For TPUs `libtpu` compiles without a TPU (extra `tpu`); for CPUs, JAX's own compiler over as many devices as asked. A
process of its own, because the number of devices is fixed when JAX starts, and a compilation can only be ended so.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.plan.topology import Topology

# libtpu: a third of the time, and on ViT-L/14 the same memory to 0.2 %.
_FAST = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}
_NAMES = {"all-reduce": "all-reduce", "all-gather": "all-gather", "reduce-scatter": "reduce-scatter",
          "collective-permute": "permute", "all-to-all": "all-to-all"}  # fmt: skip
_EXCHANGE = re.compile(rf"= (.+?) ({'|'.join(_NAMES)})(-start)?\(")
_BITS = {"pred": 8, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s16": 16, "u16": 16, "f64": 64, "s64": 64, "u64": 64}


def source(topology: Topology) -> str | None:
    """The compiler that can be had for a topology, by name; None if there is none here."""
    platform = topology.spec.platform
    if platform == "cpu":
        return "XLA's CPU compiler"
    if platform == "tpu" and importlib.util.find_spec("libtpu") is not None:
        return "libtpu"
    return None


def compile_stage(config: Mapping[str, Any], stage: str, topology: Topology, seconds: float) -> dict[str, Any]:
    """Compiles a stage's step; {"arguments", "temporaries", "outputs", "aliased": bytes a device, "collectives": …}.

    `{"error": why}` if the compiler refused, or did not end in time. The collectives are those of the program's text,
    each as often as the loop that holds it runs: {kind: bytes a device}; None where the compiler gives no text.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if topology.spec.platform == "cpu":
        kept = re.sub(r"--xla_force_host_platform_device_count=\d+", "", flags)
        flags = f"{kept} --xla_force_host_platform_device_count={topology.devices}".strip()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "TPU_SKIP_MDS_QUERY": "1"}
    question = json.dumps({"config": config, "stage": stage, "topology": topology.name})
    try:
        done = subprocess.run([sys.executable, "-m", "mmjax.plan.compiled"], input=question, capture_output=True,
                              text=True, timeout=max(seconds, 1), env=environment, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"not compiled within {seconds:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "?")[:400]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _compile(config: Mapping[str, Any], stage: str, topology: Topology) -> dict[str, Any]:
    import jax
    from jax.experimental import topologies

    from mmjax.core import sharding as shd
    from mmjax.plan.step import abstract_step, use_mesh

    platform = topology.spec.platform
    if platform == "tpu":
        grid = "x".join(map(str, topology.grid))
        devices = topologies.get_topology_desc(f"{topology.kind}:{grid}", platform="tpu").devices
    else:
        devices = jax.devices("cpu")
    if len(devices) != topology.devices:
        raise UserError(f"{topology.name}: the compiler sees {len(devices)} devices, not {topology.devices}")
    mesh = shd.make_mesh(config.get("mesh"), devices)
    with use_mesh(mesh):
        lowered = abstract_step(config, stage, mesh).trace().lower(lowering_platforms=(platform,))
    compiled = lowered.compile(_FAST if platform == "tpu" else None)
    memory = compiled.memory_analysis()
    try:
        exchanged = collectives(compiled.as_text())
    except jax.errors.JaxRuntimeError:  # libtpu has no text for some topologies
        exchanged = None
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "collectives": exchanged,
    }


def collectives(text: str) -> dict[str, int]:
    """{kind: bytes a device} of a compiled program: the larger of operands and results, loops multiplied out."""
    bodies: dict[str, list[str]] = {}
    name, entry = "", ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) (?:\(.*)?.*\{$", line):
            name = head[2]
            entry = name if head[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    total = dict.fromkeys(_NAMES.values(), 0)
    _add(entry, 1, bodies, total)
    return {kind: size for kind, size in total.items() if size}


def _add(name: str, count: int, bodies: Mapping[str, list[str]], total: dict[str, int]) -> None:
    gathered: set[str] = set()  # a TPU cuts one exchange into steps of a loop that share a channel
    for line in bodies.get(name, ()):
        if found := _EXCHANGE.search(line):
            size = _bytes(found[1]) // (2 if found[3] and found[2] != "all-reduce" else 1)
            if found[2] == "reduce-scatter" and (groups := re.search(r"replica_groups=\[\d+,(\d+)\]", line)):
                size *= int(groups[1])
            channel = re.search(r"channel_id=(\d+)", line)
            key = f"{channel[1]} {found[1]}" if channel else line
            total[_NAMES[found[2]]] += 0 if key in gathered and found[2] == "all-gather" else size * count
            gathered.add(key)
        trips = re.search(r'"known_trip_count":\{"n":"?(\d+)', line)
        for called in re.findall(r"(?:calls|body|to_apply|branch_computations|condition)=\{?%?([\w.\-]+)", line):
            _add(called, count * (int(trips[1]) if trips else 1), bodies, total)


def _bytes(shapes: str) -> int:
    total = 0
    for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
        size = _BITS.get(kind, 32) // 8
        for dim in filter(None, dims.split(",")):
            size *= int(dim)
        total += size
    return total


if __name__ == "__main__":
    from mmjax.plan.topology import parse

    asked = json.load(sys.stdin)
    print(json.dumps(_compile(asked["config"], asked["stage"], parse(asked["topology"]))))
