"""Training, from config to report: config -> mesh -> tokenizer -> system -> stages -> loop -> evaluators -> report."""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmjax import checks, initial, inputs, licences, reporting, systems
from mmjax.core import config as configs
from mmjax.core import files, processes, trees
from mmjax.core import rng as rngs
from mmjax.core import sharding as shd
from mmjax.core.errors import UserError
from mmjax.data import ledger, rows
from mmjax.train import checkpoint, loop, progress, writers
from mmjax.train.optim import learning_rate, make_optimizer
from mmjax.train.stage import Stage, make_stage
from mmjax.train.state import State, begin
from mmjax.train.step import train_step, with_tasks

# What may differ between a run and its continuation: it changes no number that training computes.
FREE = ("title", "mesh", "every", "keep", "writers", "report", "evals", "init")
FREE_DATA = ("workers", "read_ahead", "max_bad")


def train(config: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Trains all stages of a config in a work directory, continuing what is there, and returns the final metrics.

    Writes checkpoints/, metrics.jsonl, ledger.jsonl (what of the data could not be used), metrics.json, report.html and
    PNGs. Killed and started again, it goes on from the last complete checkpoint and ends with the same bits.

    Raises:
      UserError: a mistake in the config, or a work directory of another run.
      loop.Interrupted: SIGTERM or SIGINT; everything is saved.
    """
    config = configs.plain(config)
    checks.check_config(config)
    workdir = pathlib.Path(workdir).absolute()
    directory = workdir / "checkpoints"
    files.check_folder(workdir)
    check_same_run(directory, config)
    stages = {name: make_stage(name, settings) for name, settings in config["stages"].items()}
    total = sum(stage.steps for stage in stages.values())
    metrics = finished(workdir, config, total)
    if metrics is not None:
        return metrics

    mesh = shd.make_mesh(config.get("mesh"))
    for stage in stages.values():  # said before anything is built
        shd.check_batch_size(inputs.data_of(config, stage.data)["batch_size"], mesh, stage.chunks)
    begun = processes.agree(bool(checkpoint.steps(directory)))
    tokenizer = inputs.make_tokenizer(config["tokenizer"], directory / "tokenizer" if begun else None)
    inputs.check_vocabulary(config, tokenizer)
    system = systems.build(config["system"])
    for stage in stages.values():
        with_tasks(system, stage)
    evaluators = inputs.make_evaluators(config, tokenizer)
    pipelines = {name: inputs.make_pipeline(config, stage.data, tokenizer, mesh) for name, stage in stages.items()}
    every = loop.Every(**config.get("every", {}))

    with shd.use_mesh(mesh), loop.StopSignals() as stop, contextlib.ExitStack() as opened:
        key = jax.random.key(config["seed"])
        _, boxed, shardings = abstract_variables(system, config, mesh)
        variables = shd.unbox(boxed)
        # Patterns that match nothing are found now, not when their stage begins; nothing is written before.
        if not begun:
            checks.check_trained(config, variables["params"], stages.values(), initial.given(config, variables))
        plans = {name: optimizer(stage, variables, shardings, mesh) for name, stage in stages.items()}
        firsts = {name: jax.jit(functools.partial(begin, stages[name], tx), out_shardings=placed)
                  for name, (tx, placed) in plans.items()}  # fmt: skip
        if not begun:  # else shapes are enough: the checkpoint has the values
            variables, _ = initial_variables(system, config, mesh, rngs.stream(key, "params"))
        description = {"system": config["system"], "config": config, "licences": licences.of_run(config)}
        saver = checkpoint.Checkpointer(directory, keep=config.get("keep", 2), description=description)
        opened.callback(saver.close)
        resumed: int | None = None
        restored: State | None = None
        meta: dict[str, Any] = {}
        if begun:
            resumed, restored, meta = saver.restore_last(
                lambda meta: (jax.eval_shape(firsts[meta["stage"]], variables, key), plans[meta["stage"]][1])
            )
        if jax.process_index() == 0 and not (begun and (directory / "tokenizer").is_dir()):
            checkpoint.save_tokenizer(directory, tokenizer)
        logs = writers.MetricWriter(workdir, config.get("writers", ("jsonl", "csv")), resume_step=resumed)
        opened.callback(logs.close)
        dropped = ledger.Ledger(workdir, resumed, writes=jax.process_index() == 0)
        opened.callback(dropped.close)
        evaluation = reporting.Evaluation(workdir, system, mesh, evaluators, logs, resumed, total, every.evaluate)
        offset, reached = 0, resumed is None
        for name, stage in stages.items():
            if not reached and meta["stage"] != name:
                offset += stage.steps
                dropped.saw(pipelines[name].seen(stage.steps))
                continue
            tx, placed = plans[name]
            start, saved = 0, None
            if reached:
                state = firsts[name](variables, rngs.stream(key, f"stages/{name}"))
            else:
                assert resumed is not None and restored is not None
                state, restored = restored, None  # the step takes its memory
                start, saved, reached = resumed - offset, meta["data"], True
            variables = {}  # the state has them now
            describe(name, stage, state, start, pipelines[name])
            state = run_stage(
                name, stage, state, placed,
                step_fn=functools.partial(train_step, system, tx, stage), data=pipelines[name], data_state=saved,
                start=start, offset=offset, mesh=mesh, every=every, logs=logs, saver=saver, evaluate=evaluation,
                stop=stop, dropped=dropped, max_bad=inputs.data_of(config, stage.data)["max_bad"],
            )  # fmt: skip
            variables = state.variables()
            offset += stage.steps
        reporting.write(workdir, config, evaluators, evaluation.predictor, evaluation.metrics, dropped)
    return evaluation.metrics


def run_stage(
    name: str,
    stage: Stage,
    state: State,
    placed: State,
    *,
    step_fn: Any,
    data: Any,
    data_state: Any,
    start: int,
    offset: int,
    mesh: Any,
    every: loop.Every,
    logs: writers.MetricWriter,
    saver: checkpoint.Checkpointer,
    evaluate: Any,
    stop: loop.StopSignals,
    dropped: ledger.Ledger,
    max_bad: float,
) -> State:
    """Compiles the step, opens the data where the checkpoint left it, and runs the loop with its hooks."""
    step = compiled_step(step_fn, placed, mesh)
    rate = jax.jit(learning_rate(stage))
    bar = progress.Progress(stage.steps, start, name)
    with inputs.open_batches(data, shd.batch_sharding(mesh), data_state) as batches:

        def account(at: int) -> None:  # all processes are here at the same step
            found = ledger.gather(batches.take_dropped())
            dropped.add(dataclasses.replace(item, step=offset + item.step) for item in found)
            dropped.saw(data.seen(at - offset))

        def log(at: int, values: dict[str, float]) -> None:
            account(at)
            values = {**values, "lr": float(rate(at - offset - 1)), "epoch": data.epoch(at - offset)}
            logs.write(at, values | ({"dropped": float(count)} if (count := sum(dropped.totals().values())) else {}))
            bar.update(at - offset, values["loss"], values["samples_per_s"], values["input_wait"])
            dropped.check(data.lengths, max_bad)

        def save(at: int, state: State) -> None:
            account(at)
            dropped.check(data.lengths, max_bad)
            saver.save(at, state, {"stage": name, "data": batches.state(), "evaluate": stage.evaluate})

        hooks = loop.Hooks(log, save, lambda at, state: evaluate(at, state.variables(stage.evaluate)))
        try:
            return loop.run_stage(
                step, state, batches, steps=stage.steps, start=start, offset=offset, batch_size=data.batch_size,
                every=every, hooks=hooks, stop=stop,
            )  # fmt: skip
        finally:
            bar.close()
            if dropped.totals() and jax.process_index() == 0:
                print(
                    f"data: {ledger.words(dropped.totals())} could not be used; {dropped.path} says which", flush=True
                )


def compiled_step(step_fn: Any, placed: State, mesh: Any) -> Any:
    """The jitted step: the state stays where it is, its memory is reused, batches are split over the batch axes."""
    by_batch, everywhere = shd.batch_sharding(mesh), shd.replicated(mesh)
    return jax.jit(step_fn, donate_argnums=0, in_shardings=(placed, by_batch), out_shardings=(placed, everywhere))


def abstract_variables(system: Any, config: Mapping[str, Any], mesh: Any) -> tuple[Any, dict, dict]:
    """(function of a key that makes the variables, their shapes with logical names, their shardings)."""
    batch = inputs.abstract_batch(config, mesh)

    def init(key: jax.Array) -> Any:
        return system.init(key, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch), train=False)

    boxed = jax.eval_shape(init, jax.random.key(0))
    return init, boxed, {name: shd.param_shardings(tree, mesh) for name, tree in boxed.items()}


def initial_variables(system: Any, config: Mapping[str, Any], mesh: Any, key: jax.Array) -> tuple[dict, dict]:
    """Variables of the system, made where they belong (or read from `config["init"]`), and their shardings."""
    init, boxed, shardings = abstract_variables(system, config, mesh)

    def random() -> Any:
        return jax.jit(lambda key: shd.unbox(init(key)), out_shardings=shardings)(key)

    if config.get("init") in (None, "", checks.RANDOM):
        return random(), shardings
    variables, account = initial.load(config, shd.unbox(boxed), shardings, random)
    if jax.process_index() == 0:
        print(account)
    return variables, shardings


def optimizer(stage: Stage, variables: Mapping, shardings: Mapping, mesh: Any) -> tuple[Any, State]:
    """The stage's optimizer, and where every leaf of its State lives.

    Raises:
      UserError: a pattern that matches nothing, or whole numbers, which cannot train.
    """
    whole = jax.eval_shape(lambda v: v, variables)["params"]
    trainable, _ = trees.split(whole, stage.train, "train")
    if fixed := [path for path, leaf in trees.flatten(trainable).items() if leaf.dtype == jnp.int8]:
        raise UserError(
            f"stage: train = {list(stage.train)} names {len(fixed)} kernels of 8 bits, such as {fixed[0]}, which "
            "cannot train; train adapters beside them (config.system.llm.lora, train='llm/.*_lora/.*')"
        )
    tx = make_optimizer(stage, trainable, whole)
    abstract = jax.eval_shape(functools.partial(begin, stage, tx), variables, jax.random.key(0))
    return tx, shd.state_shardings(abstract, shardings, mesh)


def describe(name: str, stage: Stage, state: State, start: int, data: Any) -> None:
    """Prints what trains and what does not, per top-level module, and what packing rows brings where data does that."""
    if jax.process_index():
        return
    trainable, frozen = trees.count_by_module(state.params), trees.count_by_module(state.frozen)
    print(f"stage {name}: {stage.steps} steps" + (f", going on from step {start}" if start else ""))
    for module in sorted(set(trainable) | set(frozen)):
        print(f"  {module:12} {trainable.get(module, 0):>13,} trainable  {frozen.get(module, 0):>13,} frozen")
    if data.batches.pack > 1:
        print(f"  {rows.account(data[start], data.batches.pack)}")


def check_same_run(directory: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Raises UserError if the directory holds a run of a config that computes something else."""
    if not (directory / checkpoint.DESCRIPTION).is_file():
        return
    before = checkpoint.read_description(directory)["config"]
    if before is None or "stages" not in before:
        raise UserError(f"{directory} holds an imported model, not a run; give another --workdir")
    if not checkpoint.steps(directory):  # killed before its first checkpoint: nothing would be continued
        return
    old, new = _computing(before), _computing(config)
    changed = [
        f"config.{k.replace('/', '.')}: {old.get(k)!r} -> {new.get(k)!r}"
        for k in sorted(set(old) | set(new))
        if old.get(k) != new.get(k)
    ]
    if list(before["stages"]) != list(config["stages"]):
        changed.append(f"order of config.stages: {list(before['stages'])} -> {list(config['stages'])}")
    if changed:
        more = f"; and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise UserError(
            f"{directory.parent} holds a run of another config; it cannot be continued with this one. Give another "
            f"--workdir, or undo: {'; '.join(changed[:8])}{more}"
        )


