"""What the compiler itself says of a step, for devices that are not there: in a process of its own, with a time limit.

For TPUs `libtpu` compiles without a TPU (extra `tpu`); for NVIDIA GPUs, JAX's plugin for CUDA without a GPU; for CPUs,
JAX's own compiler over as many devices as asked. A process of its own, because the number of devices is fixed when JAX
starts, and a compilation can only be ended so.
"""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.plan import cuda
from mmjax.plan.topology import Topology

# libtpu: a third of the time, and on ViT-L/14 the same memory to 0.2 %.
_FAST = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}


def source(topology: Topology) -> str | None:
    """The compiler that can be had for a topology, by name; None if there is none here."""
    platform = topology.spec.platform
    if platform == "cpu":
        return "XLA's CPU compiler"
    if platform == "tpu" and importlib.util.find_spec("libtpu") is not None:
        return "libtpu"
    if platform == "gpu" and cuda.available(topology.kind):
        return "XLA's CUDA compiler"
    return None


def compile_stage(config: Mapping[str, Any], stage: str, topology: Topology, seconds: float) -> dict[str, Any]:
    """Compiles a stage's step; {"arguments", "temporaries", "outputs", "aliased": bytes a device, "collectives": …}.

    `{"error": why}` if the compiler refused, or did not end in time. The collectives are those of the program's text,
    each as often as the loop that holds it runs: {kind: bytes a device}; None, with "collectives_error", where the
    compiler gives no text or not how often its loops run.
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
    from mmjax.core.collectives import collectives
    from mmjax.plan.step import abstract_step, use_mesh

    platform = topology.spec.platform
    if platform == "tpu":
        grid = "x".join(map(str, topology.grid))
        alone = {"chips_per_host_bounds": [1, 1, 1]} if math.prod(topology.grid) == 1 else {}  # a host has 4 or 8 else
        devices = topologies.get_topology_desc(f"{topology.kind}:{grid}", platform="tpu", **alone).devices
    elif platform == "gpu":
        devices = cuda.devices(topology)
    else:
        devices = jax.devices("cpu")
    if len(devices) != topology.devices:
        raise UserError(f"{topology.name}: the compiler sees {len(devices)} devices, not {topology.devices}")
    mesh = shd.make_mesh(config.get("mesh"), devices)
    with use_mesh(mesh):
        lowered = (
            abstract_step(config, stage, mesh)
            .trace()
            .lower(lowering_platforms=("cuda" if platform == "gpu" else platform,))
        )
    compiled = lowered.compile({"tpu": _FAST, "gpu": cuda.OPTIONS}.get(platform))
    memory = compiled.memory_analysis()
    sent: dict[str, int] = {}
    error = None
    try:
        for each in collectives(compiled.as_text()):
            kind = each.kind.removeprefix("collective-")
            sent[kind] = sent.get(kind, 0) + each.bytes * each.count
    except (jax.errors.JaxRuntimeError, ValueError) as reason:  # libtpu: no text, or loops without their counts
        error = str(reason).splitlines()[0][:200]
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": _temporaries(memory, platform),
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "collectives": sent if error is None else None,
        "collectives_error": error,
    }


def _temporaries(memory: Any, platform: str) -> int:
    """Most bytes of temporaries at once.

    libtpu 0.0.42 reports as `temp_size` more than a step takes: it compiled ViT-L/14 at 336 pixels and a batch of
    36,864 for v5e:16x16 with 18.5 GB of it, where a chip has 16.9, and its `peak_memory`, 12.4 GB with the arguments,
    is what the schedule of its program adds up to. The compiler for CPUs leaves temporaries out of the peak, and its
    `temp_size` is one allocation.
    """
    if platform == "tpu":
        return memory.peak_memory_in_bytes - memory.argument_size_in_bytes
    return memory.temp_size_in_bytes


if __name__ == "__main__":
    from mmjax.plan.topology import parse

    asked = json.load(sys.stdin)
    print(json.dumps(_compile(asked["config"], asked["stage"], parse(asked["topology"]))))
