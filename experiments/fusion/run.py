"""Tests three claims of ALBEF on emoji_scenes: trains every arm with every seed, then writes table and plot.

    python experiments/fusion/run.py [--workdir runs/fusion] [--seeds 3] [--at-once 2] [--out DIR] [--smoke]

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

HERE = pathlib.Path(__file__).resolve().parent
CONFIG = str(HERE.parents[1] / "configs" / "albef" / "emoji_scenes.py")
NO_TEACHER = "system.alpha=0.0"


def noise(share: float) -> str:
    """The change by which a share of all captions is wrong."""
    return f"data.train=emoji_scenes:train?size=64&parts=image,captions&noise={share}"


# Arm -> what it changes in the config's last stage. `base`: hard negatives, α = 0.4, true captions.
ARMS: dict[str, tuple[str, ...]] = {
    "base": (),
    "random": ("system.hard_negatives=False",),
    "alone": (NO_TEACHER,),
    "noise20": (noise(0.2),),
    "noise20_alone": (noise(0.2), NO_TEACHER),
    "noise40": (noise(0.4),),
    "noise40_alone": (noise(0.4), NO_TEACHER),
}

# Question -> (title, what is compared)
QUESTIONS: dict[str, tuple[str, list[Comparison]]] = {
    "reranking": ("Re-ranked − cosine", [Comparison("base", ("base", COSINE), ("base", FUSED))]),
    "negatives": (
        "Hard − random negatives",
        [Comparison(ORDERS[order], ("random", order), ("base", order)) for order in (FUSED, COSINE)],
    ),
    "distillation": (
        "α = 0.4 − α = 0",
        [
            Comparison(f"{noise} % wrong, {ORDERS[order]}", (alone, order), (taught, order))
            for noise, alone, taught in (
                (0, "alone", "base"),
                (20, "noise20_alone", "noise20"),
                (40, "noise40_alone", "noise40"),
            )
            for order in (COSINE, FUSED)
        ],
    ),
}


def config(form: str, smoke: bool) -> str:
    """The config and its variant, as the command line names them."""
    return f"{CONFIG}:{form}" + ("_smoke" if smoke else "")


def section(data: Mapping[str, Any]) -> str:
    """The results as README.md has them."""
    spent, steps = data["evaluator_s"], data["steps"]
    parts = [
        f"{versions(data)} The start's {steps['start']:,} steps took {data['start_s']:.0f} s. Medians, "
        f"{data['at_once']} runs at once: an arm of {steps['arm']:,} steps took {data['run_s']:.0f} s, "
        f"{data['step_s']:.3f} s a step."
    ]
    for question, title in data["questions"].items():
        parts += [f"### {title}", table(data, question, RECALLS)]
        if question == "reranking":
            parts.append(
                f"The evaluator takes {spent['cosine']:.2f} s by cosine and {spent['re-ranked']:.2f} s with re-ranking "
                f"(cores: {spent['cores']}; reading the pictures counts)."
            )
    return "\n\n".join([*parts, "![differences with their intervals](fusion.png)"])


def main() -> None:
    """Runs, sums up, draws."""
    args = arguments(__doc__, HERE, seeds=3)
    start = Arm("start", config("words", args.smoke))
    begun = run_arms([start], args.workdir)[0]
    # Seed by seed: a driver that is stopped early has whole comparisons.
    arms = [
        Arm(name, config("fuse", args.smoke), (f"init={start.folder(args.workdir)}", *changes), seed)
        for seed in range(args.seeds)
        for name, changes in ARMS.items()
    ]
    results = run_arms(arms, args.workdir, at_once=args.at_once)
    whole = [result["wall_s"] for result in results if not result["resumed"]]
    data = summary(args, results, QUESTIONS, list(RECALLS)) | {
        "title": "ALBEF on emoji scenes: re-ranking, hard negatives, momentum distillation",
        "config": pathlib.Path(CONFIG).relative_to(HERE.parents[1]).as_posix(),
        "steps": {"start": begun["steps"], "arm": results[0]["steps"]},
        "start_s": begun["train_s"],
        "run_s": statistics.median(whole or [result["wall_s"] for result in results]),
        "step_s": statistics.median(result["step_s"] for result in results),
        "evaluator_s": evaluator_seconds(arms[0].folder(args.workdir), "scenes"),
    }
    write(args.out, "fusion", data, section(data))
    draw(args.out, "fusion")


if __name__ == "__main__":
    main()
