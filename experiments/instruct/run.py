"""Asks three questions of LLaVA-1.5 and NeXT on emoji_scenes: projector, format prompts, resolution.

    python experiments/instruct/run.py [--workdir runs/instruct] [--seeds 3] [--at-once 2] [--out DIR] [--smoke]

Killed and started again, it goes on; what has ended is not done again. README.md says what is asked.
"""

import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # what experiments share

from _arms import Arm, arguments, run_arms
from _compare import Comparison, draw, summary, table, versions
from _summary import write

from mmjax.core import files

HERE = pathlib.Path(__file__).resolve().parent
CONFIG = str(HERE.parents[1] / "configs" / "llava" / "v1_5_emoji_scenes.py")
SHORT = "Answer in a word."  # of the config
LONGEST = 3  # words of an answer in a word: "black and white cats"-like names have as many

SILENT = "data.task.short="
SMALL = ("system.img.image_size=32", "system.img.patch=8", "system.img.patch_stride=6")
WHOLE = "stages.instruct.train=('.*',)"
# Start -> what it changes in the config's first three stages.
STARTS: dict[str, tuple[str, ...]] = {
    "start": (),
    "start_silent": (SILENT, f"stages.language.{SILENT}"),
    "start_small": SMALL,
}
# Arm -> (its start, what it changes in the last two stages).
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "base": ("start", ()),
    "linear": ("start", ("system.layers=1",)),
    "silent": ("start_silent", (SILENT,)),
    "squashed": ("start_small", (*SMALL, WHOLE)),
    "anyres": ("start_small", (*SMALL, WHOLE, "system.newline=True", "data.task.grids=((64, 64),)",
                               "data.text_length=320")),
}  # fmt: skip

# Question -> (title, what is compared)
QUESTIONS: dict[str, tuple[str, list[Comparison]]] = {
    "projector": (
        "MLP − linear",
        [Comparison("all questions", ("linear", "word/"), ("base", "word/"))],
    ),
    "formats": (
        "request − none",
        [
            Comparison("asked for a word", ("silent", "word/"), ("base", "word/")),
            Comparison("asked openly", ("silent", "open/"), ("base", "open/")),
        ],
    ),
    "resolution": (
        "anyres − squashed",
        [Comparison(f"{size} things", ("squashed", f"{size}/"), ("anyres", f"{size}/")) for size in ("small", "big")],
    ),
}
METRICS = {"accuracy": "accuracy", "in_form": "in the asked form"}


def config(form: str, smoke: bool) -> str:
    """The config and its variant, as the command line names them."""
    return f"{CONFIG}:{form}" + ("_smoke" if smoke else "")


def arms(seed: int, workdir: pathlib.Path, smoke: bool) -> tuple[list[Arm], list[Arm]]:
    """(starts, arms) of a seed."""
    starts = {name: Arm(name, config("see", smoke), changes, seed) for name, changes in STARTS.items()}
    found = [
        Arm(name, config("talk", smoke), (f"init[0].path={starts[start].folder(workdir)}", *changes), seed)
        for name, (start, changes) in ARMS.items()
    ]
    return list(starts.values()), found


# ---------------------------------------------------------------- what the arms answer


def is_word(text: str) -> bool:
    """Whether an answer is one to a few words, no sentence."""
    return 1 <= len(text.split()) <= LONGEST and not text.rstrip().endswith((".", "!", "?"))


def is_sentence(text: str) -> bool:
    """Whether an answer is a sentence."""
    return len(text.split()) > 1 and text.rstrip().endswith(".")


class Chosen:
    """The examples of a source at some places."""

    def __init__(self, source: Any, places: Sequence[int]) -> None:
        self.name, self._source, self._places = source.name, source, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._places[index]]


def by_size(source: Any) -> dict[str, list[int]]:
    """Places of the scenes with small things alone, and of those with a big one."""
    from mmjax.data.scenes.graph import SIZES

    found: dict[str, list[int]] = {"small": [], "big": []}
    for place in range(len(source)):
        longest = max(max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in source[place]["boxes"])  # shares of the side
        found["small" if longest < (SIZES["small"][1] + SIZES["big"][0]) / 2 else "big"].append(place)
    return found


