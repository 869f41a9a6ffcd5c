"""What a device of every kind can do, and how many there are: `v5e:16x16`, `h100:8`, `cpu:4`.

The figures are vendors' peaks. `source` says where each was looked up (November 2026); a kind without a source is
recalled from data sheets and was not confirmed, which the plan says. The share of the host's network that a GPU has is
an assumption everywhere: a port of 100 to 400 Gbit/s a GPU.
"""

import dataclasses
import math
import re

from mmjax.core.errors import UserError

GIB = 2**30
Number = float | int


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of device; rates a second.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      bf16, f32: peak FLOP/s of matrix products of these inputs (f32 as JAX computes it by default there: TPUs in one
        bfloat16 pass, GPUs in TF32).
      memory: bytes, and bandwidth bytes/s.
      within: bytes/s that a device sends to others of its host (a GPU) or of its slice (a TPU), one direction, all
        links together; between: of its share of the host's network.
      host: devices a host.
      axes: axes of a TPU slice's grid.
      cores: JAX devices a chip.
      source: where the figures were looked up; empty: recalled, not confirmed.
    """

    platform: str
    bf16: float
    f32: float
    memory: int
    bandwidth: float
    within: float
    between: float
    host: int
    axes: int = 0
    cores: int = 1
    source: str = ""


def _tpu(tflops: Number, gib: Number, gbs: Number, ici: Number, axes: int, source: str, cores: int = 1) -> Kind:
    """A TPU, all figures of a chip: `ici` in GB/s, both directions of all links; a slice is one network."""
    one_way = ici * 1e9 / 2 / cores
    rate = tflops * 1e12 / cores
    return Kind("tpu", rate, rate, int(gib * GIB / cores), gbs * 1e9 / cores, one_way, one_way, 4, axes, cores, source)


def _gpu(
    bf16: Number, tf32: Number, gib: Number, gbs: Number, link: Number, network: Number, source: str = "", host: int = 8
) -> Kind:
    """A GPU: `link` in GB/s, one direction of all NVLinks or of PCIe."""
    rates = (bf16 * 1e12, tf32 * 1e12, int(gib * GIB), gbs * 1e9, link * 1e9, network * 1e9)
    return Kind("gpu", *rates, host, source=source)


_TPU7X = "Cloud TPU documentation, TPU7x (Ironwood): the table that compares v5p, v6e and TPU7x"
_A100 = "NVIDIA A100 datasheet (1758950-r4) as quoted in Glenn Lockwood's notes on the A100"
_H100 = "NVIDIA H100 figures as quoted in Glenn Lockwood's notes on the H100"
KINDS: dict[str, Kind] = {
    # The exchange of v4 is recalled: its page names none.
    "v4": _tpu(275, 32, 1200, 600, 3, "Cloud TPU documentation, TPU v4 (the links' rate is recalled)"),
    "v5e": _tpu(197, 16, 819, 400, 2, "Cloud TPU documentation, TPU v5e"),
    "v5p": _tpu(459, 95, 2765, 1200, 3, _TPU7X),
    "v6e": _tpu(918, 32, 1638, 800, 2, f"Cloud TPU documentation, TPU v6e; {_TPU7X}"),
    "tpu7x": _tpu(2307, 192, 7380, 1200, 3, _TPU7X, cores=2),  # a chip is two devices, half of it each
    # Dense rates, without sparsity; SXM forms where there are several.
    "b200": _gpu(2250, 1100, 180e9 / GIB, 8000, 900, 50, "NVIDIA HGX B200 at 1,000 W as quoted in Glenn Lockwood's "
                 "notes on the B200; memory: a system's 1,440 GB over 8, NVIDIA's page of the DGX B200"),
    "h200": _gpu(989, 494, 141e9 / GIB, 4800, 450, 50, f"{_H100}; memory: resellers' tables of the H200"),
    "h100": _gpu(989, 494, 80, 3350, 450, 50, _H100),
    "h100-pcie": _gpu(756, 378, 80, 2000, 64, 25),  # its memory's rate alone: NVIDIA's product brief PB-11133
    "a100": _gpu(312, 156, 80, 2039, 300, 25, _A100),
    "a100-40gb": _gpu(312, 156, 40, 1555, 300, 25, _A100),
    "v100": _gpu(15.7, 15.7, 32, 900, 150, 12.5),  # no bfloat16 in its tensor cores: computed as float32
    "l40s": _gpu(362, 183, 48, 864, 32, 25, "NVIDIA's table of the L40 and L40S as resellers repeat it"),
    "l4": _gpu(121, 60, 24, 300, 32, 12.5, "NVIDIA's figures of the L4 with sparsity as resellers repeat them, halved"),
    "a10g": _gpu(70, 35, 24, 600, 32, 12.5),
    "t4": _gpu(8.1, 8.1, 16, 320, 16, 6.25),  # the same
    "rtx4090": _gpu(165, 83, 24, 1008, 32, 12.5),
    "rtx3090": _gpu(71, 36, 24, 936, 32, 12.5),
}  # fmt: skip
# A laptop's core: 8 float32 lanes, two fused multiply-adds a cycle at 2 GHz; what memory it has is not known.
CPU = Kind("cpu", 32e9, 64e9, 0, 10e9, 5e9, 5e9, 1, source="assumed")
EXAMPLES = "cpu:8, v5e:16x16, v5p:8x8x8, h100:8"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices of one kind.

    Attributes:
      name: as it was given.
      kind: key of KINDS, or "cpu".
      spec: what each can do.
      grid: chips along every axis of a TPU slice; (devices,) otherwise.
    """

    name: str
    kind: str
    spec: Kind
    grid: tuple[int, ...]

    @property
    def devices(self) -> int:
        """JAX devices."""
        return math.prod(self.grid) * self.spec.cores


def parse(text: str) -> Topology:
    """A topology from `kind:devices`, `kind:16x16` (a TPU's chips), or `kind` for one GPU or CPU.

    Raises:
      UserError: unknown kind, or a number of axes that its slices do not have; the message lists the valid ones.

    Example:
      >>> parse("v5e:16x16").devices
      256
    """
    name, colon, size = text.partition(":")
    spec = CPU if name == "cpu" else KINDS.get(name)
    if spec is None:
        raise UserError(f"topology {text!r}: no kind {name!r}; there are cpu, {', '.join(KINDS)}; e.g. {EXAMPLES}")
    if not colon and spec.platform != "tpu":
        size = "1"
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
        form = "x".join("8" * (spec.axes or 1))
        raise UserError(f"topology {text!r}: {size!r} is no size; valid: {name}:{form}; e.g. {EXAMPLES}")
    grid = tuple(int(part) for part in size.split("x"))
    axes = spec.axes or 1
    if len(grid) != axes:
        form = "x".join("4" * axes)
        what = f"a slice has {axes} axes of chips" if spec.axes else "give the number of devices"
        raise UserError(f"topology {text!r}: {what}, as {name}:{form}; e.g. {EXAMPLES}")
    return Topology(text, name, spec, grid)
