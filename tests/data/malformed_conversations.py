"""Conversation files with every kind of fault that people's files have, drawn from a seed."""

import dataclasses
import io
import json
import os
import pathlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

MALFORMED, ROLES, PICTURES, EMPTY = "malformed record", "wrong roles", "wrong pictures", "empty answer"
MISSING, LARGE = "missing file", "image too large"
Row = dict[str, Any]
Rng = np.random.Generator


def pictures(folder: pathlib.Path) -> None:
    """Good ones, g0.png to g3.png, and those that the faults below name."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(4):
        Image.fromarray(rng.integers(0, 256, (8, 8 + n, 3), np.uint8)).save(folder / f"g{n}.png")
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(stream, "PNG")
    (folder / "cut.png").write_bytes(stream.getvalue()[:900])
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html><html><body>Not found</body></html>")
    (folder / "empty.png").write_bytes(b"")
    with (folder / "sparse.png").open("wb") as file:
        os.truncate(file.fileno(), 300 * 2**20)
    (folder / "folder.png").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for name, side in (("wide.png", 30_000), ("bomb.png", 1_000_000)):  # a few bytes that ask for gigabytes
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"x\x9c") + chunk(b"IEND", b""))


BROKEN = {"cut.png": "truncated image", "page.jpg": "not an image", "empty.png": "empty file", "sparse.png": LARGE,
          "folder.png": MISSING, "wide.png": LARGE, "bomb.png": LARGE, "nowhere.png": MISSING, "a\0b.png": MISSING,
          "\ud800.png": MISSING, "x" * 5000: MISSING, "../g0.png/": MISSING}  # fmt: skip
if hasattr(os, "mkfifo"):
    BROKEN["pipe.png"] = "empty file"


def said(*turns: tuple[Any, Any]) -> list[Row]:
    return [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]


def good(rng: Rng, key: Any) -> Row:
    """A row of one of the forms, with one picture or none."""
    question, answer = f"what is {rng.integers(100)} here?", f"it is {rng.integers(100)}"
    picture = f"g{rng.integers(4)}.png"
    forms: list[Callable[[], Row]] = [
        lambda: {"image": picture, "conversations": said((f"<image>\n{question}", answer), ("sure?", "yes"))},
        lambda: {"image": [picture], "conversations": said((f"{question} <image>", answer))},
        lambda: {"conversations": said((question, answer)), "image": []},
        lambda: {"conversations": said(("", answer)), "image": None, "system": "be short"},
        lambda: {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
        lambda: {"messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]},
        lambda: {"image": picture, "images": [], "width": 3, "conversations": said(("<image>", answer))},
    ]  # fmt: skip
    return {"id": key, **forms[int(rng.integers(len(forms)))]()}


def _turns(*turns: tuple[Any, Any], **more: Any) -> Row:
    return {"conversations": said(*turns), **more}


def _roles(*roles: Any) -> Row:
    return {"conversations": [{"from": role, "value": "words"} for role in roles]}


# (reason, whether only the task notices it, row without its id)
FAULTS: list[tuple[str, bool, Row]] = [
    *((ROLES, False, _roles(*roles)) for roles in (
        ("human",), ("gpt",), ("gpt", "human"), ("human", "human"), ("human", "gpt", "human"), (), ("system",),
        ("human", "gpt", "system"), ("human", "narrator"), ("HUMAN", "gpt"), (3, "gpt"), (None, "gpt"),
        (["human"], "gpt"), ({}, "gpt"), (True, False), ("human", "gpt", "gpt"), ("user", "human"),
    )),
    *((BROKEN[name], False, _turns(("<image>", "a"), image=name)) for name in BROKEN),
    (MISSING, False, _turns(("<image>", "a"), image="data:image/png;base64," + "QUJD" * 400)),
    (PICTURES, False, _turns(("<image> <image>", "a"), image="g0.png")),
    (PICTURES, False, _turns(("what?", "a"), image="g0.png")),
    (PICTURES, False, _turns(("<image>", "a"))),
    (PICTURES, False, _turns(("<image>" * 500, "a"), image="g0.png")),
    (PICTURES, False, _turns(("<image>", "a"), image=["g0.png", "g1.png"])),
    (PICTURES, False, _turns(("what?", "see <image>"), image="g0.png")),
    (PICTURES, False, {"messages": [{"role": "user", "content": [{"type": "image"}]},
                                    {"role": "assistant", "content": "a"}]}),
    (PICTURES, True, _turns(("<image><image>", "a"), image=["g0.png", "g1.png"])),
    (PICTURES, True, _turns(("<image>", "a"), ("<image>", "b"), image=["g0.png", "g1.png"])),
    *((EMPTY, False, _turns(("what?", answer))) for answer in ("", " ", "\n\t", "\u3000")),
    (EMPTY, False, _turns(("what?", "a"), ("and?", ""))),
    ("nothing to learn", True, _turns(("why? " * 3000, "a"))),
    ("bad text encoding", False, _turns(("what?", "half \ud83d"))),
    ("bad text encoding", False, _turns(("\udc00", "a"))),
    *((MALFORMED, False, {"conversations": value}) for value in (None, 3, "hello", {}, {"from": "human"}, True)),
    *((MALFORMED, False, {"conversations": [value, value]}) for value in (None, 3, "hello", [], ["human", "hi"])),
    *((MALFORMED, False, _turns((value, "a"))) for value in (None, 3, {}, True, [3], [None], [{"type": "sound"}],
                                                            [{"type": "text"}], [{"type": "text", "text": 3}])),
    *((MALFORMED, False, _turns(("what?", value))) for value in (None, 4.5, {"text": "a"}, [["a"]])),
    *((MALFORMED, False, _turns(("<image>", "a"), image=value)) for value in (3, True, {}, {"path": "g0.png"}, "",
                                                                              [None], [["g0.png"]], [""], 1e300)),
    *((MALFORMED, False, _turns(("what?", "a"), system=value)) for value in (3, ["be short"], {})),
    (MALFORMED, False, {}),
    (MALFORMED, False, {"image": "g0.png", "text": "a caption"}),
]  # fmt: skip
ROWS = ["null", "3", '"text"', "[]", "[[]]", "true", "NaN"]  # no objects
LINES = ["{", '{"id": "x", "conversations": [', "}", "not json", '{"id": 1,}', "{'id': 1}", '{"a": ' * 3000,
         '{"id": ' + "9" * 5000 + "}", '{"conversations": [{"from": "human"', "\\", "\x00"]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class File:
    """A file: what stands in it, and what is to be said of it.

    Attributes:
      path: where it lies.
      good: places of the rows that can be used.
      bad: place -> (reason, name or None, whether only the task notices).
      broken: what is said where the file cannot be read at all; "": it can.
    """

    path: pathlib.Path
    good: frozenset[int]
    bad: dict[int, tuple[str, str | None, bool]]
    broken: str = ""


def make(folder: pathlib.Path, number: int) -> File:
    """File `number` of the seed; every seventh cannot be read at all."""
    rng = np.random.default_rng([7, number])
    array = bool(rng.integers(2))
    path = folder / f"f{number}.{'json' if array else 'jsonl'}"
    if number % 7 == 6:
        return _unreadable(folder / f"f{number}.json", rng)
    rows: list[str] = []
    kept, bad = set(), {}
    count = int(rng.integers(3, 9))
    faulty = set(rng.choice(count, int(rng.integers(1, count)), replace=False).tolist())
    for place in range(count):
        key = f"{number}-{place}"
        if place not in faulty:
            rows.append(json.dumps(good(rng, key)))
            kept.add(place)
            continue
        kind = rng.integers(12)
        if kind == 0:
            rows.append(ROWS[int(rng.integers(len(ROWS)))])
            bad[place] = (MALFORMED, f"row {place}", False)
        elif kind == 1 and not array:
            rows.append(LINES[int(rng.integers(len(LINES)))])
            bad[place] = (MALFORMED, f"row {place}", False)
        else:
            at = (number + 29 * place) % len(FAULTS) if kind < 8 else int(rng.integers(len(FAULTS)))
            reason, task, row = FAULTS[at]
            rows.append(json.dumps({"id": key, **row}))
            bad[place] = (reason, key, task)
    ends = [",\n", ",\r\n", " , "] if array else ["\n", "\r\n", "\n\n \n"]
    text = ends[int(rng.integers(3))].join(rows)
    mark = "\ufeff" if rng.integers(4) == 0 else ""
    path.write_text(f"{mark}[{text}]\n" if array else f"{mark}{text}\n", encoding="utf-8", newline="")
    return File(path, frozenset(kept), bad)


def _unreadable(path: pathlib.Path, rng: Rng) -> File:
    """A file of which not even its rows are known."""
    text = json.dumps([good(rng, f"r{n}") for n in range(3)], indent=1)
    cut, comma = text[: int(rng.integers(1, len(text) - 2))], text.replace("},", "}", 1)
    middle = len(text) // 2
    kinds: list[tuple[bytes, str]] = [
        (cut.encode(), r"is not JSON: .*line \d+ column \d+"),
        (comma.encode(), r"is not JSON: .*line \d+ column \d+"),
        (text.replace('"', "'").encode(), r"is not JSON: .*line \d+ column \d+"),
        (text.encode() + b"]", r"is not JSON: Extra data: line \d+ column \d+"),
        (text[:middle].encode() + b"\xff\xfe" + text[middle:].encode(), r"is not JSON: .utf-8. .* in position \d+"),
        (b"[" * 100_000, "is not JSON: maximum recursion depth"),
        (b"[]", "has no conversations"),
        (b"", "has no rows"),
        (b"\n  \n\t\n", "has no rows"),
        (b"\xef\xbb\xbf", "has no rows"),
    ]  # fmt: skip
    data, says = kinds[int(rng.integers(len(kinds)))]
    path.write_bytes(data)
    return File(path, frozenset(), {}, says)
