"""The loop around the step: reads batches, logs, evaluates, saves, and stops cleanly."""

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Protocol

import jax

from mmjax.core.errors import UserError
from mmjax.train.state import State

StepFn = Callable[[State, Any], tuple[State, dict[str, jax.Array]]]


class Batches(Protocol):
    """An iterator of device batches that knows how long its consumer has waited for it, in seconds."""

    wait_s: float

    def __next__(self) -> Any: ...


class DivergedError(UserError):
    """The loss or the gradient norm is no longer finite."""


class Interrupted(Exception):
    """A signal asked the run to end; everything is saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopSignals:
    """Remembers SIGTERM and SIGINT while active, so that the loop can finish its step and save; a second one kills."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self.received = signum
        signal.signal(signum, self._before[signum])

    def __enter__(self) -> "StopSignals":
        for signum in self.SIGNALS:
            self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop calls; steps are global (counted over all stages).

    Attributes:
      log: (step, {name: float}) -> None.
      save: (step, state) -> None.
      evaluate: (step, state) -> None.
    """

    log: Callable[[int, dict[str, float]], None]
    save: Callable[[int, State], None]
    evaluate: Callable[[int, State], None]


@dataclasses.dataclass(frozen=True)
class Every:
    """Intervals in steps; 0 means at the end of the stage only."""

    log: int = 50
    save: int = 500
    evaluate: int = 0


def run_stage(
    step_fn: StepFn,
    state: State,
    batches: Batches | Iterator[Any],
    *,
    steps: int,
    start: int,
    offset: int,
    batch_size: int,
    every: Every,
    hooks: Hooks,
    stop: StopSignals,
) -> State:
    """Runs steps `start … steps` of a stage that begins at global step `offset`.

    Logged every `every.log` steps: the step's metrics, `samples_per_s`, and `input_wait`, the share of the time in
    which the devices had nothing to do because the next batch was not there.

    Raises:
      DivergedError: a loss or gradient norm is not finite; nothing is saved after that.
      Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    window = _Window(batches, start)
    for step in range(start + 1, steps + 1):
        state, metrics = step_fn(state, next(batches))  # type: ignore[arg-type]
        last = step == steps
        due = _due(step, every, last)
        if stop.received is not None:
            due |= {"log", "save"}
        if "log" in due or "save" in due:
            values = {k: float(v) for k, v in jax.device_get(metrics).items()}
            _check_finite(offset + step, values)
            if "log" in due:
                hooks.log(offset + step, {**values, **window.close(step, batch_size)})
        if "save" in due:
            hooks.save(offset + step, state)
        if stop.received is not None:
            raise Interrupted(stop.received)
        if "evaluate" in due:
            hooks.evaluate(offset + step, state)
            window = _Window(batches, step)  # its time is not training's
    return state


def _due(step: int, every: Every, last: bool) -> set[str]:
    intervals = {"log": every.log, "save": every.save, "evaluate": every.evaluate}
    return {what for what, n in intervals.items() if last or (n and step % n == 0)}


class _Window:
    """Times the steps between two log lines."""

    def __init__(self, batches: Any, step: int) -> None:
        self._batches = batches
        self._open(step)

    def _open(self, step: int) -> None:
        self._step, self._time, self._wait = step, time.perf_counter(), getattr(self._batches, "wait_s", 0.0)

    def close(self, step: int, batch_size: int) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._time, 1e-9)
        waited = getattr(self._batches, "wait_s", 0.0) - self._wait
        done = step - self._step
        self._open(step)
        return {
            "samples_per_s": done * batch_size / seconds,
            "step_s": seconds / max(done, 1),
            "input_wait": min(waited / seconds, 1.0),
        }


def _check_finite(step: int, values: dict[str, float]) -> None:
    bad = sorted(k for k, v in values.items() if not math.isfinite(v))
    if bad:
        raise DivergedError(
            f"step {step}: {', '.join(f'{k} = {values[k]}' for k in bad)}. Nothing was saved after the last good "
            "checkpoint; a lower learning rate, a longer warm-up or gradient clipping usually helps"
        )
