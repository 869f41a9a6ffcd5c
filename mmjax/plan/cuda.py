"""NVIDIA GPUs that are not there, as XLA's compiler for CUDA wants them described (JAX extras `cuda12`, `cuda13`)."""

import importlib.util
from typing import Any

from mmjax.plan.topology import Topology

PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")

# kind -> (compute capability, multiprocessors, L2 cache in MiB, shared memory of a multiprocessor in KiB): NVIDIA's
# CUDA C++ programming guide, "Compute capabilities", and the white papers of Ampere, Ada and Hopper; recalled.
PROCESSORS: dict[str, tuple[tuple[int, int], int, int, int]] = {
    "h200": ((9, 0), 132, 50, 228),
    "h100": ((9, 0), 132, 50, 228),
    "h100-pcie": ((9, 0), 114, 50, 228),
    "a100": ((8, 0), 108, 40, 164),
    "a100-40gb": ((8, 0), 108, 40, 164),
    "l40s": ((8, 9), 142, 96, 100),
    "l4": ((8, 9), 58, 48, 100),
    "rtx4090": ((8, 9), 128, 72, 100),
}

# Without a GPU nothing can be tuned by trial, and the untuned kernels of Triton fail on some products: cuBLAS's are
# taken. What a step stores is the same but for their workspaces.
OPTIONS: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}


WORKSPACE = {True: 32 * 2**20, False: 4 * 2**20}
"""Bytes that XLA lends cuBLAS for its products: from Hopper on, and before."""


def workspace(kind: str) -> int:
    """Bytes beside the step's own values that its products need on a kind of GPU."""
    capability = PROCESSORS[kind][0] if kind in PROCESSORS else (0, 0)
    return WORKSPACE[capability >= (9, 0)]


def available(kind: str) -> bool:
    """Whether JAX's plugin for CUDA is installed and the kind can be described to it."""
    return kind in PROCESSORS and any(_found(name) for name in PLUGINS)


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # no jax_plugins at all
        return False


def devices(topology: Topology) -> list[Any]:
    """Devices to compile for; none of them exists."""
    from jax._src import xla_bridge  # no public way to load a plugin whose devices are absent
    from jax.experimental import topologies

    xla_bridge.discover_pjrt_plugins()
    hosts = -(-topology.devices // topology.spec.host)
    shape = f"1x{hosts}x{min(topology.devices, topology.spec.host)}"  # slices, hosts, devices of a host
    found = topologies.get_topology_desc(topology.kind, platform="cuda", target_config=target(topology), topology=shape)
    return list(found.devices)


def target(topology: Topology) -> str:
    """The device as a GpuTargetConfigProto in text form."""
    (major, minor), cores, cache, shared = PROCESSORS[topology.kind]
    spec = topology.spec
    device = {
        "threads_per_block_limit": 1024, "threads_per_warp": 32, "threads_per_core_limit": 2048 if minor == 0 else 1536,
        "shared_memory_per_block": 48 * 1024, "shared_memory_per_core": shared * 1024,
        "shared_memory_per_block_optin": (shared - 1) * 1024, "core_count": cores, "fpus_per_core": 128,
        "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 2**16 - 1, "block_dim_limit_z": 2**16 - 1,
        "memory_bandwidth": int(spec.bandwidth), "l2_cache_size": cache * 2**20, "clock_rate_ghz": 1.5,
        "device_memory_size": spec.memory, "registers_per_core_limit": 2**16, "registers_per_block_limit": 2**16,
    }  # fmt: skip
    fields = " ".join(f"{name}: {value}" for name, value in device.items())
    capability = f"cuda_compute_capability {{ major: {major} minor: {minor} }}"
    return (
        f'gpu_device_info {{ {fields} {capability} name: "{topology.kind}" }} platform_name: "CUDA" '
        f'dnn_version_info {{ major: 9 minor: 10 patch: 0 }} device_description_str: "{topology.kind}"'
    )
