"""Memory of a training step per device, on meshes of eight: what the state takes, and what a step needs besides.

python experiments/benchmarks/sharding_memory.py [--models small vit_b32] [--json FILE]

`state` is the compiler's count of the step's arguments, which are the parameters and Adam's moments and a share of the
batch; `placed` is measured: the bytes of all arrays of a state that lies on the devices. A state that would take more
than 6 GiB of this host on all devices together is compiled, but not placed. `temporaries` are the compiler's, too: on
these simulated devices the compiled program is the one that a device of its own would run, but the compiler orders it
for a CPU. Every row is a process of its own.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from typing import Any

import _table

MODELS: dict[str, dict[str, Any]] = {
    "small": {
        "system": {
            "name": "clip",
            "embed_dim": 256,
            "img": {"image_size": 64, "patch": 8, "width": 256, "depth": 6, "heads": 8},
            "txt": {"vocab": 49_408, "length": 32, "width": 256, "depth": 4, "heads": 8},
        },
        "batch": 512,
    },
    "vit_b32": {"system": {"name": "clip", "size": "vit_b32"}, "batch": 512},
}
DEVICES = 8
MESHES = [("1 device", {}, 1), ("data=8", {"data": 8}, 1), ("data=8, 4 chunks", {"data": 8}, 4),
          ("fsdp=8", {"fsdp": 8}, 1), ("tensor=8", {"tensor": 8}, 1),
          ("data=2 fsdp=2 tensor=2", {"data": 2, "fsdp": 2, "tensor": 2}, 1),
          ("data=2 fsdp=2 tensor=2, 4 chunks", {"data": 2, "fsdp": 2, "tensor": 2}, 4)]  # fmt: skip
OPTIONS = {"dtype": "float32", "scan": True, "remat": "full", "loss_form": "ring"}
MIB, PLACED_AT_MOST = 2**20, 6 * 2**30


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)  # of MESHES: what a row's own process is called with
    _table.add_arguments(parser)
    return parser.parse_args()


def measure(model: str, row: int) -> dict[str, Any]:
    """One row: compiles the step for its mesh, and places the state if that fits."""
    import functools

    import jax
    import numpy as np

    from mmjax import main, systems
    from mmjax.core import sharding as shd
    from mmjax.core.collectives import collectives
    from mmjax.train.stage import Stage
    from mmjax.train.state import begin
    from mmjax.train.step import train_step

    name, shape, chunks = MESHES[row]
    system, batch = systems.build({**MODELS[model]["system"], **OPTIONS}), MODELS[model]["batch"]
    stage = Stage(steps=100, lr=1e-3, weight_decay=0.1, chunks=chunks)
    with shd.use_mesh(shd.make_mesh(shape or {"data": 1}, jax.devices()[: math.prod(shape.values())])) as mesh:
        size, length = system.img.image_size, system.txt.length
        examples = {"image": jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8),
                    "ids": jax.ShapeDtypeStruct((batch, length), np.int32),
                    "valid": jax.ShapeDtypeStruct((batch, length), np.bool_)}  # fmt: skip
        boxed = jax.eval_shape(functools.partial(system.init, train=False), jax.random.key(0), examples)
        shardings = {key: shd.param_shardings(tree, mesh) for key, tree in boxed.items()}
        tx, placed = main.optimizer(stage, shd.unbox(boxed), shardings, mesh)
        first = functools.partial(begin, stage, tx)
        state = jax.eval_shape(first, shd.unbox(boxed), jax.random.key(0))
        step = main.compiled_step(functools.partial(train_step, system, tx, stage), placed, mesh)
        compiled = step.lower(state, examples).compile()
        report = compiled.memory_analysis()
        moved = collectives(compiled.as_text())
        del compiled
        values = {"model": model, "mesh": name, "batch": batch,
                  "state MiB": report.argument_size_in_bytes / MIB, "placed MiB": None,
                  "temporaries MiB": report.temp_size_in_bytes / MIB,
                  "sent MiB": sum(c.sent for c in moved) / MIB}  # fmt: skip
        whole = sum(
            math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize * mesh.size
            for x, where in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True)
            if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        )
        if whole <= PLACED_AT_MOST:
            values["placed MiB"] = _placed(state, placed) / MIB
    return values


def _placed(state: Any, shardings: Any) -> float:
    """The largest number of bytes that arrays take on a device once a state lies where it belongs."""
    import collections
    import functools

    import jax
    import jax.numpy as jnp

    def zeros() -> Any:
        key = jax.random.key(0)
        return jax.tree.map(lambda x: key if x.dtype == key.dtype else jnp.zeros(x.shape, x.dtype), state)

    live = jax.block_until_ready(jax.jit(functools.partial(zeros), out_shardings=shardings)())
    bytes_on: collections.Counter = collections.Counter()
    for leaf in jax.tree.leaves(live):
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for shard in data.addressable_shards:
            bytes_on[shard.device] += shard.data.nbytes
    return max(bytes_on.values())


def run() -> None:
    """Starts a process a row, and prints the table."""
    args = parse()
    if args.row is not None:
        print(json.dumps(measure(args.models[0], args.row)))
        return
    flag = f"--xla_force_host_platform_device_count={DEVICES}"
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip(),
        "JAX_PLATFORMS": "cpu",
    }
    rows: list[dict[str, Any]] = []
    for model in args.models:
        alone = 0.0
        for row in range(len(MESHES)):
            command = [sys.executable, __file__, "--models", model, "--row", str(row)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            values = json.loads(done.stdout.splitlines()[-1])
            total = values["state MiB"] + values["temporaries MiB"]
            alone = alone or total
            rows.append({**values, "of one device": total / alone})
            print(f"{model}, {values['mesh']}: done", file=sys.stderr, flush=True)
    _table.publish("Memory of a training step per device", _table.machine("jax", "flax"), rows, args.json)


if __name__ == "__main__":
    run()
