import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.data.prefetch import prefetch_to_device


class Counting:
    """Batches k, k + 1, …; slow or broken on demand."""

    def __init__(self, end: int = 1000, seconds: float = 0.0, error: Exception | None = None):
        self.step, self.end, self.seconds, self.error, self.closed = 0, end, seconds, error, False

    def __next__(self) -> dict[str, np.ndarray]:
        time.sleep(self.seconds)
        if self.step == self.end:
            raise self.error or StopIteration
        self.step += 1
        return {"index": np.arange(8, dtype=np.int32) + 8 * self.step, "image": np.zeros([8, 2, 2, 3], np.uint8)}

    def __iter__(self):
        return self

    def get_state(self) -> dict[str, int]:
        return {"step": self.step}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def sharding(mesh8) -> NamedSharding:
    return NamedSharding(mesh8, PartitionSpec("data"))


def wait_until(condition) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_batches_are_sharded_and_in_order(sharding):
    with prefetch_to_device(Counting(end=5), sharding) as batches:
        got = list(batches)
    assert len(got) == 5
    for k, batch in enumerate(got):
        assert batch["index"].sharding.is_equivalent_to(sharding, 1)
        assert len(batch["image"].addressable_shards) == 8
        np.testing.assert_array_equal(batch["index"], np.arange(8) + 8 * (k + 1))


def test_state_is_that_of_the_batch_received(sharding):
    source = Counting()
    with prefetch_to_device(source, sharding, size=3) as batches:
        assert batches.state() == {"step": 0}
        wait_until(lambda: source.step >= 4)  # three are ready, the fourth waits for room
        assert batches.state() == {"step": 0}
        next(batches)
        next(batches)
        assert batches.state() == {"step": 2}
        time.sleep(0.05)
        assert source.step <= 2 + 3 + 1


def test_waiting_is_measured(sharding):
    with prefetch_to_device(Counting(seconds=0.05), sharding) as batches:
        next(batches)
        before = batches.wait_s
        for _ in range(4):
            next(batches)
        assert 0.1 < batches.wait_s - before < 1.0  # about four times 0.05 s
    fast = Counting()
    with prefetch_to_device(fast, sharding, size=4) as batches:
        wait_until(lambda: fast.step >= 5)
        for _ in range(4):
            next(batches)
        assert batches.wait_s < 0.02


def test_errors_come_after_the_good_batches_and_stay(sharding):
    with prefetch_to_device(Counting(end=2, error=RuntimeError("disk")), sharding) as batches:
        next(batches)
        next(batches)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="disk"):
                next(batches)
        assert batches.state() == {"step": 2}


def test_a_batch_that_does_not_fit_the_devices_is_an_error(sharding):
    class Odd(Counting):
        def __next__(self):
            return {"index": np.zeros(7, np.int32)}

    with prefetch_to_device(Odd(), sharding) as batches, pytest.raises(ValueError, match="7"):
        next(batches)


def test_close_ends_the_thread_even_when_it_waits_for_room(sharding):
    source = Counting()
    batches = prefetch_to_device(source, sharding, size=1)
    wait_until(lambda: source.step >= 2)
    batches.close()
    assert source.closed and not batches._thread.is_alive()
    with pytest.raises(StopIteration):
        next(batches)
    batches.close()  # twice is harmless


CTRL_C = """
import signal, sys
import jax
sys.path.insert(0, {here!r})
from test_pipeline import make
from mmjax.data.prefetch import prefetch_to_device

if __name__ == "__main__":
    got = []
    signal.signal(signal.SIGINT, lambda number, frame: got.append(number))
    batches = prefetch_to_device(iter(make(workers=2)), jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    print("begun", flush=True)
    kept = [next(batches) for _ in range(3)]  # device arrays that are there until the end
    batches.close()
    print(len(kept), got)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.2, 1.0])
def test_ctrl_c_while_workers_start_reaches_the_parent_alone(delay, tmp_path):
    here = pathlib.Path(__file__).parent
    (tmp_path / "main.py").write_text(CTRL_C.format(here=str(here)))
    env = {**os.environ, "PYTHONPATH": str(here.parents[1])}
    process = subprocess.Popen([sys.executable, str(tmp_path / "main.py")], env=env, text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out == "3 [2]\n", err
    assert err == ""  # no worker's traceback, no shared memory left behind
