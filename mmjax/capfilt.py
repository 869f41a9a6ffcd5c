"""CapFilt (Li et al. 2022, BLIP, §3.3): a captioner writes a text for each image, a filter keeps those that fit it.

```
DIR/data-00000-of-00008.arrayrecord    images with the texts that were kept, those of the data and the written one
DIR/decisions-00000-of-00008.jsonl     a line for each image: every text, where it is from, its score, the decision
DIR/manifest.json                      counts and settings; there when all shards are
DIR/.capfilt/                          while it runs: the plan, and the counts of every whole shard
```
Any number of processes work on one folder, each on every n-th shard; a shard is there whole or not at all, so that a
job that was killed goes on where it was. What is written depends on neither.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special

from mmjax.core import files
from mmjax.core.errors import BadExample, UserError
from mmjax.data.files.arrayrecord import encode_record
from mmjax.data.rewrite import records
from mmjax.data.sources import open_source
from mmjax.evals.caption import write_captions
from mmjax.evals.rerank import encode, match_pairs
from mmjax.model import LoadedModel

WEB, SYNTHETIC = "web", "synthetic"
TRUTH = "caption_is_true"  # key of sources that know which of their texts are wrong
_STATE = ".capfilt"
# BLIP's: one caption by nucleus sampling, p = 0.9.
SAMPLING = {"sample": True, "top_p": 0.9, "repetition_penalty": 1.1, "max_length": 20, "min_length": 5}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is made; equal plans go on with one another.

    Attributes:
      data: spec of the source, and its length. captioner, filter: where the models are from.
      settings: of generation. prompt: of the captions; None: the captioner's own.
      threshold: a text is kept if P(fits) is at least so much; 0.5 is the filter's own verdict.
      shards: files; shard s holds the items from s * length // shards on. seed: of sampling.
    """

    data: str
    length: int
    captioner: str
    filter: str
    settings: dict[str, Any]
    prompt: str | None = None
    threshold: float = 0.5
    shards: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= self.length:
            raise UserError(f"shards {self.shards}; valid: 1 to {self.length:,}, the items of {self.data}")
        if not 0 < self.threshold < 1:
            raise UserError(f"threshold {self.threshold}; valid: between 0 and 1")

    def file(self, what: str, shard: int) -> str:
        """Name of a shard: of the "data" or of the "decisions"."""
        return f"{what}-{shard:05}-of-{self.shards:05}.{'arrayrecord' if what == 'data' else 'jsonl'}"

    def items(self, shard: int) -> range:
        """The places of a shard's items in the source."""
        return range(shard * self.length // self.shards, (shard + 1) * self.length // self.shards)


def capfilt(
    plan: Plan,
    captioner: LoadedModel,
    judge: LoadedModel,
    output: pathlib.Path,
    *,
    process: int = 0,
    processes: int = 1,
    at_once: int = 256,
    tick: Callable[[int, int], None] = lambda shard, of: None,
) -> dict[str, Any] | None:
    """Captions and filters this process's shards.

    Args:
      judge: the filter.
      process, processes: this one's number, from 0, and how many there are.
      at_once: images in memory at a time.
      tick: called with the shard that is done and how many there are.

    Returns:
      The manifest, if all shards are there now; None if other processes still have some to do.

    Raises:
      UserError: a folder that holds something else, or models that cannot write or match.
    """
    if not 0 <= process < processes:
        raise UserError(f"process {process} of {processes}; valid: 0 to {processes - 1}")
    captioner.predictor.check("generate")
    judge.predictor.check("encode_states_image", "encode_states_text", "match")
    finished = _begin(plan, output)
    if finished is not None:
        return finished
    source = open_source(plan.data)
    for shard in range(process, plan.shards, processes):
        if not _account(output, shard).is_file():
            _write_shard(plan, source, captioner, judge, output, shard, at_once)
        tick(shard, plan.shards)
    return _finish(plan, output)


def _begin(plan: Plan, output: pathlib.Path) -> dict[str, Any] | None:
    """Prepares the folder; the manifest if everything is there already."""
    wanted = json.loads(json.dumps(dataclasses.asdict(plan)))
    manifest, state = output / "manifest.json", output / _STATE
    before = manifest if manifest.is_file() else state / "plan.json"
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is not a folder")
    if output.is_dir() and any(output.iterdir()) and not before.is_file():
        raise UserError(f"{output} is not empty, and what it holds is not of this job; give another --output")
    if before.is_file():
        found = json.loads(before.read_text(encoding="utf-8"))
        held = found.get("plan", found)
        if held != wanted:
            changed = [f"{k} {held.get(k)!r} -> {wanted[k]!r}" for k in wanted if held.get(k) != wanted[k]]
            raise UserError(f"{output} holds another job ({', '.join(changed)}); give another --output")
        return found if before is manifest else None
    state.mkdir(parents=True, exist_ok=True)
    files.write_text(state / "plan.json", json.dumps(wanted, indent=1) + "\n")
    return None


def _account(output: pathlib.Path, shard: int) -> pathlib.Path:
    return output / _STATE / f"{shard:05}.json"


def _write_shard(
    plan: Plan, source: Any, captioner: LoadedModel, judge: LoadedModel, output: pathlib.Path, shard: int, at_once: int
) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter  # defines flags when it is imported

    data, decisions = output / plan.file("data", shard), output / plan.file("decisions", shard)
    partial = [path.with_name(path.name + f".partial-{os.getpid()}") for path in (data, decisions)]
    counts = dict.fromkeys(("images", "kept_images", "unusable", "web", "web_kept", "synthetic", "synthetic_kept",
                            "wrong", "wrong_removed", "right", "right_kept"), 0)  # fmt: skip
    writer = ArrayRecordWriter(str(partial[0]), "group_size:1")
    with open(partial[1], "w", encoding="utf-8") as lines:
        for places in _blocks(plan.items(shard), at_once):
            usable = list(_usable(source, places, counts))
            if not usable:
                continue
            rows = decide(plan, captioner, judge, [each for _, each in usable], [place for place, _ in usable])
            for (place, _), row in zip(usable, rows, strict=True):
                _count(row, counts)
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                kept = [text["text"] for text in row["texts"] if text["kept"]]
                if kept:
                    record = next(records(source, place, checked=False))
                    extra = {**record.extra, "candidates": row["texts"]}
                    writer.write(encode_record(dataclasses.replace(record, texts=kept, extra=extra)))
    writer.close()
    for path, final in zip(partial, (data, decisions), strict=True):
        os.replace(path, final)
    files.write_text(_account(output, shard), json.dumps(counts) + "\n")  # last: it says that both files are whole


def _blocks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _usable(source: Any, places: Sequence[int], counts: dict[str, int]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for place in places:
        counts["images"] += 1
        try:
            example = source[place]
        except BadExample:
            counts["unusable"] += 1
            continue
        if "image" not in example:
            raise UserError(f"example {place} has no single image; it has {sorted(example)}")
        yield place, example


def decide(
    plan: Plan,
    captioner: LoadedModel,
    judge: LoadedModel,
    examples: Sequence[Mapping[str, Any]],
    places: Sequence[int],
) -> list[dict[str, Any]]:
    """A row for each example: key, index and `texts`, each with text, source ("web" or "synthetic"), score, kept.

    score = P(fits) of the filter's matching head; kept where it is at least the threshold. A caption depends on the
    example and its place in the source alone.
    """
    how = captioner.tools.how(plan.settings)
    seeds = [int(np.random.SeedSequence([plan.seed, place]).generate_state(1, np.uint32)[0]) for place in places]
    seen = [captioner.tools.preprocess(example["image"]) for example in examples]
    written = write_captions(captioner.predictor, captioner.tools, seen, how, plan.prompt, seeds)
    rows: list[dict[str, Any]] = []
    texts, owners = list[str](), list[int]()
    for i, (example, place, caption) in enumerate(zip(examples, places, written, strict=True)):
        truth = example.get(TRUTH)
        found = [{"text": text, "source": WEB} | ({} if truth is None else {"true": bool(truth[j])})
                 for j, text in enumerate(example.get("texts") or ())]  # fmt: skip
        found += [{"text": caption, "source": SYNTHETIC}] if caption else []
        texts += [each["text"] for each in found]
        owners += [i] * len(found)
        rows.append({"key": str(example.get("key", place)), "index": place, "texts": found})
    if texts:
        images = [judge.tools.preprocess(example["image"]) for example in examples]
        states = encode(judge.predictor, images, *judge.tools.tokenize(texts))
        pairs = np.stack([np.asarray(owners), np.arange(len(texts))], axis=1)
        chances = scipy.special.softmax(match_pairs(judge.predictor, states, pairs), axis=1)[:, 1]
        for each, chance in zip((each for row in rows for each in row["texts"]), chances.tolist(), strict=True):
            each |= {"score": chance, "kept": chance >= plan.threshold}
    return rows


def _count(row: Mapping[str, Any], counts: dict[str, int]) -> None:
    counts["kept_images"] += any(text["kept"] for text in row["texts"])
    for text in row["texts"]:
        counts[text["source"]] += 1
        counts[f"{text['source']}_kept"] += text["kept"]
        if "true" in text:
            counts["right" if text["true"] else "wrong"] += 1
            counts["right_kept"] += text["true"] and text["kept"]
            counts["wrong_removed"] += not text["true"] and not text["kept"]


def _finish(plan: Plan, output: pathlib.Path) -> dict[str, Any] | None:
    """The manifest from the counts of all shards, if they are there."""
    accounts = [_account(output, shard) for shard in range(plan.shards)]
    if not all(path.is_file() for path in accounts):
        return None
    each = [json.loads(path.read_text(encoding="utf-8")) for path in accounts]
    counts = {name: sum(account[name] for account in each) for name in each[0]}
    manifest = {"plan": json.loads(json.dumps(dataclasses.asdict(plan))), "counts": counts,
                "opens_as": f"arrayrecord:{output}/data-*.arrayrecord"}  # fmt: skip
    files.write_text(output / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    for left in output.glob("*.partial-*"):  # of a process that was killed
        left.unlink(missing_ok=True)
    shutil.rmtree(output / _STATE, ignore_errors=True)  # of several processes that end together, each may do this
    return manifest
