"""What CoCa's one pass is worth: CoCa and ALBEF of one size, at the same steps a second and at the same wall time.

    python experiments/fusion_cost/run.py [--workdir runs/fusion_cost] [--seeds 3] [--seconds 300] [--at-once 2]
        [--smoke]

Measures a step of both, gives both the steps that fit in the seconds, trains, then writes table and plot. Killed and
started again, it goes on. README.md says what is asked.
"""

import json
import os
import pathlib
import statistics
import sys
from collections.abc import Mapping
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # what experiments share

import plot
from _arms import Arm, arguments, call, machine, run_arms
from _compare import RECALLS
from _summary import half_width, markdown, mean, signed, write

HERE = pathlib.Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"
# Shares of the seconds that the stages get. ALBEF's first two train masked words alone.
SHARES = {"coca": {"names": 0.3, "scenes": 0.7}, "albef": {"names": 0.3, "words": 0.2, "scenes": 0.5}}
# Way of ranking -> (arm, prefix of its metrics)
WAYS = {"CoCa, cosine": ("coca", "scenes_retrieval/"), "ALBEF, cosine": ("albef", "scenes/cosine/"),
        "ALBEF, re-ranked": ("albef", "scenes/")}  # fmt: skip


def config(system: str, smoke: bool) -> str:
    """The config of a system, as the command line names it."""
    return str(CONFIGS / system / "emoji_scenes.py") + (":smoke" if smoke else "")


def step_cost(workdir: pathlib.Path, stage: str, smoke: bool) -> dict[str, Any]:
    """What step_cost.py found on one core, measured once, for a stage of ALBEF beside CoCa's last."""
    kept = workdir / f"step_cost_{stage}.json"
    if not kept.is_file():
        workdir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(HERE / "step_cost.py"), config("coca", smoke), config("albef", smoke)]
        rounds = ["--rounds", "2", "--steps", "1"] if smoke else ["--rounds", "8"]
        call(
            [*command, *rounds, "--stage1", stage, "--json", str(kept)],
            kept.with_suffix(".log"),
            {min(os.sched_getaffinity(0))},
        )
    return json.loads(kept.read_text(encoding="utf-8"))


def stage_steps(seconds: float, costs: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, int]]:
    """System -> stage -> steps that fit in its share of the seconds; `costs`: system -> stage -> seconds a step."""
    return {
        system: {stage: max(1, round(share * seconds / costs[system][stage])) for stage, share in shares.items()}
        for system, shares in SHARES.items()
    }


def arm(system: str, steps: Mapping[str, int], seed: int, smoke: bool) -> Arm:
    """A training of so many steps in each stage, judged on 500 scenes."""
    changes = [f"stages.{stage}.steps={count}" for stage, count in steps.items()]
    if not smoke:
        evaluator = {"coca": "scenes_retrieval", "albef": "scenes"}[system]
        changes.append(f"evals.{evaluator}.data=emoji_scenes:val?size=64&length=500")
    return Arm(system, config(system, smoke), tuple(changes), seed)


def metrics(data: Mapping[str, Any], way: str, metric: str) -> list[float]:
    """A metric by seed."""
    system, prefix = WAYS[way]
    return [run["metrics"][prefix + metric] for run in data["runs"] if run["arm"] == system]


def section(data: Mapping[str, Any]) -> str:
    """The results as README.md has them."""
    about, cost, runs = data["machine"], data["step_cost"], data["runs"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    ratio = {kind: "{:.2f} ({:.2f}–{:.2f})".format(*cost["ratio"][kind]) for kind in ("cpu", "wall")}
    costs = [
        {
            "system": name,
            "parameters": f"{sum(one['parameters'].values()):,}",
            "step, s of processor": f"{one['cpu']:.3f}",
            "step, s": f"{one['wall']:.3f}",
            "steps": " + ".join(f"{count:,}" for count in data["steps"][name].values()),
            "in training, s": f"{statistics.fmean(run['train_s'] for run in runs if run['arm'] == name):.0f}",
        }
        for name, one in zip(("coca", "albef"), cost["sides"], strict=True)
    ]
    ranked = [
        {"ranked by": way, **{shown: mean(metrics(data, way, name), 100) for name, shown in RECALLS.items()}}
        for way in WAYS
    ]
    lines = []
    for way in ("ALBEF, cosine", "ALBEF, re-ranked"):
        pairs = zip(metrics(data, "CoCa, cosine", "text_to_image_R@1"), metrics(data, way, "text_to_image_R@1"),
                    strict=True)  # fmt: skip
        gains = [100 * (coca - albef) for coca, albef in pairs]
        lines.append(f"{signed(statistics.fmean(gains), half_width(gains))} over {way}")
    return "\n\n".join([
        f"{about['device']}, cores: {about['cores']}, one for each run; {versions}. Seeds: {data['seeds']}.",
        "### A step",
        markdown(costs),
        f"ALBEF's step over CoCa's, batches of 64, alternating on one core: {ratio['cpu']} in seconds of the "
        f"processor, {ratio['wall']} in seconds (median, lowest and highest round). Masked words alone take ALBEF "
        f"{data['words_alone_s']:.3f} s.",
        f"### After {data['seconds']:.0f} seconds of training each, % of 500 unseen scenes",
        markdown(ranked),
        f"CoCa, text → image R@1, by seed: {'; '.join(lines)} (points).",
        "![recall of both at equal wall time](fusion_cost.png)",
    ])  # fmt: skip


def main() -> None:
    """Runs, sums up, draws."""
    seconds = {"type": float, "default": 300.0, "help": "in steps of training, for each run (default 300)"}
    args = arguments(__doc__, HERE, seeds=3, more={"--seconds": seconds})
    cost, words = (step_cost(args.workdir, stage, args.smoke) for stage in ("scenes", "names"))
    coca, albef = (one["wall"] for one in cost["sides"])
    alone = words["sides"][1]["wall"]
    costs = {"coca": {"names": coca, "scenes": coca}, "albef": {"names": alone, "words": alone, "scenes": albef}}
    steps = stage_steps(0.0 if args.smoke else args.seconds, costs)
    arms = [arm(name, steps[name], seed, args.smoke) for seed in range(args.seeds) for name in steps]
    data = {
        "title": "CoCa and ALBEF at equal wall time",
        "machine": machine("jax"),
        "seconds": args.seconds,
        "seeds": args.seeds,
        "steps": steps,
        "step_cost": cost,
        "words_alone_s": alone,
        "runs": [{key: value for key, value in run.items() if key != "config"}
                 for run in run_arms(arms, args.workdir, at_once=args.at_once)],
    }  # fmt: skip
    write(args.out, "fusion_cost", data, section(data))
    plot.draw(args.out)


if __name__ == "__main__":
    main()
