"""Several processes of one job: joining them, agreeing on what to do, and ending all when one is lost.

JAX's runtime does the work (`jax.distributed`): it finds the processes, and its coordination service on process 0 hears
from each of them. When one is silent for the time-out, or process 0 is gone, the runtime aborts every other process
from a thread of its own: no exception reaches Python. The handler of the abort that is installed here says in one line
what happened and how to go on. Where the network tells earlier (a closed connection is an error of the next
collective), the same line comes at once.
"""

import atexit
import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mmjax.core.errors import UserError

LOST = 75  # exit code when a peer was lost, "temporary failure" in sysexits.h: the same command goes on
ADDRESS, COUNT, PLACE = "coordinator_address", "num_processes", "process_id"
# What `--distributed` takes: arguments of jax.distributed.initialize, with JAX's defaults.
DEFAULTS = {ADDRESS: None, COUNT: None, PLACE: None, "initialization_timeout": 300, "heartbeat_timeout_seconds": 100}
_SHUTDOWN_S = 24 * 3600  # for whoever ends last, say to write the report; one that is lost meanwhile is noticed
_LINGER_S = 3.0  # process 0 hosts the service: the others may fail of the same mistake, and say so themselves
_BROKEN = re.compile(
    r"gloo|nccl|rccl|connection (closed|reset|refused)|socket closed|broken pipe|barrier|heartbeat|coordination"
    r"|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED",
    re.IGNORECASE,
)
_kept: list[Any] = []  # handlers must live as long as the process
_ending = threading.Lock()


def parse(text: str) -> dict[str, Any]:
    """ "coordinator_address=10.0.0.1:1234,num_processes=4,process_id=1" -> arguments of jax.distributed.initialize.

    Raises:
      UserError: a key that does not exist, or a value that cannot be.
    """
    found: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = item.partition("=")
        if key not in DEFAULTS or not value:
            raise UserError(f"--distributed: {item!r}; expected KEY=VALUE with KEY one of {', '.join(DEFAULTS)}")
        if key == ADDRESS:
            if not re.fullmatch(r".+:\d+", value):
                raise UserError(f"--distributed: {ADDRESS}={value}; expected HOST:PORT, of process 0")
            found[key] = value
            continue
        least = 0 if key == PLACE else 1
        if not value.isdigit() or int(value) < least:
            raise UserError(f"--distributed: {key}={value}; expected a whole number, at least {least}")
        found[key] = int(value)
    if found.get(PLACE, 0) >= found.get(COUNT, sys.maxsize):
        raise UserError(
            f"--distributed: {PLACE}={found[PLACE]} of {COUNT}={found[COUNT]}; expected 0 to {found[COUNT] - 1}"
        )
    return found


@contextlib.contextmanager
def job(text: str | None, advice: Callable[[], str]) -> Iterator[None]:
    """Joins the processes of a job, and ends this one with them.

    An error here ends this process without waiting for the others, which then end, too: they may be waiting for it in
    a collective.

    Args:
      text: what stands behind `--distributed` ("": JAX finds everything by itself); None: there is only this process.
      advice: how to go on when a peer was lost.

    Raises:
      UserError: a mistake in `text`, no job that JAX knows, or a coordinator that does not answer.
    """
    if text is None:
        yield
        return
    arguments = {**DEFAULTS, **parse(text)}
    _on_abort(lambda: f"mmjax: {_not_met(arguments)}", 2)
    _join(arguments)
    place = jax.process_index(), jax.process_count()
    _on_abort(lambda: _lost(place, advice), LOST)
    try:
        yield
    except Exception as error:
        if is_loss(error):
            _end(_lost(place, advice), LOST)
        atexit.register(_leave, place[0], 2 if isinstance(error, UserError | OSError) else 1)
        raise


def is_loss(error: BaseException) -> bool:
    """Whether an error is what the runtime says when another process no longer answers."""
    of_runtime = isinstance(error, RuntimeError | ValueError) and not isinstance(error, UserError)
    return of_runtime and jax.process_count() > 1 and bool(_BROKEN.search(str(error)))


def _join(arguments: dict[str, Any]) -> None:
    try:
        jax.distributed.initialize(**arguments, shutdown_timeout_seconds=_SHUTDOWN_S)
    except ValueError as error:
        missing = ", ".join(key for key in (ADDRESS, COUNT, PLACE) if arguments[key] is None)
        raise UserError(
            f"--distributed: JAX finds no job here (SLURM, Open MPI, Kubernetes, TPU VM) that gives {missing}; give "
            f"them: --distributed {ADDRESS}=HOST:PORT,{COUNT}=N,{PLACE}=I"
        ) from error
    except RuntimeError as error:
        raise UserError(f"{_not_met(arguments)} ({' '.join(str(error).split())[:160]})") from error


def _not_met(arguments: dict[str, Any]) -> str:
    where = arguments[ADDRESS] or os.environ.get("JAX_COORDINATOR_ADDRESS") or "the address that JAX has found"
    return (
        f"--distributed: the processes did not meet at {where} within initialization_timeout="
        f"{arguments['initialization_timeout']} seconds: start all of them, with an address that leads to process 0"
    )


def _lost(place: tuple[int, int], advice: Callable[[], str]) -> str:
    try:
        words = advice()
    except Exception as error:
        words = f"start the same command again ({error})"
    who = f"process {place[0]} of {place[1]}"
    return f"mmjax: {who}: a peer was lost (unless JAX's lines above give another reason); {words}"


def _on_abort(line: Callable[[], str], code: int) -> None:
    """Has SIGABRT say what it means. A handler of Python's own kind would wait for the main thread, which hangs."""
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _signum: _end(line(), code))
    _kept.append(handler)
    set_handler = ctypes.CDLL(None).signal
    set_handler.restype = ctypes.c_void_p
    set_handler(ctypes.c_int(signal.SIGABRT), handler)


def _end(line: str, code: int) -> None:
    """Says why, and ends this process at once: what waits for a lost peer would wait for ever."""
    if not _ending.acquire(blocking=False):  # another thread does
        time.sleep(60)
    os.write(2, f"{line}\n".encode())
    os._exit(code)


def _leave(place: int, code: int) -> None:
    """Ends this process without JAX's wait for the others at its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    if place == 0:
        time.sleep(_LINGER_S)
    os._exit(code)


def settle(tree: Any) -> Any:
    """Waits for arrays where the next program may not run beside the one that makes them; returns them.

    On CPUs a collective holds its thread until the other devices come to it: two programs, each started on some of the
    devices, wait for each other for ever. Other devices run programs in the order of their dispatch.
    """
    if jax.device_count() > 1 and jax.default_backend() == "cpu":
        jax.block_until_ready(tree)
    return tree


def agree(value: Any) -> Any:
    """Process 0's value, which JSON can hold, in every process; all of them call it at the same place."""
    return every(value)[0]


def every(value: Any) -> list[Any]:
    """The values of all processes, which JSON can hold, in the order of the processes; all of them call it."""
    if jax.process_count() == 1:
        return [json.loads(json.dumps(value))]
    mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.array([len(mine)], np.int32))).ravel()
    padded = np.zeros(max(64, 1 << (int(lengths.max()) - 1).bit_length()), np.uint8)  # few shapes: each one compiles
    padded[: len(mine)] = mine
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]
