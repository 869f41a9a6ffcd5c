"""The loop around the step: reads batches, logs, evaluates, saves, and stops cleanly."""

import collections
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import jax

from mmjax.core import processes
from mmjax.core.errors import UserError
from mmjax.train.state import State

IN_FLIGHT = 2  # steps handed to the devices before the loop waits for the oldest
StepFn = Callable[[State, Any], tuple[State, dict[str, jax.Array]]]


@runtime_checkable
class Batches(Protocol):
    """An iterator of device batches that knows how long its consumer has waited for it, in seconds."""

    wait_s: float

    def __next__(self) -> Any: ...


class DivergedError(UserError):
    """The loss, the gradient norm or the parameters are no longer finite."""


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

    def asked(self, together: bool) -> int | None:
        """The signal that came, or None.

        Several processes have to stop at the same step, but their signals come at different times. They exchange them
        when all call this with `together`; without it, none has come yet.
        """
        if jax.process_count() == 1:
            return self.received
        if not together:
            return None
        return max(processes.every(self.received or 0)) or None

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
    """Intervals in steps of the stage; 0 means at the end of the stage only, of `evaluate` of the run."""

    log: int = 50
    save: int = 500
    evaluate: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                end = "run" if field.name == "evaluate" else "stage"
                raise UserError(f"every.{field.name} = {value!r}; valid: steps, or 0 for the end of the {end} only")


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

    Logged every `every.log` steps: the step's metrics, `samples_per_s`, `step_s`, and `input_wait`, the share of the
    time in which the devices had nothing to do because the next batch was not there.

    At a step, the loop logs, then saves, then evaluates. A state that is not finite is never saved. A run that resumes
    (`start` > 0) evaluates first if that is due at `start`: it may have been killed before.

    Raises:
      DivergedError: loss, gradient norm or parameters are not finite; nothing is saved after that.
      Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    if start and "evaluate" in _due(start, every, steps):
        hooks.evaluate(offset + start, state)
    window, saved = _Window(batches, start), start
    metrics: dict[str, jax.Array] = {}
    running: collections.deque[Any] = collections.deque()
    for step in range(start + 1, steps + 1):
        try:
            batch = next(batches)
        except Exception:
            # A signal to the whole process group ends the data workers, too.
            if stop.received is None or jax.process_count() > 1:
                raise
            if saved < step - 1:
                _finite(offset + step - 1, metrics)
                hooks.save(offset + step - 1, state)
            raise Interrupted(stop.received) from None
        state, metrics = step_fn(state, batch)
        running.append(metrics)
        if len(running) > IN_FLIGHT:  # each step that waits for the devices holds its batch there
            jax.block_until_ready(running.popleft())
        due = _due(step, every, steps)
        if due and jax.process_count() > 1:
            processes.settle((state, metrics))  # the processes exchange something next
        asked = stop.asked(together=bool(due))
        if asked:
            due.add("save")
        values = _finite(offset + step, metrics) if due else {}
        if "log" in due:
            hooks.log(offset + step, {**values, **window.close(step, batch_size)})
        if "save" in due:
            hooks.save(offset + step, state)
            saved = step
        if asked:
            raise Interrupted(asked)
        if "evaluate" in due:
            hooks.evaluate(offset + step, state)
            window = _Window(batches, step)  # its time is not training's
    return state


def _due(step: int, every: Every, steps: int) -> set[str]:
    intervals = {"log": every.log, "save": every.save, "evaluate": every.evaluate}
    return {what for what, n in intervals.items() if step == steps or (n and step % n == 0)}


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


def _finite(step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
    """The metrics as numbers, all finite."""
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    bad = sorted(k for k, v in values.items() if not math.isfinite(v))
    if bad:
        raise DivergedError(
            f"step {step}: {', '.join(f'{k} = {values[k]}' for k in bad)}. Nothing was saved after the last good "
            "checkpoint; a lower learning rate, a longer warm-up or gradient clipping usually helps"
        )
    return values
