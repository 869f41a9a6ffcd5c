"""Tests two claims of VLMo on emoji_scenes: trains every arm with every seed, then writes table and plot.

    python experiments/stagewise/run.py [--workdir runs/stagewise] [--seeds 3] [--at-once 2] [--out DIR] [--smoke]

Killed and started again, it goes on; what has ended is not trained again. README.md says what is asked.
"""

import pathlib
import statistics
import sys
from collections.abc import Mapping
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # what experiments share

from _arms import Arm, arguments, run_arms
from _compare import COSINE, FUSED, ORDERS, RECALLS, Comparison, draw, evaluator_seconds, summary, table, versions
from _summary import write

from mmjax.core import config as configs

HERE = pathlib.Path(__file__).resolve().parent
CONFIG = str(HERE.parents[1] / "configs" / "vlmo" / "emoji_scenes.py")
PAIRS = {"names": 1_000, "pairs": 3_000}  # pictures whose captions are known to go with them
# Question -> (title, what is compared)
QUESTIONS: dict[str, tuple[str, list[Comparison]]] = {
    "stages": (
        "In stages − pairs alone",
        [Comparison(ORDERS[order], ("pairs", order), ("stages", order)) for order in (COSINE, FUSED)],
    ),
    "fusion": ("Fused − dual", [Comparison("in stages", ("stages", COSINE), ("stages", FUSED))]),
}


def arms(seed: int, smoke: bool) -> list[Arm]:
    """`stages` and `pairs` of a seed: the same few pairs, the same number of steps."""
    forms = {"stages": "", "pairs": "pairs"}
    paths = {
        name: ":".join(filter(None, (CONFIG, "_".join(filter(None, (form, "smoke" if smoke else ""))))))
        for name, form in forms.items()
    }
    whole = configs.plain(configs.load(paths["stages"]))
    source, stages = whole["data"]["train"], whole["stages"]
    few = (
        f"data.train={source}&length={PAIRS['pairs']}",
        f"stages.names.data.train={stages['names']['data']['train']}&length={PAIRS['names']}",
    )
    steps = sum(stages[name]["steps"] for name in ("images", "text", "pairs"))
    return [
        Arm("stages", paths["stages"], few, seed),
        Arm("pairs", paths["pairs"], (*few, f"stages.pairs.steps={steps}"), seed),
    ]


def section(data: Mapping[str, Any]) -> str:
    """The results as README.md has them."""
    spent = data["evaluator_s"]
    parts = [
        f"{versions(data)} A run of {data['steps']:,} steps took "
        + " and ".join(f"{seconds:.0f} s ({name})" for name, seconds in data["train_s"].items())
        + f" in steps, the mean of the seeds, {data['at_once']} at once."
    ]
    for question, title in data["questions"].items():
        parts += [f"### {title}", table(data, question, RECALLS)]
    parts.append(
        f"The evaluator takes {spent['cosine']:.2f} s with the model as a dual encoder and {spent['re-ranked']:.2f} s "
        f"with re-ranking by the same weights as a fusion encoder (cores: {spent['cores']}, reading included)."
    )
    return "\n\n".join([*parts, "![differences with their intervals](stagewise.png)"])


def main() -> None:
    """Runs, sums up, draws."""
    args = arguments(__doc__, HERE, seeds=3)
    planned = [arm for seed in range(args.seeds) for arm in arms(seed, args.smoke)]
    results = run_arms(planned, args.workdir, at_once=args.at_once)
    data = summary(args, results, QUESTIONS, list(RECALLS)) | {
        "title": "VLMo on emoji scenes: stages, and one model as dual and as fusion encoder",
        "config": pathlib.Path(CONFIG).relative_to(HERE.parents[1]).as_posix(),
        "pairs": PAIRS,
        "steps": results[0]["steps"],
        "train_s": {
            name: statistics.fmean(one["train_s"] for one in results if one["arm"] == name)
            for name in ("stages", "pairs")
        },
        "evaluator_s": evaluator_seconds(planned[0].folder(args.workdir), "scenes"),
    }
    write(args.out, "stagewise", data, section(data))
    draw(args.out, "stagewise")


if __name__ == "__main__":
    main()
