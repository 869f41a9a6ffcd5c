"""The loop with a step of plain numbers: what is called when, and how it stops."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.train import loop
from mmjax.train.state import State

# Of a state only its step matters; a batch is a number that becomes the loss.


def at(step):
    return State(np.int32(step), {}, {}, {}, (), {}, jax.random.key(0))


def advance(state):
    return state.replace(step=state.step + np.int32(1))


class Batches:
    """Batch k is the number k, counted from 1."""

    def __init__(self, start=0):
        self.wait_s, self._next = 0.0, start

    def __next__(self):
        self._next += 1
        return self._next


def step_fn(state, batch):
    return advance(state), {"loss": jnp.float32(batch), "grad_norm": jnp.float32(1.0)}


class Recorder:
    """Hooks that write down what they were given; `on` is called before each entry is made."""

    def __init__(self, on=lambda what, step: None):
        self.calls, self.logged, self._on = [], {}, on

    def _note(self, what, step):
        self._on(what, step)
        self.calls.append((what, step))

    def log(self, step, values):
        self._note("log", step)
        self.logged[step] = values

    def save(self, step, state):
        assert state.step == step
        self._note("save", step)

    def evaluate(self, step, state):
        assert state.step == step
        self._note("evaluate", step)

    def hooks(self):
        return loop.Hooks(self.log, self.save, self.evaluate)


def run(recorder, *, step=step_fn, batches=None, steps=6, start=0, offset=0, stop=None, **every):
    return loop.run_stage(
        step, at(offset + start), batches or Batches(start), steps=steps, start=start, offset=offset, batch_size=4,
        every=loop.Every(**{"log": 0, "save": 0, "evaluate": 0, **every}), hooks=recorder.hooks(),
        stop=stop or loop.StopSignals(),
    )  # fmt: skip


def test_intervals_and_the_end():
    recorder = Recorder()
    assert run(recorder, steps=5, log=2, save=3, evaluate=4).step == 5
    assert recorder.calls == [
        ("log", 2),
        ("save", 3),
        ("log", 4),
        ("evaluate", 4),
        ("log", 5),
        ("save", 5),
        ("evaluate", 5),
    ]
    assert recorder.logged[4]["loss"] == 4.0 and recorder.logged[4]["grad_norm"] == 1.0


def test_zero_means_at_the_end_only():
    recorder = Recorder()
    run(recorder, steps=3)
    assert recorder.calls == [("log", 3), ("save", 3), ("evaluate", 3)]


def test_a_later_stage_counts_on_but_keeps_its_own_intervals():
    recorder = Recorder()
    assert run(recorder, steps=4, offset=5, log=2).step == 9
    assert [call for call in recorder.calls if call[0] == "log"] == [("log", 7), ("log", 9)]


def test_a_resumed_stage_goes_on_and_makes_up_for_a_lost_evaluation():
    recorder = Recorder()
    run(recorder, steps=6, start=4, save=2, evaluate=2)
    assert recorder.calls == [("evaluate", 4), ("log", 6), ("save", 6), ("evaluate", 6)]
    recorder = Recorder()
    run(recorder, steps=6, start=3, evaluate=2)
    assert recorder.calls[0] == ("evaluate", 4)
    recorder = Recorder()
    assert run(recorder, steps=6, start=6).step == 6
    assert recorder.calls == [("evaluate", 6)]


@pytest.mark.parametrize("values", [{"log": -1}, {"evaluate": True}])
def test_intervals_are_counts(values):
    with pytest.raises(UserError, match=f"every.{next(iter(values))} = .*; valid: steps, or 0"):
        loop.Every(**values)


# ---------------------------------------------------------------- losses that are not finite


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm", "param_norm"])
def test_nothing_is_saved_once_it_diverged(name, bad):
    def diverging(state, batch):
        metrics = {"loss": 1.0, "grad_norm": 1.0, "param_norm": 1.0, **({name: bad} if batch == 4 else {})}
        return advance(state), {k: jnp.float32(v) for k, v in metrics.items()}

    recorder = Recorder()
    with pytest.raises(loop.DivergedError, match=f"step 4: {name} = {bad}. Nothing was saved after the last good"):
        run(recorder, step=diverging, save=2)
    assert recorder.calls == [("save", 2)]


def test_evaluators_do_not_see_what_diverged():
    recorder = Recorder()
    with pytest.raises(loop.DivergedError, match="step 102: loss = nan"):
        run(recorder, step=lambda s, b: (advance(s), {"loss": jnp.float32(np.nan)}), offset=100, evaluate=2)
    assert recorder.calls == []


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_it_came_in(signum):
    def on(what, step):
        if (what, step) == ("log", 3):
            os.kill(os.getpid(), signum)

    recorder, before = Recorder(on), signal.getsignal(signum)
    with loop.StopSignals() as stop, pytest.raises(loop.Interrupted, match=signum.name) as caught:
        run(recorder, stop=stop, log=1, evaluate=4)
    # It is noticed after the next step; that one is logged as any other, but not evaluated.
    assert recorder.calls[-2:] == [("log", 4), ("save", 4)] and caught.value.signum == signum
    assert signal.getsignal(signum) == before


def test_a_signal_adds_no_line_to_the_log():
    def stepping(state, batch):
        if batch == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step_fn(state, batch)

    recorder = Recorder()
    with loop.StopSignals() as stop, pytest.raises(loop.Interrupted):
        run(recorder, step=stepping, stop=stop, log=2)
    assert recorder.calls == [("log", 2), ("save", 3)]


def test_a_diverged_state_is_not_saved_on_a_signal_either():
    def stepping(state, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return advance(state), {"loss": jnp.float32(np.nan)}

    recorder = Recorder()
    with loop.StopSignals() as stop, pytest.raises(loop.DivergedError):
        run(recorder, step=stepping, stop=stop)
    assert recorder.calls == []


def test_the_first_signal_gives_the_second_its_usual_effect():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("usual"))
    try:
        with loop.StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.received == signal.SIGTERM and not seen
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == ["usual"]
    finally:
        signal.signal(signal.SIGTERM, before)


class Killed(Batches):
    """The signal that asks the run to end also ends what makes its batches, after `last`."""

    def __init__(self, last, signum=signal.SIGTERM):
        super().__init__()
        self._last, self._signum = last, signum

    def __next__(self):
        if self._next == self._last:
            if self._signum:
                os.kill(os.getpid(), self._signum)
            raise RuntimeError("worker process was terminated")
        return super().__next__()


def test_a_signal_that_kills_the_data_workers_too_loses_no_step():
    for save, calls in ((0, [("save", 3)]), (3, [("save", 3)])):  # in the second, step 3 is saved already
        recorder = Recorder()
        with loop.StopSignals() as stop, pytest.raises(loop.Interrupted):
            run(recorder, batches=Killed(3), stop=stop, save=save)
        assert recorder.calls == calls
    recorder = Recorder()
    with loop.StopSignals() as stop, pytest.raises(loop.Interrupted):
        run(recorder, batches=Killed(0), stop=stop)
    assert recorder.calls == []  # no step was made


def test_an_error_of_the_data_without_a_signal_is_an_error():
    recorder = Recorder()
    with loop.StopSignals() as stop, pytest.raises(RuntimeError, match="worker process was terminated"):
        run(recorder, batches=Killed(2, None), stop=stop)
    assert recorder.calls == []


# ---------------------------------------------------------------- time


class Clock:
    """Seconds that pass when something says so."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    return clock


