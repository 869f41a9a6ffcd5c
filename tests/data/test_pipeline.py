import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from mmjax.core.errors import BadExample, UserError
from mmjax.data import augment, pipeline, text
from mmjax.data.pipeline import Pipeline


class Numbers:
    """`n` examples; the image and the text carry the number."""

    def __init__(self, n: int, base: int = 0):
        self.n, self.base = n, base

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict:
        assert 0 <= i < self.n
        picture = np.full([8, 8, 4], 255, np.uint8)
        picture[..., :3] = (self.base + i) % 251
        return {"key": f"k{i}", "image": picture, "texts": [f"{self.base + i}", f"{self.base + i} again"]}


class Words:
    """One id for a whole text: its number; no specials."""

    digest = "1"

    def batch(self, texts, length):
        ids = np.zeros([len(texts), length], np.int32)
        valid = np.zeros([len(texts), length], bool)
        for row, one in enumerate(texts):
            words = one.split()
            ids[row, 0], valid[row, : len(words)] = int(words[0]), True
        return ids, valid


class OtherWords(Words):
    digest = "2"


NOISY = {"size": 8, "noise": 1.0, "noise_sigma": (2.0, 3.0)}


def make(sources=None, image=NOISY, **changes) -> Pipeline:
    options = {"length": 4, "batch_size": 8, "seed": 3, **changes}
    return Pipeline(
        Numbers(43) if sources is None else sources,
        tokenizer=options.pop("tokenizer", Words()),
        image=augment.from_config(image),
        text=text.from_config({}),
        **options,
    )


def take(data: Pipeline, n: int, state: dict | None = None) -> list[dict]:
    batches = iter(data)
    if state is not None:
        batches.set_state(state)
    got = [next(batches) for _ in range(n)]
    batches.close()
    return got


def assert_same(one: list[dict], two: list[dict]) -> None:
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_batch_keys_dtypes_and_rows_belong_together():
    batch = make(image={"size": 8})[0]
    assert {k: (v.dtype.name, v.shape) for k, v in batch.items()} == {
        "image": ("uint8", (8, 8, 8, 3)),
        "ids": ("int32", (8, 4)),
        "valid": ("bool", (8, 4)),
        "index": ("int64", (8,)),
    }
    np.testing.assert_array_equal(batch["ids"][:, 0], batch["index"])
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])


@pytest.mark.parametrize("small", [1, pipeline.SMALL])
def test_every_epoch_is_another_permutation(monkeypatch, small):
    monkeypatch.setattr(pipeline, "SMALL", small)  # 1: also this source is shuffled as large ones are
    data = make(Numbers(40), epochs=3)
    assert len(data) == 15 and data.samples_per_epoch == 40
    batches = list(data)
    assert len(batches) == 15
    epochs = np.concatenate([b["index"] for b in batches]).reshape(3, 40)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(40))
        assert (epoch != np.arange(40)).any()
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
    # neighbouring seeds share no epoch
    shifted = np.concatenate([b["index"] for b in make(Numbers(40), epochs=3, seed=4)]).reshape(3, 40)
    assert not any((a == b).all() for a in epochs for b in shifted)


def test_the_order_is_pinned():
    """Old checkpoints continue their order only as long as this stays; a change needs a new STATE_VERSION."""
    assert make()[0]["index"].tolist() == [4, 11, 35, 3, 41, 31, 24, 16]
    large, epoch = pipeline._samples({"a": Numbers(70_000)}, {"a": 1.0}, 3, True)
    assert epoch == 70_000 and [large[k][0] for k in range(4)] == [11647, 35591, 66773, 26092]


def test_remainder_dropped_or_carried():
    dropped = list(make(epochs=2))  # 43 = 5 * 8 + 3
    assert len(dropped) == 10
    for half in (dropped[:5], dropped[5:]):
        assert len(set(np.concatenate([b["index"] for b in half]))) == 40
    carried = list(make(epochs=2, drop_remainder=False))  # 86 = 10 * 8 + 6
    assert [len(b["index"]) for b in carried] == [8] * 10 + [6]
    order = np.concatenate([b["index"] for b in carried])
    np.testing.assert_array_equal(np.sort(order[:43]), np.arange(43))
    np.testing.assert_array_equal(np.sort(order[43:]), np.arange(43))
    assert (
        len(make(Numbers(3), drop_remainder=False)[10]["index"]) == 8
    )  # endless: an epoch may be shorter than a batch


