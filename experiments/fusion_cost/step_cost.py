"""What a training step of one config costs beside a step of another: CoCa's one forward pass against ALBEF's several.

    python experiments/fusion_cost/step_cost.py configs/coca/emoji_scenes.py configs/albef/emoji_scenes.py \
        --set0 system.img.width=192 --set1 system.img.width=192 [--stage0 scenes] [--stage1 scenes] [--batch 64]
        [--rounds 6] [--steps 4] [--json FILE]

Both steps are those that `mmjax train` runs (last stage of each config unless told: losses, gradients, optimizer,
teacher and queue where there are some), on a batch of the config's own data, made once. Both are compiled and warmed up
in one process; then they alternate, `--steps` steps of one, `--steps` of the other, every second round in the opposite
order. `cpu s` is the processor time of all threads, which a busy neighbour disturbs less than `wall s`; both are
medians over the rounds, a step. `ratio` is the second's over the first's in the same round: median, lowest and highest.
Above 1, the first is cheaper.

Equal size is up to the two configs: the table gives the parameters of each top-level module. `--set0`, `--set1` change
the first and the second config (several times; without the leading `config.`), `--batch` the batches of both.
"""

import argparse
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Side(NamedTuple):
    """One config ready to run.

    Attributes:
      name: the config's path.
      parameters: by top-level module.
      run: runs so many steps and returns when they are done.
    """

    name: str
    parameters: dict[str, int]
    run: Callable[[int], None]


def prepare(path: str, changes: list[str], stage_name: str | None, batch: int | None) -> Side:
    """Builds, compiles and warms up the step of a config's stage, the last one unless told."""
    import jax

    from mmjax import inputs, systems
    from mmjax import main as training
    from mmjax.core import config as configs
    from mmjax.core import rng as rngs
    from mmjax.core import sharding as shd
    from mmjax.core import trees
    from mmjax.train.stage import make_stage
    from mmjax.train.state import begin
    from mmjax.train.step import train_step

    more = [f"data.batch_size={batch}"] if batch else []
    overrides = [f"--config.{change}" for change in (*changes, *more, "data.workers=0")]
    config = configs.plain(configs.load(path, overrides))
    name = stage_name or list(config["stages"])[-1]
    if name not in config["stages"]:
        raise SystemExit(f"{path} has no stage {name!r}; there are {', '.join(config['stages'])}")
    settings = config["stages"][name]
    stage, mesh = make_stage(name, settings), shd.make_mesh(config.get("mesh"))
    tokenizer, system = inputs.make_tokenizer(config["tokenizer"], None), systems.build(config["system"])
    pipeline = inputs.make_pipeline(config, stage.data, tokenizer, mesh)
    with inputs.open_batches(pipeline, shd.batch_sharding(mesh)) as batches:
        given = next(batches)
    with shd.use_mesh(mesh):
        key = jax.random.key(config["seed"])
        variables, shardings = training.initial_variables(system, config, mesh, rngs.stream(key, "params"))
        tx, placed = training.optimizer(stage, variables, shardings, mesh)
        first = jax.jit(functools.partial(begin, stage, tx), out_shardings=placed)
        state = first(variables, rngs.stream(key, f"stages/{name}"))
        parameters = trees.count_by_module(state.params)
        step = training.compiled_step(functools.partial(train_step, system, tx, stage), placed, mesh)
    held = [state]

    def run(steps: int) -> None:
        with shd.use_mesh(mesh):
            for _ in range(steps):
                held[0], metrics = step(held[0], given)
            jax.block_until_ready(held[0])
        assert all(float(value) == float(value) for value in metrics.values()), metrics

    run(2)
    return Side("/".join(pathlib.Path(path).parts[-2:]), parameters, run)  # names no folder of this machine


def measure(sides: list[Side], rounds: int, steps: int) -> list[list[dict[str, float]]]:
    """Seconds a step, by round and side."""
    found = []
    for number in range(rounds):
        row: dict[int, dict[str, float]] = {}
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            wall, cpu = time.perf_counter(), time.process_time()
            sides[place].run(steps)
            row[place] = {
                "wall": (time.perf_counter() - wall) / steps,
                "cpu": (time.process_time() - cpu) / steps,
            }
        found.append([row[0], row[1]])
    return found


def table(sides: list[Side], found: list[list[dict[str, float]]]) -> tuple[str, dict[str, Any]]:
    """The table, and what it says as data."""
    ratios = {kind: [row[1][kind] / row[0][kind] for row in found] for kind in ("wall", "cpu")}
    spread = {kind: (statistics.median(r), min(r), max(r)) for kind, r in ratios.items()}
    lines = ["| config | parameters | cpu s | wall s |", "|---|---|---|---|"]
    data: dict[str, Any] = {"ratio": spread, "rounds": found, "sides": []}
    for place, side in enumerate(sides):
        cpu, wall = (statistics.median(row[place][kind] for row in found) for kind in ("cpu", "wall"))
        total, parts = sum(side.parameters.values()), ", ".join(f"{k} {v:,}" for k, v in side.parameters.items())
        lines.append(f"| {side.name} | {total:,} ({parts}) | {cpu:.3f} | {wall:.3f} |")
        data["sides"].append({"config": side.name, "parameters": side.parameters, "cpu": cpu, "wall": wall})
    lines += ["", "| ratio, second over first | median | lowest | highest |", "|---|---|---|---|"]
    lines += [f"| {kind} s | " + " | ".join(f"{v:.2f}" for v in spread[kind]) + " |" for kind in ("cpu", "wall")]
    return "\n".join(lines), data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs=2, metavar="CONFIG")
    parser.add_argument("--set0", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set1", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--stage0", metavar="NAME")
    parser.add_argument("--stage1", metavar="NAME")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    from mmjax.core import host_memory

    host_memory.keep()  # as the command `mmjax` does
    told = zip(args.configs, (args.set0, args.set1), (args.stage0, args.stage1), strict=True)
    sides = [prepare(*each, args.batch) for each in told]
    text, data = table(sides, measure(sides, args.rounds, args.steps))
    print(text)
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