@pytest.mark.parametrize(("wait", "compute"), [(0.09, 0.01), (0.0, 0.1), (0.1, 0.0)])
def test_waiting_for_input_and_computing_are_told_apart(clock, wait, compute):
    class Slow(Batches):
        def __next__(self):
            clock.sleep(wait)
            self.wait_s += wait
            return super().__next__()

    def slow_step(state, batch):
        clock.sleep(compute)
        return step_fn(state, batch)

    recorder = Recorder()
    run(recorder, step=slow_step, batches=Slow(), log=2, steps=5)
    assert recorder.logged.keys() == {2, 4, 5}
    for values in recorder.logged.values():
        assert values["input_wait"] == pytest.approx(wait / 0.1)
        assert values["step_s"] == pytest.approx(0.1) and values["samples_per_s"] == pytest.approx(40)


def test_evaluation_is_not_counted_as_training(clock):
    recorder = Recorder(lambda what, step: clock.sleep(50 if what == "evaluate" else 0))

    def slow_step(state, batch):
        clock.sleep(1)
        return step_fn(state, batch)

    run(recorder, step=slow_step, steps=4, log=2, evaluate=2)
    assert recorder.logged[4]["step_s"] == pytest.approx(1)


def test_few_steps_are_in_flight(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", lambda metrics: waited.append(float(metrics["loss"])))
    run(Recorder(), steps=6)
    assert waited == [1.0, 2.0, 3.0, 4.0]  # two steps stay with the devices while the next is prepared
