"""Batches on the devices before the step asks for them."""

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from mmjax.data.workers import shield_workers

if TYPE_CHECKING:
    import jax


class DevicePrefetch:
    """An iterator of global device arrays, filled by a thread; see `prefetch_to_device`.

    Attributes:
      wait_s: seconds that the consumer has spent waiting for batches so far.
    """

    def __init__(
        self,
        batches: Iterator[Mapping[str, np.ndarray]],
        sharding: "jax.sharding.Sharding",
        size: int = 2,
        rows: Sequence[int] | np.ndarray | None = None,
        batch_size: int = 0,
        apart: Mapping[str, tuple[Sequence[int] | np.ndarray, int]] = MappingProxyType({}),
    ):
        if size < 1:
            raise ValueError(f"size {size}: at least 1")
        self.wait_s = 0.0
        self._batches = batches
        self._sharding = sharding
        self._rest = (range(0) if rows is None else rows, 0 if rows is None else batch_size)
        self._apart = dict(apart)
        self._state = _state_of(batches)
        self._dropped: list[Any] = []
        self._ready: queue.Queue = queue.Queue(size)
        self._stop = threading.Event()
        self._ended: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, daemon=True, name="prefetch-to-device")
        self._thread.start()

    def __iter__(self) -> "DevicePrefetch":
        return self

    def __next__(self) -> "dict[str, jax.Array]":
        """The next batch.

        Raises:
          StopIteration: the batches ended.
          BaseException: what making a batch raised, after the batches before it.
        """
        if self._ended is not None:
            raise self._ended
        begin = time.perf_counter()
        arrays, state, dropped, error = self._ready.get()
        self.wait_s += time.perf_counter() - begin
        if error is not None:
            self._ended = error
            raise error
        self._state = state
        self._dropped += dropped
        return arrays

    def state(self) -> Any:
        """The state of `batches` right after the batch that the consumer received last."""
        return self._state

    def take_dropped(self) -> list[Any]:
        """What `batches.dropped` told of the batches that the consumer received since the last call."""
        taken, self._dropped = self._dropped, []
        return taken

    def close(self) -> None:
        """Ends the thread and closes `batches`; batches made ahead are dropped."""
        self._stop.set()
        if self._ended is None:
            self._ended = StopIteration()
        while self._thread.is_alive():
            _drain(self._ready)  # a thread that waits for room sees the flag
            self._thread.join(timeout=0.02)
        _drain(self._ready)
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> "DevicePrefetch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill(self) -> None:
        shield_workers()  # the first batch starts them
        try:
            while not self._stop.is_set():
                batch = next(self._batches)
                arrays = {k: self._place(v, *self._apart.get(k, self._rest)) for k, v in batch.items()}
                self._ready.put((arrays, _state_of(self._batches), getattr(self._batches, "dropped", ()), None))
        except BaseException as error:  # the consumer raises it; StopIteration too
            self._ready.put((None, None, (), error))

    def _place(self, local: np.ndarray, rows: Sequence[int] | np.ndarray, batch_size: int) -> "jax.Array":
        """The global array of `batch_size` rows of which `local` has some."""
        import jax

        if len(rows) == batch_size:
            return jax.make_array_from_callback(local.shape, self._sharding, lambda index: local[index])

        def part(index: Any) -> np.ndarray:
            """A device's rows, which follow one another, are among those that are here."""
            start, stop, _ = index[0].indices(batch_size)
            first = int(np.searchsorted(np.asarray(rows), start))
            return local[first : first + stop - start]

        return jax.make_array_from_callback((batch_size, *local.shape[1:]), self._sharding, part)


def _state_of(batches: Any) -> Any:
    get_state = getattr(batches, "get_state", None)
    return None if get_state is None else get_state()


def _drain(ready: queue.Queue) -> None:
    while True:
        try:
            ready.get_nowait()
        except queue.Empty:
            return


def prefetch_to_device(
    batches: Iterator[Mapping[str, np.ndarray]],
    sharding: "jax.sharding.Sharding",
    size: int = 2,
    rows: Sequence[int] | np.ndarray | None = None,
    batch_size: int = 0,
    apart: Mapping[str, tuple[Sequence[int] | np.ndarray, int]] = MappingProxyType({}),
) -> DevicePrefetch:
    """Makes global arrays of this process's batches in a thread, `size` of them ahead of the consumer.

    Args:
      batches: numpy batches, of the rows of the global batch that this process's devices hold.
      sharding: of every array, say `NamedSharding(mesh, P("data"))`.
      size: batches on the devices that wait for the step.
      rows: which rows of the global batch these are (`core.sharding.local_rows`); None: all.
      batch_size: of the global batch; with `rows`.
      apart: key -> (rows, batch_size), for arrays of another number of rows.

    Returns:
      An iterator with `wait_s` (how long the consumer waited, in seconds), `state()` (resumes after the batch received
      last, whatever was made ahead) and `close()`.
    """
    return DevicePrefetch(batches, sharding, size, rows, batch_size, apart)
