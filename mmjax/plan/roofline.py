"""The least time of a step: products at an assumed share of the peak, memory and network at full bandwidth."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.sharding import MESH_AXES
from mmjax.plan.spread import Collective
from mmjax.plan.topology import Topology

UTILISATION = 0.5  # of the peak FLOP/s: what large products reach in practice, an assumption


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds a step of each resource; they are taken to overlap, so that the longest binds."""

    compute: float
    memory: float
    network: float

    @property
    def step(self) -> float:
        """Seconds a step, everything overlapping."""
        return max(self.compute, self.memory, self.network)

    @property
    def binds(self) -> str:
        """The resource that takes longest."""
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))


def roofline(
    topology: Topology, mesh: Mapping[str, int], flops: int, dtype: str, traffic: int, sent: Sequence[Collective]
) -> Roofline:
    """From a device's FLOPs, bytes read and written, and exchanges; `dtype` of the products."""
    peak = topology.spec.bf16 if dtype == "bfloat16" else topology.spec.f32
    network = sum(seconds(each, topology, mesh) for each in sent)
    return Roofline(flops / (peak * UTILISATION), traffic / topology.spec.bandwidth, network)


def seconds(each: Collective, topology: Topology, mesh: Mapping[str, int]) -> float:
    """Of a collective as a ring of its devices does it."""
    n = math.prod(mesh[axis] for axis in each.axes)
    share = {"all-reduce": 2 * (n - 1) / n, "permute": 1.0}.get(each.kind, (n - 1) / n)
    # Devices lie along the last mesh axis first: a group spans all that is inside of its outermost axis.
    outermost = min(MESH_AXES.index(axis) for axis in each.axes)
    span = math.prod(mesh[axis] for axis in MESH_AXES[outermost:])
    spec: Any = topology.spec
    within = spec.platform != "gpu" or span <= spec.host
    return each.count * each.size * share / (spec.within if within else spec.between)