def _computing(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config decides the numbers that training computes, flat."""
    flat = _flat({k: v for k, v in config.items() if k not in FREE})
    return {k: v for k, v in flat.items() if k.split("/")[-2:] not in (["data", free] for free in FREE_DATA)}


def finished(workdir: pathlib.Path, config: Mapping[str, Any], total: int) -> dict[str, float] | None:
    """The metrics of a run of exactly this config that has ended, with its report written; None for any other.

    What process 0 finds counts for all: others may see its writes late.
    """
    found = processes.agree(_finished(workdir, config, total) if jax.process_index() == 0 else None)
    return None if found is None else {k: math.nan if v is None else v for k, v in found.items()}


def _finished(workdir: pathlib.Path, config: Mapping[str, Any], total: int) -> dict[str, float | None] | None:
    directory, numbers, report = workdir / "checkpoints", workdir / "metrics.json", workdir / "report.html"
    if not (directory / checkpoint.DESCRIPTION).is_file():
        return None
    done = checkpoint.steps(directory)[-1:] == [total] and numbers.is_file() and report.is_file()
    if not done or checkpoint.read_description(directory)["config"] != config:
        for path in (numbers, report):  # of another set of evaluators, perhaps: only both together tell of an end
            path.unlink(missing_ok=True)
        return None
    metrics = json.loads(numbers.read_text())
    print(f"{workdir} holds this run, finished at step {total}")
    progress.print_table({k: math.nan if v is None else v for k, v in metrics.items()})
    return metrics


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {k: v for name, sub in tree.items() for k, v in _flat(sub, f"{prefix}/{name}" if prefix else name).items()}