def test_unshuffled_is_the_source():
    batches = list(make(Numbers(16), shuffle=False, epochs=1))
    np.testing.assert_array_equal(np.concatenate([b["index"] for b in batches]), np.arange(16))


def test_augmentation_differs_between_epochs():
    batches = list(make(Numbers(8), epochs=2))
    first, second = (b["image"][np.argsort(b["index"])].astype(int) for b in batches)
    assert (first != second).any((1, 2, 3)).all()
    np.testing.assert_allclose(first.mean((1, 2, 3)), second.mean((1, 2, 3)), atol=4)


def test_mixture_follows_the_weights_and_covers_each_source():
    data = make({"a": Numbers(60), "b": Numbers(30, base=1000)}, weights={"a": 1, "b": 3}, batch_size=4)
    assert data.samples_per_epoch == 40  # b ends first: 30 / (3/4)
    numbers = np.concatenate([data[k]["index"] for k in range(20)])  # 60 of b, 20 of a
    of_b = numbers[numbers >= 60] - 60
    assert len(of_b) == 60
    np.testing.assert_array_equal(np.sort(of_b[:30]), np.arange(30))
    np.testing.assert_array_equal(np.sort(of_b[30:]), np.arange(30))
    assert len(set(numbers[numbers < 60])) == 20  # a goes on in the second epoch instead of starting again
    ids = np.concatenate([data[k]["ids"][:, 0] for k in range(20)])
    np.testing.assert_array_equal(ids, np.where(numbers < 60, numbers, numbers - 60 + 1000))


def test_without_weights_sources_count_by_length():
    numbers = np.concatenate([b["index"] for b in make({"a": Numbers(60), "b": Numbers(20)}, epochs=1)])
    assert len(numbers) == 80 and len(set(numbers)) == 80


@pytest.mark.parametrize("processes", [2, 4])
def test_global_batches_do_not_depend_on_the_process_count(processes):
    whole = [make()[k] for k in range(8)]
    parts = [make(rows=range(8 * h // processes, 8 * (h + 1) // processes)) for h in range(processes)]
    joined = [{key: np.concatenate([part[k][key] for part in parts]) for key in whole[0]} for k in range(8)]
    assert_same(whole, joined)
    rows = [0, 3, 4, 7]  # any of them, as a mesh may put them
    assert_same([{key: batch[key][rows] for key in batch} for batch in whole], [make(rows=rows)[k] for k in range(8)])


@pytest.mark.parametrize("threads", [1, 3])
def test_iterator_equals_random_access(threads):
    data = make(threads=threads, read_ahead=4)
    assert_same(take(data, 12), [data[k] for k in range(12)])


def test_resume_in_an_epoch_is_bit_equal():
    whole = take(make(), 12)
    batches = iter(make())
    for _ in range(7):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    batches.close()
    assert state["step"] == 7
    assert_same(whole[7:], take(make(), 5, state))
    # on another process count, the same global rows
    halves = [take(make(rows=range(4 * h, 4 * h + 4)), 5, state) for h in range(2)]
    assert_same(whole[7:], [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*halves, strict=True)])
    # and backwards, on an iterator that already runs
    batches = iter(make())
    next(batches)
    batches.set_state({**state, "step": 2})
    assert_same([whole[2]], [next(batches)])
    batches.close()


def test_end_of_a_finite_pipeline():
    batches = iter(make(epochs=1))
    assert len(list(batches)) == 5
    state = batches.get_state()
    resumed = iter(make(epochs=1))
    resumed.set_state(state)
    with pytest.raises(StopIteration):
        next(resumed)
    longer = iter(make(epochs=2))
    longer.set_state(state)
    assert len(list(longer)) == 5
    with pytest.raises(IndexError):
        make(epochs=1)[5]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 4}, "seed was 3, is 4"),
        ({"batch_size": 4}, "batch_size was 8, is 4"),
        ({"length": 5}, "length was 4, is 5"),
        ({"shuffle": False}, "shuffle was True, is False"),
        ({"drop_remainder": False}, "drop_remainder was True, is False"),
        (
            {"tokenizer": OtherWords()},
            r"tokenizer\.kind was 'Words', is 'OtherWords'; tokenizer\.digest was '1', is '2'",
        ),
        ({"sources": Numbers(44)}, r"sources\[0\]\.length was 43, is 44"),
        ({"sources": {"b": Numbers(43)}}, r"sources\[0\]\.name was 'source', is 'b'"),
        ({"image": {**NOISY, "noise_sigma": (2.0, 4.0)}}, r"image\.noise_sigma\[1\] was 3\.0, is 4\.0"),
        ({"image": {"preset": "eval", "size": 8}}, r"image\.kind was 'Augment', is 'Preprocess'"),
    ],
)
def test_a_state_of_another_pipeline_is_refused(changes, says):
    state = iter(make()).get_state()
    with pytest.raises(UserError, match=says):
        iter(make(**changes)).set_state(state)


