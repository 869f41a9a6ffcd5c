import json

import pytest

from mmjax.core.errors import BadExample, UserError
from mmjax.data import ledger
from mmjax.data.ledger import Dropped, Ledger


def item(index: int, reason: str = "missing file", step: int = 1, source: str = "a") -> Dropped:
    return Dropped(source, index, f"k{index}", reason, f"{index}.jpg", step)


def test_every_item_once_at_its_first_step(tmp_path):
    book = Ledger(tmp_path)
    book.add([item(3, step=2), item(5, "empty file", step=2), item(3, step=2)])
    book.add([item(3, step=9), item(3, step=9, source="b")])
    book.close()
    rows = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    first = {"source": "a", "index": 3, "key": "k3", "reason": "missing file", "detail": "3.jpg", "step": 2}
    assert rows[0] == first
    assert [(row["source"], row["index"], row["step"]) for row in rows] == [("a", 3, 2), ("a", 5, 2), ("b", 3, 9)]
    assert book.totals() == {"missing file": 2, "empty file": 1}


def test_resuming_forgets_what_comes_again(tmp_path):
    events = {1: [item(1)], 2: [item(2, step=2), item(1, step=2)], 3: [item(4, step=3)], 4: [item(2, step=4)]}
    whole = Ledger(tmp_path / "whole")
    for found in events.values():
        whole.add(found)
    whole.close()
    for killed in range(1, 5):
        for resumed in (None, *range(killed + 1)):
            book = Ledger(tmp_path / "run")
            for step in range(1, killed + 1):
                book.add(events[step])
            book.close()
            with book.path.open("a") as file:
                file.write('{"source": "a", "ind')  # the kill cut a line short
            book = Ledger(tmp_path / "run", resumed)
            for step in range((resumed or 0) + 1, 5):
                book.add(events[step])
            book.close()
            assert book.path.read_bytes() == whole.path.read_bytes()
            assert book.totals() == whole.totals()


def test_only_one_process_writes(tmp_path):
    book = Ledger(tmp_path, writes=False)
    book.add([item(1)])
    book.close()
    assert book.totals() == {"missing file": 1} and not list(tmp_path.iterdir())


def test_a_share_that_is_too_large_stops(tmp_path):
    book, lengths = Ledger(tmp_path, writes=False), {"a": 1000, "other": 500}
    book.add(item(i, "truncated image" if i % 3 else "missing file") for i in range(30))
    book.saw({"a": 160, "other": 0})
    book.check(lengths, 0.1)  # 30 of 190: too early to judge
    book.saw({"a": 180, "other": 0})
    says = (
        r"30 of 210 examples \(14.3%\) could not be used, more than config.data.max_bad = 0.1: 20 truncated image, "
        r"10 missing file. The first: a\[0\] \(k0\): missing file: 0.jpg; a\[1\] .*; a\[2\] .*ledger.jsonl"
    )
    with pytest.raises(UserError, match=says):
        book.check(lengths, 0.1)
    book.check(lengths, 0.15)
    book.check(lengths, 1.0)
    book.saw({"a": 280, "other": 0})
    book.check(lengths, 0.1)  # 30 of 310
    with pytest.raises(UserError, match="max_bad = 0:"):
        book.check(lengths, 0.0)


def test_what_a_packed_row_had_no_room_for_is_told_and_is_not_bad(tmp_path):
    book = Ledger(tmp_path)
    book.add([*(item(i, ledger.NO_ROOM) for i in range(150)), item(150), item(150, ledger.NO_ROOM, 2)])
    book.saw({"a": 200})
    book.check({"a": 200}, 0.01)
    assert book.totals() == {ledger.NO_ROOM: 150, "missing file": 1} and len(ledger.read(book.path)) == 151
    with pytest.raises(UserError, match=r"1 of 200 examples .*: 1 missing file. The first: a\[150\]"):
        book.check({"a": 200}, 0.001)
    book.close()


def test_a_small_source_is_judged_when_all_of_it_was_seen(tmp_path):
    book = Ledger(tmp_path, writes=False)
    book.add(item(i) for i in range(5))
    book.saw({"a": 10})
    book.check({"a": 20}, 0.1)
    book.saw({"a": 20})
    with pytest.raises(UserError, match=r"5 of 20 examples \(25.0%\)"):
        book.check({"a": 20}, 0.1)


@pytest.mark.parametrize("value", [-0.1, 1.5, "0.1", True, None, float("nan")])
def test_max_bad_is_a_share(value):
    with pytest.raises(UserError, match="valid: a share from 0 to 1"):
        ledger.check_max_bad(value)


def test_entries_survive_strange_texts(tmp_path):
    class Source:
        def record(self, index):
            raise BadExample("bad text encoding", "again", "na\udce9me\u2028.jpg")

    found = ledger.dropped(Source(), "jsonl:x", 4, BadExample("corrupt image", "d" * 1000 + "\n"))
    assert found.key == "na\\udce9me\u2028.jpg" and len(found.detail) == ledger.LONGEST
    assert ledger.unpack(ledger.pack([found])) == [found]
    book = Ledger(tmp_path)
    book.add([found])
    book.close()
    assert ledger.read(book.path) == [found]


def test_a_damaged_ledger_is_named(tmp_path):
    (tmp_path / "ledger.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"ledger\.jsonl, line 1: not an entry of a ledger"):
        Ledger(tmp_path, 5)
