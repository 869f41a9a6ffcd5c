"""A stage's step without compiling it: bytes a device, FLOPs, exchanges, and the least time."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import jax

from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.plan import cuda, flops, liveness, program, roofline, spread
from mmjax.plan.step import AbstractStep, abstract_mesh, abstract_step, held_bytes, use_mesh
from mmjax.plan.topology import Topology

# Of a device's memory: what JAX lets a program have. GPU: its default share (XLA_PYTHON_CLIENT_MEM_FRACTION).
USABLE = {"tpu": 0.98, "gpu": 0.75, "cpu": 0.9}


def memory_of(topology: Topology) -> int:
    """Usable bytes a device; CPU devices share this machine's memory."""
    total = topology.spec.memory
    if topology.spec.platform == "cpu":
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // topology.devices
    return int(total * USABLE[topology.spec.platform])


def estimate(config: Mapping[str, Any], stage: str, topology: Topology) -> dict[str, Any]:
    """The figures of one stage; bytes are those of one device.

    Raises:
      UserError: a mistake in the config, or a mesh or batch that the devices do not divide.
    """
    mesh = abstract_mesh(config, topology.devices)
    with use_mesh(mesh):
        step = abstract_step(config, stage, mesh)
        whole = program.read(step.trace().jaxpr, topology.spec.platform)
    places = _places(step, whole)
    state = len(jax.tree.leaves(step.state))
    temporaries = liveness.peak(whole, places, donated=state, platform=topology.spec.platform)
    if topology.spec.platform == "gpu":
        temporaries += cuda.workspace(topology.kind)
    held = {
        "parameters": held_bytes(step.state.params, step.placed.params)
        + held_bytes(step.state.frozen, step.placed.frozen),
        "optimizer": held_bytes(step.state.opt, step.placed.opt),
        "other state": held_bytes(
            (step.state.step, step.state.stats, step.state.teacher, step.state.rng),
            (step.placed.step, step.placed.stats, step.placed.teacher, step.placed.rng),
        ),
        "batch": held_bytes(step.batch, shd.batch_sharding(mesh)),
    }
    sent: dict[str, int] = {}
    for each in places.collectives:
        sent[each.kind] = sent.get(each.kind, 0) + each.size * each.count
    arguments = sum(held.values())
    traffic = liveness.traffic(whole, places, topology.spec.platform) + arguments + arguments - held["batch"]
    dtype = config["system"]["dtype"]
    time = roofline.roofline(topology, dict(mesh.shape), places.flops, dtype, traffic, places.collectives)
    return {
        "stage": stage,
        "mesh": dict(mesh.shape),
        "batch_size": step.batch_size,
        "dtype": dtype,
        "count": {"trainable": trees.count(step.state.params), "frozen": trees.count(step.state.frozen)},
        "bytes": {**held, "gradients": held_bytes(step.state.params, step.placed.params), "temporaries": temporaries},
        "peak": arguments + temporaries,
        "flops": {"executed": flops.count(whole), "a_device": places.flops},
        "collectives": sent,
        "seconds": {"compute": time.compute, "memory": time.memory, "network": time.network, "step": time.step},
        "binds": time.binds,
        "samples_per_second": step.batch_size / time.step,
    }


def model_flops(config: Mapping[str, Any], stage: str, topology: Topology) -> int:
    """FLOPs of the same step with nothing computed twice: no rematerialised blocks, no chunks."""
    plain: Any = copy.deepcopy(dict(config))
    _without(plain["system"], "remat")
    plain["stages"][stage]["chunks"] = 1
    mesh = abstract_mesh(plain, topology.devices)
    with use_mesh(mesh):
        return flops.count(program.read(abstract_step(plain, stage, mesh).trace().jaxpr, topology.spec.platform))


def _without(tree: Any, key: str) -> None:
    tree.pop(key, None)
    for sub in tree.values():
        if isinstance(sub, dict):
            _without(sub, key)


def _places(step: AbstractStep, whole: program.Program) -> spread.Spread:
    def spec(sharding: Any, leaf: Any) -> spread.Spec:
        given = tuple((e,) if isinstance(e, str) else tuple(e or ()) for e in sharding.spec)
        return (*given, *((),) * (len(leaf.shape) - len(given)))

    held = [spec(p, leaf) for p, leaf in zip(jax.tree.leaves(step.placed), jax.tree.leaves(step.state), strict=True)]
    by_batch = shd.batch_sharding(step.mesh)
    ins = [*held, *(spec(by_batch, leaf) for leaf in jax.tree.leaves(step.batch))]
    metrics: list[spread.Spec] = [((),) * len(value.shape) for value in whole.outs[len(held) :]]
    return spread.spread(whole, ins, [*held, *metrics], dict(step.mesh.shape))
