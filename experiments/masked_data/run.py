"""Tests two claims of BEiT-3 on emoji_scenes: trains every arm with every seed, then writes table and plot.

    python experiments/masked_data/run.py [--workdir runs/masked_data] [--seeds 3] [--seconds 400] [--at-once 2]
        [--out DIR] [--smoke]

Trains the image tokenizer first (a CLIP, then a VQ-KD of it), measures a step of each way of pre-training, and gives
each the steps that fit in the seconds. Killed and started again, it goes on; what has ended is not trained again.
README.md says what is asked.
"""

import json
import os
import pathlib
import statistics
import sys
from collections.abc import Mapping
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # what experiments share

from _arms import Arm, arguments, call, run_arms
from _compare import Comparison, draw, summary, table, versions
from _summary import markdown, write

HERE = pathlib.Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"
STEP_COST = HERE.with_name("fusion_cost") / "step_cost.py"
BATCH = 32
TUNING = 600  # steps of fine-tuning
# Way of pre-training -> (form of the config, what it changes in it)
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "codes": ("vqkd", ()),
    "pixels": ("pixels", ()),
    "contrast": ("", ("system.tasks=('mdm','caption','vqa','retrieval')", "stages.pretrain.tasks=('retrieval',)")),
}
METRICS = {"captions/CIDEr": "CIDEr-D", "answers/accuracy": "VQA accuracy"}
# Question -> (title, what is compared)
QUESTIONS: dict[str, tuple[str, list[Comparison]]] = {
    "contrast": ("Masked data − contrast", [Comparison("equal wall time", ("contrast", ""), ("codes", ""))]),
    "targets": ("Codes − pixels", [Comparison("equal wall time", ("pixels", ""), ("codes", ""))]),
    "pretraining": ("Pre-trained − not", [Comparison(way, ("none", ""), (way, "")) for way in WAYS]),
}


def config(name: str, form: str, smoke: bool) -> str:
    """The small config of a system, in one of its forms, as the command line names it."""
    variant = "_".join(filter(None, (form, "smoke" if smoke else "")))
    return ":".join(filter(None, (str(CONFIGS / name / "emoji_scenes.py"), variant)))


def tokenizer(workdir: pathlib.Path, smoke: bool) -> tuple[Arm, Arm]:
    """The CLIP that teaches, and the VQ-KD of it, in this order."""
    short = ("data.batch_size=64", "stages.names.steps=400", "stages.scenes.steps=600")
    teacher = Arm("teacher", config("clip", "", smoke), () if smoke else short)
    given = f"init[0].path={teacher.folder(workdir)}"
    return teacher, Arm(
        "tokenizer", config("vqkd", "clip", smoke), (given, *(() if smoke else ("stages.train.steps=800",)))
    )


def arms(codes: pathlib.Path, steps: Mapping[str, int], seed: int, smoke: bool) -> list[Arm]:
    """All arms of a seed: each way of pre-training for its steps, and none.

    Args:
      codes: the work directory of the image tokenizer.
      steps: way -> steps of pre-training.
      seed: of all.
      smoke: whether they are of a few steps.
    """
    same = () if smoke else (f"data.batch_size={BATCH}", f"stages.finetune.steps={TUNING}")
    found = []
    for way, (form, changes) in WAYS.items():
        given = (f"init[0].path={codes}",) if way == "codes" else ()
        more = (*changes, *given, f"stages.pretrain.steps={steps[way]}", *same)
        found.append(Arm(way, config("beit3", form, smoke), more, seed))
    return [*found, Arm("none", config("beit3", "finetune", smoke), same, seed)]


def step_seconds(workdir: pathlib.Path, smoke: bool) -> dict[str, float]:
    """Seconds of a step of each way of pre-training, alternating on one core with one of contrast; measured once."""
    found: dict[str, float] = {}
    # Codes of random weights cost what those of a trained tokenizer do.
    contrast, others = config("beit3", "", smoke), {"codes": "", "pixels": "pixels"}
    for way, form in others.items():
        kept = workdir / f"step_cost_{way}.json"
        if not kept.is_file():
            workdir.mkdir(parents=True, exist_ok=True)
            sides = [f"--set0={change}" for change in WAYS["contrast"][1]]
            rounds = ["--rounds", "2", "--steps", "1"] if smoke else ["--rounds", "6", "--batch", str(BATCH)]
            command = [sys.executable, str(STEP_COST), contrast, config("beit3", form, smoke), *sides, *rounds]
            stages = ["--stage0", "pretrain", "--stage1", "pretrain"]
            call([*command, *stages, "--json", str(kept)], kept.with_suffix(".log"), {min(os.sched_getaffinity(0))})
        first, other = (side["wall"] for side in json.loads(kept.read_text(encoding="utf-8"))["sides"])
        found |= {way: other, "contrast": min(first, found.get("contrast", first))}
    return found


def pretraining_steps(seconds: float, costs: Mapping[str, float]) -> dict[str, int]:
    """Way -> steps that fit in the seconds, at least one."""
    return {way: max(1, round(seconds / costs[way])) for way in WAYS}


def section(data: Mapping[str, Any]) -> str:
    """The results as README.md has them."""
    costs = [
        {
            "pre-training": way,
            "step, s": f"{data['step_s'][way]:.3f}",
            "steps": f"{data['steps'][way]:,}",
            "run in steps, s": f"{data['train_s'][way]:.0f}",
        }
        for way in WAYS
    ]
    parts = [
        f"{versions(data)} One core a run, {data['at_once']} at once; {data['seconds']:.0f} s of pre-training, then "
        f"{data['tuning']:,} steps of fine-tuning, whose seconds the last column has, too.",
        markdown(costs),
    ]
    for question, title in data["questions"].items():
        parts += [f"### {title}", table(data, question, METRICS)]
    return "\n\n".join([*parts, "![differences with their intervals](masked_data.png)"])


def main() -> None:
    """Runs, sums up, draws."""
    seconds = {"type": float, "default": 400.0, "help": "of pre-training on one core, for each run (default 400)"}
    args = arguments(__doc__, HERE, seeds=3, more={"--seconds": seconds})
    teacher, codes = tokenizer(args.workdir, args.smoke)
    begun = [*run_arms([teacher], args.workdir), *run_arms([codes], args.workdir)]
    costs = step_seconds(args.workdir, args.smoke)
    steps = pretraining_steps(0.0 if args.smoke else args.seconds, costs)
    # Seed by seed: a driver that is stopped early has whole comparisons.
    planned = [arm for seed in range(args.seeds)
               for arm in arms(codes.folder(args.workdir), steps, seed, args.smoke)]  # fmt: skip
    results = run_arms(planned, args.workdir, at_once=args.at_once)
    data = summary(args, results, QUESTIONS, list(METRICS)) | {
        "title": "BEiT-3 on emoji scenes: masked data, contrast, and what is predicted of images",
        "config": pathlib.Path(config("beit3", "", False)).relative_to(HERE.parents[1]).as_posix(),
        "seconds": args.seconds,
        "tuning": TUNING,
        "steps": steps,
        "step_s": costs,
        "train_s": {
            way: statistics.fmean(one["train_s"] for one in results if one["arm"] == way) for way in (*WAYS, "none")
        },
        "tokenizer": [{key: one[key] for key in ("arm", "steps", "train_s", "metrics")} for one in begun],
    }
    write(args.out, "masked_data", data, section(data))
    draw(args.out, "masked_data")


if __name__ == "__main__":
    main()