def test_a_broken_state_is_refused():
    good = iter(make(epochs=1)).get_state()
    for change, says in (({"version": 99}, "version 99"), ({"step": -1}, "step -1"), ({"step": 6}, r"valid: 0 … 5")):
        with pytest.raises(UserError, match=says):
            iter(make(epochs=1)).set_state({**good, **change})
    with pytest.raises(UserError, match="not the state of a data pipeline"):
        iter(make()).set_state({"next_index": 3})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": [4, 8]}, r"rows \[4, 8\] of a batch of 8; valid: some of 0 … 7, ascending"),
        ({"rows": [1, 0]}, "ascending"),
        ({"batch_size": 44}, "larger than one epoch"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"workers": -1}, "workers = -1"),
        ({"epochs": 0}, "epochs = 0"),
        ({"sources": {}}, "no source"),
        ({"sources": {"a": Numbers(0)}}, "'a' is empty"),
        ({"weights": {"b": 1}}, "a positive weight for each"),
        ({"weights": {"source": 0}}, "a positive weight for each"),
        ({"epochs": 1, "drop_remainder": False, "rows": range(4)}, "short last batch of 3"),
    ],
)
def test_mistakes_are_named(changes, says):
    with pytest.raises(UserError, match=says):
        make(**changes)


class Broken(Numbers):
    """Example 5 has no image."""

    def __getitem__(self, i: int) -> dict:
        return {"key": "k5", "texts": ["5"]} if i == 5 else super().__getitem__(i)


def test_an_error_in_an_example_reaches_the_consumer():
    batches = iter(make(Broken(16), shuffle=False))
    with pytest.raises(UserError, match="'k5' has no image"):
        next(batches)
    batches.close()


class Holes(Numbers):
    """Examples 3, 10, 17, … cannot be used; 12 has blank texts."""

    bad = frozenset(range(3, 1000, 7))

    def __getitem__(self, i: int) -> dict:
        if i in self.bad:
            raise BadExample("truncated image", f"of {i}", f"k{i}")
        return super().__getitem__(i) | ({"texts": [" ", "&nbsp;"]} if i == 12 else {})


def with_dropped(data: Pipeline, n: int, state: dict | None = None) -> tuple[list[dict], list]:
    """Batches, and what was dropped for them."""
    batches, got, dropped = iter(data), [], []
    if state is not None:
        batches.set_state(state)
    for _ in range(n):
        got.append(next(batches))
        dropped += batches.dropped
    batches.close()
    return got, dropped


def test_bad_examples_are_replaced_and_told():
    whole, holes = list(make(epochs=2)), list(make(Holes(43), epochs=2))
    _, dropped = with_dropped(make(Holes(43), epochs=2), 10)
    unusable = Holes.bad | {12}
    for step, (a, b) in enumerate(zip(whole, holes, strict=True), 1):
        assert b.keys() == a.keys()
        good = ~np.isin(a["index"], list(unusable))
        for key in a:  # rows of good examples are what they are without any bad one
            np.testing.assert_array_equal(a[key][good], b[key][good])
        assert not set(b["index"]) & unusable
        np.testing.assert_array_equal(b["ids"][:, 0], b["index"])  # text and image are those of the substitute
        told = [item.index for item in dropped if item.step == step]
        assert set(a["index"][~good]) <= set(told) <= unusable
    assert {(d.index, d.reason, d.key, d.detail) for d in dropped} == {
        *((i, "truncated image", f"k{i}", f"of {i}") for i in Holes.bad if i < 43),
        (12, "empty caption", "k12", "2 texts"),
    }
    assert {item.source for item in dropped} == {"source"}


