"""Runs the arms of an experiment: each arm and seed is one `mmjax train` in a folder of its own, done once.

    WORKDIR/ARM/seed0/         the work directory of the run
    WORKDIR/ARM/seed0.json     its result, there when the run has ended
    WORKDIR/ARM/seed0.log      what it printed

A driver that was killed goes on: finished runs are read, a run that was cut short goes on from its last checkpoint. A
run whose driver was killed alone still trains; the next driver waits for it, then finds it finished.

    from _arms import Arm, run_arms
    arms = [Arm("base", "configs/albef/emoji_scenes.py", ("system.alpha=0.4",), seed) for seed in range(3)]
    for result in run_arms(arms, workdir, at_once=2): print(result["arm"], result["metrics"])
"""

import argparse
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parent / "benchmarks"))
from _table import cores, machine

from mmjax.core import config as configs
from mmjax.core import files
from mmjax.train.writers import read_history

__all__ = ["Arm", "arguments", "call", "cores", "machine", "run_arms", "shares"]

# Arms and seeds compile the same programs.
CACHE = {"JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(tempfile.gettempdir()) / f"mmjax-jax-cache-{os.getuid()}")}
# Becomes the command behind it, on the cores named first.
PIN = "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); os.execvp(sys.argv[2], sys.argv[2:])"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One training: a config, what is changed in it, and its seed.

    Attributes:
      name: of the arm; its seeds share it.
      config: FILE.py or FILE.py:VARIANT.
      overrides: `key=value`, as on the command line without the leading `--config.`; may set no seed.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    seed: int = 0

    def arguments(self) -> list[str]:
        """Those of the command line that change the config."""
        return [f"--config.{change}" for change in (*self.overrides, f"seed={self.seed}")]

    def folder(self, workdir: pathlib.Path) -> pathlib.Path:
        """The run's work directory."""
        return workdir / self.name / f"seed{self.seed}"

    def digest(self) -> str:
        """Of the resolved config: a result counts only for the config that it was made with."""
        config = configs.plain(configs.load(self.config, self.arguments()))
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def arguments(doc: str, here: pathlib.Path, seeds: int, more: Mapping[str, Mapping[str, Any]] = {}) -> Any:
    """The command line of a driver: workdir, seeds, at_once, out, smoke, with their defaults.

    Args:
      doc: of the driver.
      here: its folder, where the results go.
      seeds: how many, unless told; of the smoke form 1.
      more: option -> arguments of `add_argument`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    name = f"runs/{here.name}"
    parser.add_argument("--workdir", type=pathlib.Path, help=f"of all runs (default {name}, or {name}_smoke)")
    parser.add_argument("--seeds", type=int, help=f"how many (default {seeds}; of the smoke form 1)")
    parser.add_argument("--at-once", type=int, default=cores(), help="runs side by side (default: one a core)")
    parser.add_argument("--out", type=pathlib.Path, help="of the results (default here; smoke: WORKDIR/out)")
    parser.add_argument("--smoke", action="store_true", help="a few steps of a tiny model; its figures mean nothing")
    for option, settings in more.items():
        parser.add_argument(option, **settings)
    args = parser.parse_args()
    args.workdir = (args.workdir or pathlib.Path(f"{name}_smoke" if args.smoke else name)).absolute()
    args.out = args.out or (args.workdir / "out" if args.smoke else here)
    args.seeds = args.seeds or (1 if args.smoke else seeds)
    return args


def run_arms(
    arms: Sequence[Arm], workdir: pathlib.Path, *, at_once: int = 1, within: Collection[int] | None = None
) -> list[dict[str, Any]]:
    """Runs what has not been run, and returns the results in the order of the arms.

    Args:
      workdir: of the whole experiment.
      at_once: runs side by side, each on its share of the processor's cores: a small model uses one core better.
      within: the cores; None: all.

    Returns:
      For each arm: arm, seed, config, overrides (`workdir` as WORKDIR), digest; metrics, those of the run's
      metrics.json; steps; train_s, seconds in steps (of killed runs, too, and with compilation); step_s, the median of
      its log lines; wall_s of the process, `resumed` if that was not the whole run; cores that it had.

    Raises:
      SystemExit: a run failed; the message ends with what it printed. Those that had begun end first.
    """
    places = [arm.folder(workdir) for arm in arms]
    if len(set(places)) != len(places):
        raise ValueError("two arms share a name and a seed")
    free: SimpleQueue[set[int]] = SimpleQueue()
    for share in shares(at_once, within):
        free.put(share)

    def run(arm: Arm, digest: str) -> dict[str, Any]:
        share = free.get()
        try:
            return run_arm(arm, digest, workdir, share)
        finally:
            free.put(share)

    digests = [arm.digest() for arm in arms]  # of all, so that a config's error is said before anything runs
    pool = ThreadPoolExecutor(at_once)
    try:
        results = list(pool.map(run, arms, digests))
    finally:
        pool.shutdown(cancel_futures=True)
    for result in results:  # what is published names no folder of this machine
        result["overrides"] = [change.replace(str(workdir), "WORKDIR") for change in result["overrides"]]
    return results


def shares(parts: int, within: Collection[int] | None = None) -> Iterator[set[int]]:
    """The cores (None: all that the process may use) dealt out; with more parts than cores, parts share them."""
    found = sorted(os.sched_getaffinity(0) if within is None else within)
    for part in range(parts):
        yield set(found[part::parts] or [found[part % len(found)]])


def run_arm(arm: Arm, digest: str, workdir: pathlib.Path, share: set[int]) -> dict[str, Any]:
    """The result of one arm, read or made; `digest`: the arm's; `share`: its cores."""
    folder = arm.folder(workdir)
    if (found := read_result(folder, digest)) is not None:
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a run keeps it as long as it lives, even without its driver
        if (found := read_result(folder, digest)) is not None:  # of another driver
            return found
        resumed, start = (folder / "checkpoints").is_dir(), time.perf_counter()
        command = [sys.executable, "-m", "mmjax.cli", "train", "--config", arm.config, "--workdir", str(folder)]
        print(f"{arm.name}, seed {arm.seed}: {'goes on' if resumed else 'begins'}", flush=True)
        call([*command, *arm.arguments()], pathlib.Path(f"{folder}.log"), share, lock.fileno())
        wall = time.perf_counter() - start
        rows = [row for row in read_history(folder / "metrics.jsonl") if "step_s" in row]
        steps = [row["step"] for row in rows]
        counts = [step - before for step, before in zip(steps, [0, *steps[:-1]], strict=True)]
        result = {
            "arm": arm.name,
            "seed": arm.seed,
            "config": arm.config,
            "overrides": list(arm.overrides),
            "digest": digest,
            "steps": steps[-1],
            "train_s": sum(row["step_s"] * count for row, count in zip(rows, counts, strict=True)),
            "step_s": statistics.median(row["step_s"] for row in rows),
            "wall_s": wall,
            "resumed": resumed,
            "cores": len(share),
            "metrics": json.loads((folder / "metrics.json").read_text()),
        }
        files.write_text(result_file(folder), json.dumps(result, indent=1) + "\n")
    print(f"{arm.name}, seed {arm.seed}: {wall:.0f} s", flush=True)
    return result


def call(command: Sequence[str], log: pathlib.Path, share: set[int], *held: int) -> None:
    """Runs a command on these cores, its output behind what the log has; `held`: descriptors that it inherits.

    Raises:
      SystemExit: it failed.
    """
    with log.open("ab") as out:
        begin = out.tell()
        pinned = [sys.executable, "-c", PIN, ",".join(map(str, sorted(share))), *command]
        env = {**CACHE, **os.environ}
        ended = subprocess.run(pinned, stdout=out, stderr=subprocess.STDOUT, pass_fds=held, env=env)
    if ended.returncode:
        said = log.read_bytes()[begin:].decode(errors="replace").strip()
        raise SystemExit(f"{' '.join(command)}\nended with {ended.returncode}; the end of {log}:\n{said[-2000:]}")


def result_file(folder: pathlib.Path) -> pathlib.Path:
    """Where the result of the run in a folder stands."""
    return folder.with_name(f"{folder.name}.json")


def read_result(folder: pathlib.Path, digest: str) -> dict[str, Any] | None:
    """The result of a run that has ended, if it was of this config."""
    path = result_file(folder)
    found = json.loads(path.read_text()) if path.is_file() else None
    return found if found is not None and found["digest"] == digest else None
