import io

import pytest

from mmjax.train.progress import Progress, duration, print_table


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def run(stream, steps, seconds_per_step=2.0, **options):
    clock = Clock()
    progress = Progress(10, stage="align", stream=stream, clock=clock, **options)
    for step in range(1, steps + 1):
        clock.now += seconds_per_step
        progress.update(step, loss=1 / step, samples_per_s=1234.5, wait=0.02)
    progress.close()
    return stream.getvalue()


def test_without_a_terminal_a_plain_line_every_few_seconds():
    lines = run(io.StringIO(), 10, every_s=6.0).splitlines()
    assert [line.split()[1] for line in lines] == ["1/10", "4/10", "7/10", "10/10"]
    assert lines[1] == "align  4/10   40%  loss 0.25  1,234 samples/s  input wait 2%  left 0:12"
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_the_last_state_is_printed_even_if_none_was_due():
    lines = run(io.StringIO(), 3, every_s=1000.0).splitlines()
    assert [line.split()[1] for line in lines] == ["1/10", "3/10"]


def test_on_a_terminal_one_line_is_drawn_over_itself(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    out = run(Terminal(), 10)
    assert out.count("\n") == 1
    frames = out.rstrip("\n").split("\r\x1b[2K")[1:]
    assert len(frames) == 10
    assert max(map(len, frames)) == 59
    assert "━━━━━━━━━━━━━━━━━━━━━━━━" in frames[-1]
    assert frames[4].startswith("align  5/10  ━━━━━━━━━━━━────────────   50%")


def test_a_terminal_without_unicode_gets_ascii():
    stream = Terminal()
    stream.encoding = "ascii"
    assert run(stream, 5).isascii()


def test_time_left_forgets_the_compilation_and_counts_from_the_start_step():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, start=50, stream=stream, clock=clock, every_s=0.0)
    for step, seconds in ((51, 60.0), (61, 10.0), (71, 10.0)):
        clock.now += seconds
        progress.update(step)
    left = [line.split("left ")[1] for line in stream.getvalue().splitlines()]
    assert left == ["49:00", "0:39", "0:29"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (247, "4:07"), (7447, "2:04:07"), (3 * 86400 + 7440, "3d 02:04")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_table_puts_intervals_beside_their_metric():
    stream = io.StringIO()
    print_table({"a/R@1": 0.5, "a/R@1_lo": 0.4, "a/R@1_hi": 0.61, "speed": 12345.6, "lonely_lo": 1.0}, stream=stream)
    assert stream.getvalue().splitlines() == [
        "metric        value  95 % interval",
        "a/R@1         0.500  0.400 - 0.610",
        "speed      12,345.6",
        "lonely_lo     1.000",
    ]
