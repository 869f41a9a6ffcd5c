"""Tests three claims of ALBEF on emoji_scenes: trains every arm with every seed, then writes table and plot.

    python experiments/fusion/run.py [--workdir runs/fusion] [--seeds 3] [--at-once 2] [--out DIR] [--smoke]

Killed and started again, it goes on; what has ended is not trained again. README.md says what is asked.
"""

import json
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # what experiments share

import plot
from _arms import Arm, arguments, cores, machine, run_arms
from _summary import half_width, markdown, signed, write

from mmjax.core import files

HERE = pathlib.Path(__file__).resolve().parent
CONFIG = str(HERE.parents[1] / "configs" / "albef" / "emoji_scenes.py")
NO_TEACHER = "system.alpha=0.0"


def noise(share: float) -> str:
    """The change by which a share of all captions is wrong."""
    return f"data.train=emoji_scenes:train?size=64&noise={share}"


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
COSINE, FUSED = "scenes/cosine/", "scenes/"
ORDERS = {COSINE: "cosine", FUSED: "re-ranked"}
METRICS = {f"{a}_to_{b}_R@{k}": f"{a} → {b} R@{k}" for a, b in (("text", "image"), ("image", "text")) for k in (1, 5)}


class Comparison(NamedTuple):
    """Two sides that differ in one thing: (arm, order) without it and with it."""

    name: str
    without: tuple[str, str]
    having: tuple[str, str]


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


def rows(results: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each comparison and metric, in percent; differences are by seed, in the order of the seeds."""
    runs = {(result["arm"], result["seed"]): result["metrics"] for result in results}
    seeds = sorted({seed for _, seed in runs})
    for question, (_, comparisons) in QUESTIONS.items():
        for each in comparisons:
            for metric in METRICS:
                sides = {
                    name: [
                        [100 * runs[arm, seed][f"{order}{metric}{end}"] for end in ("", "_lo", "_hi")] for seed in seeds
                    ]
                    for name, (arm, order) in (("without", each.without), ("having", each.having))
                }
                pairs = zip(sides["without"], sides["having"], strict=True)
                differences = [after[0] - before[0] for before, after in pairs]
                row: dict[str, Any] = {"question": question, "compared": each.name, "metric": metric}
                for name, values in sides.items():
                    mean, low, high = (statistics.fmean(column) for column in zip(*values, strict=True))
                    row[name] = {"mean": mean, "half": half_width([v[0] for v in values]), "queries": [low, high]}
                row |= {"difference": statistics.fmean(differences), "half": half_width(differences)}
                yield row | {"differences": differences}


def seconds(folder: pathlib.Path) -> dict[str, float]:
    """What ranking by cosine and re-ranking take on the evaluator's data; of two runs the second: nothing compiles."""
    kept = folder.parent / "evaluator_seconds.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    import mmjax
    from mmjax.evals.build import build_evaluator

    model = mmjax.load(folder)
    spec = dict(model.config["evals"]["scenes"])
    plain = {key: value for key, value in spec.items() if key not in ("nearest", "score")} | {"kind": "retrieval"}
    found: dict[str, float] = {"cores": cores()}
    for name, options in (("cosine", plain), ("re-ranked", spec)):
        evaluator = build_evaluator("scenes", options, model.tools)
        for _ in range(2):
            start = time.perf_counter()
            dict(evaluator.run(model.predictor))
            found[name] = time.perf_counter() - start
    files.write_text(kept, json.dumps(found) + "\n")
    return found


def side(found: Mapping[str, Any]) -> str:
    """'41.2 ± 2.0 [38.9, 43.4]'."""
    half = "" if found["half"] is None else f" ± {found['half']:.1f}"
    return f"{found['mean']:.1f}{half} [{found['queries'][0]:.1f}, {found['queries'][1]:.1f}]"


def section(data: Mapping[str, Any]) -> str:
    """The results as README.md has them."""
    about, spent = data["machine"], data["evaluator_s"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    parts = [
        f"{about['device']}, cores: {about['cores']}; {versions}. Seeds: {data['seeds']}. Medians, "
        f"{data['at_once']} runs at once: a start of {data['steps']['start']:,} steps took {data['start_s']:.0f} s, "
        f"an arm of {data['steps']['arm']:,} steps {data['run_s']:.0f} s, {data['step_s']:.3f} s a step."
    ]
    for question, (title, _) in QUESTIONS.items():
        table = [
            {
                "compared": row["compared"],
                "metric": METRICS[row["metric"]],
                "without": side(row["without"]),
                "with": side(row["having"]),
                title: signed(row["difference"], row["half"]),
            }
            for row in data["rows"]
            if row["question"] == question
        ]
        parts += [f"### {title}", markdown(table)]
        if question == "reranking":
            parts.append(
                f"The evaluator takes {spent['cosine']:.2f} s by cosine and {spent['re-ranked']:.2f} s with re-ranking "
                f"(cores: {spent['cores']}; reading the pictures counts)."
            )
    return "\n\n".join([*parts, "![differences with their intervals](fusion.png)"])


def main() -> None:
    """Runs, sums up, draws."""
    args = arguments(__doc__, HERE, seeds=3)
    starts = [Arm("start", config("words", args.smoke), seed=seed) for seed in range(args.seeds)]
    begun = run_arms(starts, args.workdir, at_once=args.at_once)
    # Seed by seed: a driver that is stopped early has whole comparisons.
    arms = [
        Arm(name, config("fuse", args.smoke), (f"init={start.folder(args.workdir)}", *changes), start.seed)
        for start in starts
        for name, changes in ARMS.items()
    ]
    results = run_arms(arms, args.workdir, at_once=args.at_once)
    whole = [result["wall_s"] for result in results if not result["resumed"]]
    data = {
        "title": "ALBEF on emoji scenes: re-ranking, hard negatives, momentum distillation",
        "machine": machine("jax"),
        "config": pathlib.Path(CONFIG).relative_to(HERE.parents[1]).as_posix(),
        "seeds": args.seeds,
        "steps": {"start": begun[0]["steps"], "arm": results[0]["steps"]},
        "at_once": args.at_once,
        "start_s": statistics.median(result["wall_s"] for result in begun),
        "run_s": statistics.median(whole or [result["wall_s"] for result in results]),
        "step_s": statistics.median(result["step_s"] for result in results),
        "evaluator_s": seconds(arms[0].folder(args.workdir)),
        "questions": {name: title for name, (title, _) in QUESTIONS.items()},
        "rows": list(rows(results)),
        "runs": [{key: value for key, value in result.items() if key != "config"} for result in results],
    }
    write(args.out, "fusion", data, section(data))
    plot.draw(args.out)


if __name__ == "__main__":
    main()
