"""Runs of several processes on this machine, each with devices of its own; and what such a process runs.

As a program, `processes.py FOLDER ARGUMENTS…` is the command mmjax, and notes which examples its devices get, and which
steps of the checkpoint it cannot read itself.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

HEARTBEAT = 10  # seconds of silence after which a process counts as lost


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


class Job:
    """Processes of one run; leaving the context kills what is left of them.

    Args:
      argv: of the command mmjax, without `--distributed`.
      folder: gets process_<i>.log, and ids_<i>_<pid>.jsonl of the examples.
      count: of processes; one alone is started without `--distributed`.
      devices: of each process.
      slurm: found as under SLURM instead of by the plain arguments.
      options: more of `--distributed`.
    """

    def __init__(
        self, argv, folder, count=1, devices=1, *, slurm=False, options=f"heartbeat_timeout_seconds={HEARTBEAT}"
    ):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.count = count
        address = f"localhost:{free_port()}"
        self.processes = []
        for place in range(count):
            env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
            plain = f"coordinator_address={address},num_processes={count},process_id={place},"
            if slurm:
                env |= {"SLURM_JOB_ID": "1", "SLURM_NTASKS": str(count), "SLURM_PROCID": str(place),
                        "SLURM_LOCALID": str(place), "SLURM_STEP_NODELIST": "localhost",
                        "JAX_COORDINATOR_ADDRESS": address}  # fmt: skip
            more = [f"--distributed={'' if slurm else plain}{options}"] if count > 1 else []
            with self.log(place).open("ab") as log:
                command = [sys.executable, __file__, str(self.folder), *argv, *more]
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=env))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def log(self, place):
        return self.folder / f"process_{place}.log"

    def said(self, place):
        """What a process has written."""
        return self.log(place).read_text(errors="replace")

    def kill(self, place):
        self.processes[place].kill()

    def stop_while(self, holds):
        """Whether `holds()` is true with all processes halted (SIGSTOP); if it is not, they go on."""
        for place in range(self.count):
            self.send(place, signal.SIGSTOP)
        if holds():
            return True
        for place in range(self.count):
            self.send(place, signal.SIGCONT)
        return False

    def send(self, place, signum=signal.SIGTERM):
        self.processes[place].send_signal(signum)

    def wait(self, seconds=240.0):
        """Exit codes, in their order; kills what runs longer."""
        end = time.monotonic() + seconds
        codes = []
        for place, process in enumerate(self.processes):
            try:
                codes.append(process.wait(max(end - time.monotonic(), 0.1)))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"process {place} runs on: {self.said(place)[-2000:]}") from None
        return codes

    def wait_until(self, ready, seconds=240.0):
        """Returns when `ready()` holds; all processes must live until then."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if ready():
                return
            if any(process.poll() is not None for process in self.processes):
                break
            time.sleep(0.005)
        said = "\n".join(f"--- {place}\n{self.said(place)[-3000:]}" for place in range(self.count))
        raise AssertionError(f"it never came; exit codes {[process.poll() for process in self.processes]}: {said}")


def examples(folder):
    """Step -> {row of the global batch: number of the example}, of all processes that ever ran with this folder.

    Raises:
      AssertionError: two of them had different examples in one place.
    """
    found = {}
    for path in pathlib.Path(folder).rglob("ids_*.jsonl"):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                step, first, numbers = json.loads(line)
                rows = found.setdefault(step, {})
                for row, number in enumerate(numbers, first):
                    assert rows.setdefault(row, number) == number, (step, row, rows[row], number)
    return found


def damage_met(folder):
    """Process -> steps that it met damage in by itself, whatever the others told it."""
    logs = sorted(pathlib.Path(folder).glob("damage_*.txt"))
    return {int(log.stem.partition("_")[2]): [int(step) for step in log.read_text().split()] for log in logs}


def main(folder, argv):
    """The command mmjax, that notes what its devices get and what it cannot read."""
    import jax
    import numpy as np

    from mmjax import cli
    from mmjax.data import prefetch
    from mmjax.train import checkpoint, stored

    read = checkpoint.Checkpointer._read

    def watched(checkpointer, step, *args):
        try:
            return read(checkpointer, step, *args)
        except stored.Damaged:
            with (pathlib.Path(folder) / f"damage_{jax.process_index()}.txt").open("a") as file:
                file.write(f"{step}\n")
            raise

    checkpoint.Checkpointer._read = watched
    log = (pathlib.Path(folder) / f"ids_{os.getpid()}_{time.time_ns()}.jsonl").open("a")
    take = prefetch.DevicePrefetch.__next__

    def noted(batches):
        arrays = take(batches)
        for shard in arrays["index"].addressable_shards:
            line = [batches.state()["step"], shard.index[0].start or 0, np.asarray(shard.data).tolist()]
            log.write(json.dumps(line) + "\n")
        log.flush()
        return arrays

    prefetch.DevicePrefetch.__next__ = noted
    return cli.main(argv)


if __name__ == "__main__":
    sys.path.remove(str(pathlib.Path(__file__).parent))  # tests are no package
    sys.exit(main(sys.argv[1], sys.argv[2:]))
