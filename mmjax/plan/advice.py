"""What to change when a step does not fit: variants of the config, each tried with the fast estimate."""

import copy
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mmjax import systems
from mmjax.core import sharding as shd
from mmjax.core.errors import UserError
from mmjax.plan.estimate import estimate
from mmjax.plan.topology import Topology
from mmjax.train.step import caches_features

MOST_HALVINGS = 10
CHUNKS = (4, 16, 64)


def try_changes(
    config: Mapping[str, Any], stage: str, topology: Topology, usable: int, margin: float, deadline: float
) -> list[dict]:
    """[{"change", "peak", "fits", "seconds"} or {"change", "error"}] of every change that the system has, and of the
    largest batch that fits, by halves. What `deadline` (of time.monotonic) leaves no time for is named as not tried."""
    found = []

    def tried(words: str, changed: dict) -> dict[str, Any]:
        if time.monotonic() > deadline:
            return {"change": words, "error": "not tried: the time for it is over"}
        return _try(words, changed, stage, topology, usable, margin)

    whole = batch = _batch(config, stage)
    for _ in range(MOST_HALVINGS):
        batch //= 2
        if batch < 1:
            break
        answer = tried(f"batch_size={batch}", _with(config, ("data", "batch_size"), batch, stage))
        if "error" in answer or answer["fits"] or batch == whole // 2:
            found.append(answer)
        if "error" in answer or answer["fits"]:
            break
    return [tried(words, changed) for words, changed in changes(config, stage, topology)] + found


def changes(config: Mapping[str, Any], stage: str, topology: Topology) -> Iterator[tuple[str, dict]]:
    """What may be tried, each as (words, changed config): options that the system has, and meshes."""
    devices = topology.devices
    mesh = dict(zip(shd.MESH_AXES, shd.mesh_sizes(config.get("mesh"), devices), strict=True))  # no axis is "the rest"
    combined, words = copy.deepcopy(dict(config)), []
    if config["system"].get("remat") != "full":
        remat = _with(config, ("system", "remat"), "full")
        if _builds(remat):
            yield "system.remat=full", remat
            combined, words = remat, ["remat=full"]
    if config["system"].get("loss_form", "plain") == "plain":
        form = "ring" if devices > 1 else "blocked"
        formed = _with(config, ("system", "loss_form"), form)
        if _builds(formed):
            yield f"system.loss_form={form}", formed
            combined = _with(combined, ("system", "loss_form"), form)
            words.append(f"loss_form={form}")
    sizes = [n for n in (2, 4, 8, 64, devices) if n <= devices and devices % n == 0 and n > mesh["fsdp"]]
    for n in sorted(set(sizes)):
        yield f"mesh.fsdp={n}", _mesh(config, {"data": -1, "fsdp": n, "tensor": mesh["tensor"]})
    for n in (2, 8):
        if devices % n == 0 and n > mesh["tensor"]:
            rest = max(devices // n, 1)
            fsdp = min(mesh["fsdp"], rest)
            yield f"mesh.tensor={n} mesh.fsdp={fsdp}", _mesh(config, {"data": -1, "fsdp": fsdp, "tensor": n})
    for chunks in CHUNKS if caches_features(systems.build(config["system"])) else ():
        said = f"stages.{stage}.chunks={chunks}"
        yield said, _with(config, ("stages", stage, "chunks"), chunks)
        if words:
            yield f"{' '.join(words)} chunks={chunks}", _with(combined, ("stages", stage, "chunks"), chunks)


def _builds(config: Mapping[str, Any]) -> bool:
    """Whether the system has the option that was set: its builder refuses others."""
    try:
        systems.build(config["system"])
    except UserError:
        return False
    return True


def _mesh(config: Mapping[str, Any], mesh: dict[str, int]) -> dict[str, Any]:
    return {**config, "mesh": mesh}


def _with(config: Mapping[str, Any], path: tuple[str, ...], value: Any, stage: str = "") -> dict[str, Any]:
    changed = copy.deepcopy(dict(config))
    node = changed
    for key in path[:-1]:
        node = node.setdefault(key, {})
    node[path[-1]] = value
    if path == ("data", "batch_size"):  # a stage's own size would win
        changed["stages"][stage].get("data", {}).pop("batch_size", None)
    if path == ("system", "remat"):
        for tower in changed["system"].values():
            if isinstance(tower, dict):
                tower.pop("remat", None)
    return changed


def _batch(config: Mapping[str, Any], stage: str) -> int:
    return int((config["stages"][stage].get("data") or {}).get("batch_size", config["data"]["batch_size"]))


def _try(words: str, config: dict, stage: str, topology: Topology, usable: int, margin: float) -> dict[str, Any]:
    try:
        found = estimate(config, stage, topology)
    except UserError as error:
        return {"change": words, "error": str(error)}
    return {"change": words, "peak": found["peak"], "fits": found["peak"] * margin <= usable,
            "seconds": found["seconds"]["step"]}  # fmt: skip