def test_substitutes_do_not_depend_on_what_the_source_is_called():
    assert_same(list(make({"a": Holes(43)}, epochs=1)), list(make({"b": Holes(43)}, epochs=1)))
    other = list(make(Holes(43), epochs=1, seed=4))
    assert any((a["index"] != b["index"]).any() for a, b in zip(make(Holes(43), epochs=1), other, strict=True))


def test_dropped_is_a_function_of_the_steps_read():
    batches, dropped = with_dropped(make(Holes(43)), 12)
    state = {**iter(make(Holes(43))).get_state(), "step": 7}
    again, later = with_dropped(make(Holes(43), threads=2, read_ahead=3), 5, state)
    assert_same(batches[7:], again)
    assert later == [item for item in dropped if item.step > 7] and later
    halves = [with_dropped(make(Holes(43), rows=range(4 * h, 4 * h + 4)), 12)[1] for h in range(2)]
    assert sorted([*halves[0], *halves[1]], key=lambda item: item.step) == dropped
    assert_same([make(Holes(43))[k] for k in range(12)], batches)


def test_a_source_of_nothing_but_bad_examples():
    class AllBad(Numbers):
        def __getitem__(self, i: int) -> dict:
            raise BadExample("missing file" if i % 2 else "empty file", "no.jpg")

    with pytest.raises(UserError, match=r"1,001 examples .* cannot be used: \d+ \w+ file, \d+ \w+ file. The first: s"):
        make(AllBad(16))[0]


def test_seen():
    data = make({"a": Numbers(60), "b": Numbers(30)}, weights={"a": 1, "b": 3}, batch_size=4)
    assert data.seen(0) == {"a": 0, "b": 0} and data.seen(8) == {"a": 8, "b": 24}
    assert data.seen(1000) == {"a": 60, "b": 30}
    read = np.concatenate([data[k]["index"] for k in range(8)])
    assert ((read < 60).sum(), (read >= 60).sum()) == (8, 24)


class Styles(Numbers):
    """Two alternatives of every image."""

    def __getitem__(self, i: int) -> dict:
        example = super().__getitem__(i)
        plain = example.pop("image")
        return {**example, "images": [plain, np.full_like(plain, 255)]}


def test_alternatives_are_drawn_evenly():
    batches = list(make(Styles(64), image={"size": 8}, epochs=4))
    white = np.concatenate([(b["image"] == 255).all((1, 2, 3)) for b in batches])
    assert 0.4 < white.mean() < 0.6


# Worker processes start from scratch, so that their sources and tokenizers come from an importable module.
SCRIPT = """
import multiprocessing, sys, time
sys.path.insert(0, {here!r})
from test_pipeline import Holes, assert_same, make, take, with_dropped

if __name__ == "__main__":
"""


def run(tmp_path, body: str) -> subprocess.Popen:
    """Runs the body as the main program of another process."""
    here = os.path.dirname(__file__)
    path = tmp_path / "main.py"
    path.write_text(SCRIPT.format(here=here) + textwrap.indent(textwrap.dedent(body), "    "))
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(here))}
    command = [sys.executable, str(path)]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_worker_processes_give_the_same_stream(tmp_path):
    body = """
        want = take(make(), 9)
        state = {**iter(make(workers=3)).get_state(), "step": 4}
        assert_same(want[:5], list(make(workers=2, epochs=1)))  # five batches: one worker ends before the other
        assert_same(want[4:], take(make(workers=1), 5, state))
        (want, dropped), (got, same) = with_dropped(make(Holes(43)), 7), with_dropped(make(Holes(43), workers=2), 7)
        assert_same(want, got)
        assert dropped and dropped == same
        print("equal")
    """
    process = run(tmp_path, body)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out.strip() == "equal", err


def test_workers_of_a_killed_process_end(tmp_path):
    body = """
        batches = iter(make(workers=1))
        next(batches)
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        time.sleep(60)
    """
    process = run(tmp_path, body)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 1 and running(workers[0]), process.stderr.read()
    os.kill(workers[0], signal.SIGINT)  # Ctrl-C is the parent's to handle
    time.sleep(0.2)
    assert running(workers[0])
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while running(workers[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(workers[0])


def running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
