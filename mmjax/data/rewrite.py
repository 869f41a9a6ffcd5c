"""Any source as ArrayRecord or webdataset shards: in parallel, resumable, without encoding an image again.

```
DIR/data-00000-of-00008.arrayrecord   (or .tar) shards, complete: each gets its name when it is whole
DIR/ledger.jsonl                      what was dropped, and why
DIR/manifest.json                     what was written; only there when all is done
DIR/.convert/                         while it runs: the plan, and an account of every whole shard
```
"""

import dataclasses
import functools
import io
import json
import multiprocessing
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from mmjax.core.errors import BadExample, UserError
from mmjax.data import ledger
from mmjax.data.decode import decode_image, image_format
from mmjax.data.example import Example
from mmjax.data.files.arrayrecord import encode_record
from mmjax.data.files.base import Record
from mmjax.data.sources import open_source
from mmjax.data.workers import follow_parent

FORMATS = {"arrayrecord": "arrayrecord", "webdataset": "tar"}
ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff", "AVIF": "avif",
           "JPEG2000": "jp2", "ICO": "ico", "PPM": "ppm"}  # fmt: skip
_STATE, _TICK = ".convert", 32  # items between two reports of progress
_PLAIN_KEY = re.compile(r"[\w\-/]{1,80}", re.ASCII)
_OF_EXAMPLES = ("image", "images", "texts", "key", "label")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be written; equal plans continue one another.

    Attributes:
      spec: of the source.
      length: of the source.
      format: a key of FORMATS.
      shards: files; shard s holds the items from s * length // shards on.
      checked: whether every image is decoded, so that damaged ones are dropped; otherwise bytes are copied unseen.
    """

    spec: str
    length: int
    format: str
    shards: int
    checked: bool = True

    def file(self, shard: int) -> str:
        """Name of a shard."""
        return f"data-{shard:05}-of-{self.shards:05}.{FORMATS[self.format]}"

    def items(self, shard: int) -> range:
        """The places of a shard's items in the source."""
        return range(shard * self.length // self.shards, (shard + 1) * self.length // self.shards)


def convert(
    spec: str,
    output: Path,
    format: str,
    shards: int = 1,
    workers: int = 1,
    *,
    checked: bool = True,
    tick: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Writes a source to `output` and returns its manifest. Killed at any moment and called again, it goes on.

    An example with several alternative images becomes as many records, `KEY/0`, `KEY/1`, ….

    Args:
      workers: processes; 1 works in this one. What is written does not depend on it.
      tick: called with the count of items done.

    Raises:
      UserError: an output that holds something else, more shards than items, or an unusable source.
    """
    plan = Plan(spec, len(open_source(spec)), format, shards, checked)
    if not 1 <= shards <= plan.length or workers < 1:
        raise UserError(f"shards {shards}, workers {workers}; valid: 1 to {plan.length:,} shards (items), 1 worker up")
    state = output / _STATE
    finished = _begin(plan, output)
    if finished is not None:
        return finished
    missing = [s for s in range(shards) if not (_account(state, s).is_file() and (output / plan.file(s)).is_file())]
    done = plan.length - sum(len(plan.items(s)) for s in missing)
    tick(done)
    if workers == 1 or len(missing) < 2:
        source = open_source(spec)
        for shard in missing:
            write_shard(source, plan, output, shard, functools.partial(_tick_from, tick, done))
            done += len(plan.items(shard))
    else:
        _in_processes(plan, output, missing, min(workers, len(missing)), lambda count: tick(done + count))
    return _finish(plan, output)


def _tick_from(tick: Callable[[int], None], before: int, count: int) -> None:
    tick(before + count)


def _begin(plan: Plan, output: Path) -> dict[str, Any] | None:
    """Prepares the folder; the manifest if all is done already."""
    state, manifest = output / _STATE, output / "manifest.json"
    wanted = dataclasses.asdict(plan)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is not a folder")
    there = sorted({path.name for path in output.iterdir()} - {_STATE}) if output.is_dir() else []
    before = manifest if manifest.is_file() else state / "plan.json"
    if there and not before.is_file():
        raise UserError(f"{output} is not empty, and what it holds ({', '.join(there[:3])}) is not of a conversion")
    if before.is_file():
        found = json.loads(before.read_text(encoding="utf-8"))
        held = found.get("plan", found)
        if held != wanted:
            changed = [f"{k} {held.get(k)!r} -> {wanted[k]!r}" for k in wanted if held.get(k) != wanted[k]]
            raise UserError(f"{output} holds another conversion ({', '.join(changed)}); give another --output")
        if before is manifest:
            shutil.rmtree(state, ignore_errors=True)
            return found
    state.mkdir(parents=True, exist_ok=True)
    _write(state / "plan.json", wanted)
    return None


def write_shard(source: Any, plan: Plan, output: Path, shard: int, tick: Callable[[int], None]) -> None:
    """Writes one shard, and then its account; both are there whole or not at all."""
    path = output / plan.file(shard)
    partial = path.with_name(path.name + ".partial")
    writer: Writer = _WRITERS[plan.format](partial)
    count, names, bad = 0, dict[str, None](), list[ledger.Dropped]()
    for number, place in enumerate(plan.items(shard), 1):
        try:
            for record in records(source, place, plan.checked):
                writer.write(record, place)
                names.update(dict.fromkeys(record.extra))
                count += 1
        except BadExample as error:
            bad.append(ledger.dropped(source, plan.spec, place, error))
        if number % _TICK == 0:
            tick(number)
    writer.close()
    tallies = {
        "records": count,
        "bytes": partial.stat().st_size,
        "extra": list(names),
        "dropped": [dataclasses.astuple(item) for item in bad],
    }
    _write(_account(output / _STATE, shard), tallies)
    os.replace(partial, path)
    tick(len(plan.items(shard)))


def records(source: Any, index: int, checked: bool = True) -> Iterator[Record]:
    """The item at a place as records: as it is stored, or with its images as lossless WebP.

    Raises:
      BadExample: the item cannot be used.
    """
    if hasattr(source, "record"):
        record = source.record(index)
        if checked:
            decode_image(record.image)
        yield record
        return
    example = source[index]
    images = list(example["images"]) if "images" in example else [example["image"]]
    extra = {name: _plain(value) for name, value in example.items() if name not in _OF_EXAMPLES}
    for number, image in enumerate(images):
        key = example["key"] if len(images) == 1 else f"{example['key']}/{number}"
        yield Record(key, encode_image(image), list(example.get("texts") or ()), example.get("label"), extra)


def encode_image(image: np.ndarray) -> bytes:
    """uint8[Y, X, 3 or 4] as lossless WebP, colours of transparent pixels included (PNG where it is too large)."""
    stream, whole = io.BytesIO(), Image.fromarray(np.ascontiguousarray(image))
    if max(whole.size) > 16383:
        whole.save(stream, "PNG")
    else:
        whole.save(stream, "WEBP", lossless=True, exact=True, quality=50)
    return stream.getvalue()


def _plain(value: Any) -> Any:
    """As JSON holds it: arrays and tuples become lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


class Writer(Protocol):
    """Writes the records of one shard."""

    def write(self, record: Record, place: int) -> None: ...

    def close(self) -> None: ...


class _ArrayRecordWriter:
    def __init__(self, path: Path):
        from array_record.python.array_record_module import ArrayRecordWriter  # defines flags when it is imported

        self._writer = ArrayRecordWriter(str(path), "group_size:1")  # random access without its neighbours

    def write(self, record: Record, place: int) -> None:
        del place
        self._writer.write(encode_record(record))

    def close(self) -> None:
        self._writer.close()


class _TarWriter:
    """Samples as image, .txt (the first caption, for other programs), .cls and .json (everything)."""

    def __init__(self, path: Path):
        self._tar = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        self._last = ""

    def write(self, record: Record, place: int) -> None:
        # Up to the first dot a member's name is its sample's: a key that says something else there cannot be one.
        name = record.key if _PLAIN_KEY.fullmatch(record.key) else f"{place:09}"
        self._last = name = name + "_" if name == self._last else name  # neighbours of one name would be one sample
        whole = {"key": record.key, "texts": record.texts, "label": record.label, **record.extra}
        self._add(f"{name}.{ENDINGS.get(image_format(record.image) or '', 'img')}", record.image)
        self._add(f"{name}.txt", (record.texts[0] if record.texts else "").encode())
        if record.label is not None:
            self._add(f"{name}.cls", str(record.label).encode())
        self._add(f"{name}.json", json.dumps(whole, ensure_ascii=False).encode())

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # without time or owner: equal input gives equal shards
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        self._tar.close()


_WRITERS: dict[str, Callable[[Path], Writer]] = {"arrayrecord": _ArrayRecordWriter, "webdataset": _TarWriter}

_worker: dict[str, Any] = {}  # of a worker process: its source, what it is to write, the common count


def _start(plan: Plan, output: Path, counter: Any) -> None:
    follow_parent()
    _worker.update(source=open_source(plan.spec), plan=plan, output=output, counter=counter)


def _one(shard: int) -> None:
    before = 0

    def tick(count: int) -> None:
        nonlocal before
        with _worker["counter"].get_lock():
            _worker["counter"].value += count - before
        before = count

    write_shard(_worker["source"], _worker["plan"], _worker["output"], shard, tick)


def _in_processes(plan: Plan, output: Path, missing: Sequence[int], workers: int, tick: Callable[[int], None]) -> None:
    context = multiprocessing.get_context("spawn")  # this process may have threads, which a fork would break
    counter = context.Value("q", 0)
    with futures.ProcessPoolExecutor(workers, context, _start, (plan, output, counter)) as pool:
        waiting = {pool.submit(_one, shard) for shard in missing}
        try:
            while waiting:
                done, waiting = futures.wait(waiting, timeout=0.2, return_when=futures.FIRST_EXCEPTION)
                for future in done:
                    future.result()
                tick(counter.value)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # shards that are being written are finished: the next start has them
            raise


def _finish(plan: Plan, output: Path) -> dict[str, Any]:
    """Ledger and manifest from the accounts of all shards."""
    accounts = [json.loads(_account(output / _STATE, s).read_text(encoding="utf-8")) for s in range(plan.shards)]
    bad = [ledger.Dropped(*item) for account in accounts for item in account["dropped"]]
    with ledger.Ledger(output) as book:
        book.add(bad)
        dropped = book.totals()
    extra = list(dict.fromkeys(name for account in accounts for name in account["extra"]))
    manifest = {
        "plan": dataclasses.asdict(plan),
        "records": sum(account["records"] for account in accounts),
        "bytes": sum(account["bytes"] for account in accounts),
        "dropped": dropped,
        "opens_as": _opens_as(plan.format, output, extra),
        "shards": {plan.file(s): account["records"] for s, account in enumerate(accounts)},
    }
    _write(output / "manifest.json", manifest)
    shutil.rmtree(output / _STATE)
    return manifest


def _opens_as(format: str, output: Path, extra: Sequence[str]) -> str:
    """The spec under which what was written is read again; webdataset has no room for tags in several languages."""
    extra = [name for name in extra if name not in Example.__annotations__]
    options = f"?key=key{'&extra=' + ','.join(extra) if extra else ''}" if format == "webdataset" else ""
    return f"{format}:{output}{options}"


def _account(state: Path, shard: int) -> Path:
    return state / f"{shard:05}.json"


def _write(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)