def judged(folder: pathlib.Path, name: str, scenes: int, new: int) -> dict[str, float]:
    """Shares of right answers and of answers in the asked form of a run; asked once, and kept beside the run."""
    kept = folder.parent / f"{folder.name}_answers.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    import mmjax
    from mmjax.data.sources import open_source

    model = mmjax.load(folder, batch_size=64)
    spec = f"emoji_scenes:test?size=64&length={scenes}&parts=image,questions"
    found: dict[str, float] = {}
    if name in ("squashed", "anyres"):
        graph = open_source(f"emoji_scenes:test?size=64&length={scenes}&parts=graph")
        source = open_source(spec)
        for size, places in by_size(graph).items():
            if places:
                found |= dict(_asked(model, f"{size}/", Chosen(source, places), f"{{}}\n{SHORT}", new, None))
    else:
        found |= dict(_asked(model, "word/", open_source(spec), f"{{}}\n{SHORT}", new, is_word))
        if name != "linear":
            found |= dict(_asked(model, "open/", open_source(spec), "{}", 4 * new, is_sentence))
    files.write_text(kept, json.dumps(found) + "\n")
    return found


def _asked(
    model: Any, prefix: str, source: Any, template: str, new: int, form: Callable[[str], bool] | None
) -> Iterator[tuple[str, float]]:
    """(name, share) of a source's questions; accuracy only where a word is asked for."""
    from mmjax.evals.bootstrap import interval
    from mmjax.evals.build import build_evaluator

    tools = dataclasses.replace(model.tools, open_source=lambda _: source)
    evaluator: Any = build_evaluator("asked", {"kind": "vqa", "data": source.name, "template": template,
                                               "settings": {"max_new": new}}, tools)  # fmt: skip
    answers = evaluator.write(model.predictor)
    if SHORT in template:
        for key, value in evaluator.score(answers)[0]:
            yield prefix + key.removeprefix("asked/"), value
    if form is not None:
        import numpy as np

        shares = np.array([float(form(answer)) for answer in answers])
        yield f"{prefix}in_form", float(shares.mean())
        yield from zip((f"{prefix}in_form_lo", f"{prefix}in_form_hi"), interval(shares), strict=True)


# ---------------------------------------------------------------- the whole


def section(data: Mapping[str, Any]) -> str:
    """The results as README.md has them."""
    spent = ", ".join(f"{seconds:.0f} s ({name})" for name, seconds in data["train_s"].items())
    parts = [f"{versions(data)} Seconds in steps, the mean of the seeds, {data['at_once']} at once: {spent}."]
    for question, title in data["questions"].items():
        parts += [f"### {title}", table(data, question, METRICS)]
    return "\n\n".join([*parts, "![differences with their intervals](instruct.png)"])


def main() -> None:
    """Runs, asks, sums up, draws."""
    args = arguments(__doc__, HERE, seeds=3)
    planned = [arms(seed, args.workdir, args.smoke) for seed in range(args.seeds)]
    begun = run_arms([arm for starts, _ in planned for arm in starts], args.workdir, at_once=args.at_once)
    talking = [arm for _, found in planned for arm in found]
    results = run_arms(talking, args.workdir, at_once=args.at_once)
    scenes, new = (4, 2) if args.smoke else (250, 8)
    for arm, result in zip(talking, results, strict=True):
        result["metrics"] |= judged(arm.folder(args.workdir), arm.name, scenes, new)
    data = summary(args, results, QUESTIONS, list(METRICS)) | {
        "title": "LLaVA on emoji scenes: projector, format prompts, resolution",
        "config": pathlib.Path(CONFIG).relative_to(HERE.parents[1]).as_posix(),
        "scenes": scenes,
        "train_s": {
            name: statistics.fmean(one["train_s"] for one in [*begun, *results] if one["arm"] == name)
            for name in (*STARTS, *ARMS)
        },
    }
    write(args.out, "instruct", data, section(data))
    draw(args.out, "instruct")


if __name__ == "__main__":
    main()
