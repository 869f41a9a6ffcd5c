"""What a terminal shows while training: one live line, or a plain line now and then; and the table at the end."""

import io
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

_BAR = 24
_LIVE_S = 0.1  # the live line is drawn at most ten times a second
_SMOOTHING = 0.8  # of the time per step: weight of the past


class Progress:
    """Progress of one stage: step, loss, speed, time left, and the share of time spent waiting for input.

        align  412/2,180 ━━━━╸───────────────────  19%  loss 1.204  8,213 samples/s  input wait 2%  left 3:41

    On a terminal the line is drawn over itself; anywhere else a line is printed every `every_s` seconds and at the
    end. Only process 0 prints.

    Args:
      total: steps of the stage.
      start: steps done already (a resumed stage).
      stage: its name.
      stream: default stderr, so that stdout stays clean for results.
      every_s: seconds between two lines where there is no terminal.
      clock: seconds, for tests.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        stage: str = "",
        *,
        stream: io.TextIOBase | None = None,
        every_s: float | int = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.stage, self.step = total, stage, start
        self._stream: Any = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._quiet = jax.process_index() != 0
        self._every_s, self._clock = every_s, clock
        self._fancy = "utf" in (getattr(self._stream, "encoding", None) or "").lower()
        self._timed = (start, clock())
        self._step_s: float | None = None
        self._updates = 0
        self._drawn_at: float | None = None
        self._line, self._pending = "", False

    def update(
        self,
        step: int,
        loss: float | int | None = None,
        samples_per_s: float | int | None = None,
        wait: float | int | None = None,
    ) -> None:
        """Reports that `step` steps are done.

        Args:
          step: steps done in this stage.
          loss: latest loss.
          samples_per_s: latest speed.
          wait: share of the time, 0 … 1, in which the devices waited for input.
        """
        now = self._clock()
        self._measure(step, now)
        parts = [f"{self.stage}  {step:,}/{self.total:,}".strip(), self._bar(step), f"{step / self.total:4.0%}"]
        parts += [] if loss is None else [f"loss {loss:.4g}"]
        parts += [] if samples_per_s is None else [f"{samples_per_s:,.{0 if samples_per_s >= 10 else 2}f} samples/s"]
        parts += [] if wait is None else [f"input wait {wait:.0%}"]
        parts += [] if self._step_s is None else [f"left {duration((self.total - step) * self._step_s)}"]
        self._line, self._pending = "  ".join(part for part in parts if part), True
        due = _LIVE_S if self._live else self._every_s
        if self._drawn_at is None or now - self._drawn_at >= due or step >= self.total:
            self._draw(now)

    def close(self) -> None:
        """Draws what is not drawn yet and ends the live line."""
        if self._pending:
            self._draw(self._clock())
        if self._live and self._line and not self._quiet:
            self._stream.write("\n")
            self._stream.flush()
        self._line = ""

    def _measure(self, step: int, now: float) -> None:
        before, then = self._timed
        if step <= before:
            return
        self._updates += 1
        self._timed, self.step = (step, now), step
        recent = (now - then) / (step - before)
        # The first interval holds the compilation: it is shown until there is a second one, then forgotten.
        if self._updates <= 2 or self._step_s is None:
            self._step_s = recent
        else:
            self._step_s = _SMOOTHING * self._step_s + (1 - _SMOOTHING) * recent

    def _bar(self, step: int) -> str:
        if not self._live:
            return ""
        done = min(step / self.total, 1.0) * _BAR
        whole = int(done)
        if not self._fancy:
            return "[" + "#" * whole + "." * (_BAR - whole) + "]"
        half = "╸" if done - whole >= 0.5 else ""
        return "━" * whole + half + "─" * (_BAR - whole - len(half))

    def _draw(self, now: float) -> None:
        self._drawn_at, self._pending = now, False
        if self._quiet:
            return
        if self._live:
            width = shutil.get_terminal_size().columns - 1  # a full last column would wrap
            self._stream.write("\r\x1b[2K" + self._line[:width])
        else:
            self._stream.write(self._line + "\n")
        self._stream.flush()


def duration(seconds: float | int) -> str:
    """`4:07`, or `2:04:07` from an hour on, or `3d 02:04` from a day on."""
    whole = max(0, round(seconds))
    minutes, hours = whole // 60, whole // 3600
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02d}:{minutes % 60:02d}"
    return f"{hours}:{minutes % 60:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def print_table(metrics: Mapping[str, float | int], *, stream: io.TextIOBase | None = None) -> None:
    """Prints metrics in a table, names on the left; `{name}_lo` and `{name}_hi` become the interval beside `{name}`.

    Example:
      print_table({"emoji/image_to_text_R@1": .5, "emoji/image_to_text_R@1_lo": .45, "emoji/image_to_text_R@1_hi": .56})
      # metric                   value  95 % interval
      # emoji/image_to_text_R@1  0.500  0.450 - 0.560
    """
    if not metrics:  # a head without a body would tell nothing
        return
    out: Any = sys.stdout if stream is None else stream
    bounds = {f"{name}{end}" for name in metrics for end in ("_lo", "_hi")} & set(metrics)
    rows = [("metric", "value", "95 % interval")]
    for name, value in metrics.items():
        if name in bounds:
            continue
        lo, hi = metrics.get(f"{name}_lo"), metrics.get(f"{name}_hi")
        rows.append((name, _number(value), "" if lo is None or hi is None else f"{_number(lo)} - {_number(hi)}"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for name, number, interval in rows:
        out.write(f"{name:<{widths[0]}}  {number:>{widths[1]}}  {interval}".rstrip() + "\n")
    out.flush()


def _number(value: float | int) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"
