"""What `mmjax plan` says of a step's memory beside what the step takes when it runs on this machine's processors.

python experiments/benchmarks/plan_memory.py [--rows demo …] [--json FILE]

`measured` is how much the peak of resident memory of a process rises over what it was with the step compiled and
nothing placed, while it makes the state and runs three steps. `plan` is the peak that the command prints for
`--topology cpu:N`, the compiler's; `estimate` the same with `--compile never`. Both are of one device and counted N
times, since the host holds what all N devices hold. On a GPU, give `--topology h100:1` and the like: there `measured`
is the allocator's own peak.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import _table

CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "clip"
B32 = ["data.train=emoji:train", "data.workers=0", "data.batch_size=16", "system.loss_form=plain"]
SMALL = ["system.img.image_size=64", "system.img.patch=8", "system.img.width=192", "system.img.depth=6",
         "system.img.heads=3", "data.batch_size=256", "system.loss_form=plain"]  # fmt: skip
# row -> (config, devices, changes)
ROWS: dict[str, tuple[str, int, list[str]]] = {
    "demo": ("demo.py", 1, []),
    "demo, data=4": ("demo.py", 4, []),
    "demo, fsdp=4": ("demo.py", 4, ["mesh.data=1", "mesh.fsdp=4"]),
    "small ViT, remat": ("vit_b32.py:smoke", 1, SMALL),
    "small ViT, remat, fsdp=4": ("vit_b32.py:smoke", 4, [*SMALL, "mesh.fsdp=4"]),
    "vit_b32, remat": ("vit_b32.py", 1, [*B32, "mesh.fsdp=1"]),
    "vit_b32, remat dots, unrolled": ("vit_b32.py", 1, [*B32, "mesh.fsdp=1", "system.remat=dots", "system.scan=False"]),
    "vit_b32, fsdp=4": ("vit_b32.py", 4, [*B32, "mesh.data=1", "mesh.fsdp=4"]),
}
MIB = 2**20


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--topology", metavar="KIND", help="the kind of the device that is here, such as h100:1")
    parser.add_argument("--measure", choices=list(ROWS), help=argparse.SUPPRESS)  # what a row's own process is given
    _table.add_arguments(parser)
    return parser.parse_args()


def measure(row: str) -> float:
    """Bytes by which the peak rises, over all devices of this process."""
    import functools

    import jax
    import jax.numpy as jnp

    from mmjax import main
    from mmjax.core import config as configs
    from mmjax.core import sharding as shd
    from mmjax.plan.step import abstract_step
    from mmjax.train.state import begin

    file, _, changes = ROWS[row]
    config = configs.plain(configs.load(CONFIGS / file, [f"--config.{change}" for change in changes]))
    name = next(iter(config["stages"]))
    with shd.use_mesh(shd.make_mesh(config["mesh"])) as mesh:
        step = abstract_step(config, name, mesh)
        compiled = step.trace().lower().compile()
        system = main.systems.build(config["system"])
        _, boxed, shardings = main.abstract_variables(system, config, mesh)
        variables = shd.unbox(boxed)
        tx, placed = main.optimizer(step.stage, variables, shardings, mesh)
        zeros = functools.partial(jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype))
        first = jax.jit(lambda key: begin(step.stage, tx, zeros(variables), key), out_shardings=placed)
        batches = jax.jit(lambda: zeros(step.batch), out_shardings=shd.batch_sharding(mesh))
        key = jax.random.key(0)
        first.lower(key).compile(), batches.lower().compile()
        before = _resident(reset=True)
        state, batch = first(key), batches()
        for _ in range(3):
            state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        if jax.default_backend() == "cpu":
            return _resident() - before
        return sum((device.memory_stats() or {})["peak_bytes_in_use"] for device in jax.devices())


def _resident(reset: bool = False) -> int:
    """The peak of this process's resident memory in bytes; `reset` makes the present one the peak first (Linux)."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = pathlib.Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def planned(row: str, topology: str | None, compile: str) -> float:
    """Bytes that `mmjax plan` tells, over all devices."""
    file, devices, changes = ROWS[row]
    command = [sys.executable, "-m", "mmjax.cli", "plan", "--json", f"--config={CONFIGS / file}"]
    command += [f"--topology={topology or f'cpu:{devices}'}", f"--compile={compile}"]
    command += [f"--config.{change}" for change in changes]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found["peak"] * found["devices"]


def run() -> None:
    """Starts the processes of every row, and prints the table."""
    args = parse()
    if args.measure:
        print(measure(args.measure))
        return
    rows = []
    for row in args.rows:
        flag = f"--xla_force_host_platform_device_count={ROWS[row][1]}"
        environment = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}
        if args.topology is None:
            environment["JAX_PLATFORMS"] = "cpu"
        command = [sys.executable, __file__, "--measure", row]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        measured = float(done.stdout.splitlines()[-1])
        plan, estimate = (planned(row, args.topology, compile) for compile in ("auto", "never"))
        sizes = {"measured MiB": measured / MIB, "plan MiB": plan / MIB, "estimate MiB": estimate / MIB}
        shares = {"plan / measured": plan / measured, "estimate / measured": estimate / measured}
        rows.append({"step": row, **sizes, **shares})
        print(f"{row}: {plan / measured:.3f} planned of what was measured", file=sys.stderr, flush=True)
    _table.publish("Memory of a training step: planned and measured", _table.machine("jax"), rows, args.json)


if __name__ == "__main__":
    run()
