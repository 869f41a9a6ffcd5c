"""Training step of mmjax against open_clip's, eager and under torch.compile: same shapes, weights, batch and precision.

    python experiments/benchmarks/train_step.py [--rows small,b32] [--pairs 5] [--json FILE]
    python experiments/benchmarks/train_step.py --rows b32,l14 --dtype bfloat16 --attention cudnn --batch 256 # a GPU

Every measurement is a process of its own, and they alternate: mmjax, open_clip eager, open_clip compiled, mmjax, …,
every second round in the opposite order. Each begins with the same weights, warms up, then times `--steps` steps: the
forward pass, the loss, the backward pass, AdamW (torch: fused), the learning rate's schedule and the bound of the
scale; and, on both sides, the norms of gradients and parameters that a log shows (`--norms none`: on neither). Images
come as float32, normalised, to both. All processes keep freed memory as the command `mmjax` does on a CPU
(core/host_memory.py), which helps torch, too; `--memory default` leaves the allocator as it is, on all sides. The
losses of the first steps are compared: the rows are the same work.

`ratio` is the peer's wall time over mmjax's in the same round: above 1, mmjax is faster; `cpu ratio` the same of the
processor time of all threads, `cpu s`, which a busy neighbour disturbs less. Compile time is that of the first round,
without a cache. `mfu` is the share of the peak of one large matrix product, measured on the same device, that the
analytic operations of a step make.

Rows below a model's own do less work than the peer, which still does all of it: `text 32` sees texts cut behind the
batch's longest caption, which changes no loss; `patch drop 0.5` leaves out half of the patches (FLIP), which does.

`--json FILE` keeps every round; with `--add`, rounds are added to those that FILE holds, so that a long measurement can
be taken in parts (with `--cache DIR`, compiled once). `--pairs 0 --add` prints the table of what is there.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import _models
import _table

HERE = pathlib.Path(__file__).parent
SIDES = ("mmjax", "open_clip", "open_clip compiled")
LESS = ("text", "patches")
PACKAGES = ("mmjax", "jax", "jaxlib", "flax", "torch", "open_clip_torch")


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="small,b32", help=f"of {', '.join(_models.ROWS)}")
    parser.add_argument("--pairs", type=int, default=5, help="rounds of one process for each side")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a process")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--batch", type=int, help="examples, default by row")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--act", choices=("quick_gelu", "gelu"), default="quick_gelu", help="OpenAI's, or open_clip's")
    parser.add_argument("--norms", choices=("both", "none"), default="both", help="which side computes norms for a log")
    parser.add_argument("--memory", choices=("kept", "default"), default="kept", help="the allocator, on all sides")
    parser.add_argument("--sides", default=",".join(SIDES), help="which to run, with commas")
    parser.add_argument("--less", default="", help=f"rows that do less work: {', '.join(LESS)}, with commas")
    parser.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="mmjax's kernel")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of mmjax's system")
    parser.add_argument("--compile-mode", default="default", help="torch.compile's mode")
    parser.add_argument("--cache", type=pathlib.Path, help="keep compiled programs and weights there for another call")
    parser.add_argument("--add", action="store_true", help="add to the rounds in the file of --json")
    _table.add_arguments(parser)
    args = parser.parse_args()
    for name, valid in (("rows", _models.ROWS), ("sides", SIDES), ("less", LESS)):
        unknown = set(filter(None, getattr(args, name).split(","))) - set(valid)
        if unknown:
            parser.error(f"--{name} {', '.join(sorted(unknown))}; there are {', '.join(valid)}")
    if args.add and not args.json:
        parser.error("--add needs --json FILE")
    return args


def main() -> None:
    """Runs the rounds and prints the table of all of them."""
    args = parse()
    before = json.loads(args.json.read_text()) if args.add and args.json.is_file() else {"runs": [], "machine": None}
    runs: list[dict[str, Any]] = before["runs"]
    first = 1 + max((run["round"] for run in runs), default=-1)
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(first, first + args.pairs):
            for row in args.rows.split(","):
                runs += one_round(args, row, number, (args.cache or pathlib.Path(temporary)).absolute())
    if not runs:
        raise SystemExit("nothing was measured: --pairs 0 without rounds in the file of --json")
    device = next((run["device"] for run in runs if run["platform"] != "cpu"), None)
    title = "training step, wall and processor seconds (medians over rounds)"
    about = _table.machine(*PACKAGES, device=device) if args.pairs else before["machine"]
    _table.publish(title, about, table(runs), args.json, runs=runs)


def one_round(args: argparse.Namespace, row: str, number: int, folder: pathlib.Path) -> list[dict[str, Any]]:
    """One process for each side of a row, in the order of the round."""
    system, batch = _models.ROWS[row]
    system = full(system, args.act)
    weights, options = folder / f"{row}-{args.act}", dict(pair.split("=", 1) for pair in args.option)
    spec = {
        "system": system, "batch": args.batch or batch, "dtype": args.dtype, "norms": args.norms == "both",
        "steps": args.steps, "warmup": args.warmup, "weights": str(weights), "export": None, "compile": None,
        "text": None, "patch_drop": 0.0, "options": {"attention": args.attention, **options}, "peak": False,
        "keep_memory": args.memory == "kept",
    }  # fmt: skip
    key = {"row": row, "round": number, "batch": spec["batch"], "dtype": args.dtype, "act": args.act,
           "norms": args.norms, "memory": args.memory, "options": spec["options"]}  # fmt: skip
    plans = {
        "mmjax": ("_step_mmjax.py", {"peak": True}),
        "open_clip": ("_step_open_clip.py", {}),
        "open_clip compiled": ("_step_open_clip.py", {"compile": args.compile_mode}),
    }
    plans = {side: plan for side, plan in plans.items() if side in args.sides.split(",")}
    length = system["txt"]["length"]
    cut = next(size for size in range(8, length + 8, 8) if size >= 0.4 * length)
    if "text" in args.less.split(","):
        plans[f"text {cut}"] = ("_step_mmjax.py", {"text": cut})
    if "patches" in args.less.split(","):
        plans["patch drop 0.5"] = ("_step_mmjax.py", {"patch_drop": 0.5})
    if not weights.is_dir() and any("open_clip" in side for side in plans):
        run(folder, "_step_mmjax.py", {**spec, "export": str(weights)})
    done = []
    for side in plans if number % 2 == 0 else reversed(plans):
        script, changes = plans[side]
        found = run(folder, script, {**spec, **changes})
        median = _table.middle(found["wall"])
        print(f"round {number}, {row}, {side}: {median:.4f} s, compiled in {found['compile_s']:.1f} s", flush=True)
        flops = _models.step_flops(
            system, spec["batch"], text=changes.get("text"), patch_drop=changes.get("patch_drop", 0.0)
        )
        done.append({**key, "side": side, "flops": flops, **found})
    agree(row, done)
    return done


def full(system: dict[str, Any], act: str) -> dict[str, Any]:
    """The system with its published sizes spelled out; imported late, in the process that times nothing."""
    from mmjax.commands import models

    system = models.spelled_out(system)
    return system | {tower: system[tower] | {"act": act} for tower in ("img", "txt")}


def run(folder: pathlib.Path, script: str, spec: dict[str, Any]) -> dict[str, Any]:
    """What a process printed. Compiled programs are kept in the folder: only the first of a kind compiles."""
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "JAX_COMPILATION_CACHE_DIR": str(folder / "jax")}
    command = [sys.executable, str(HERE / script), json.dumps(spec)]
    path = os.pathsep.join(filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(command, env={**os.environ, **caches, "PYTHONPATH": path}, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{script} failed:\n{ended.stderr[-4000:]}")
    return json.loads(ended.stdout.splitlines()[-1]) if ended.stdout else {}


def agree(row: str, runs: list[dict[str, Any]]) -> None:
    """Raises SystemExit unless all sides of a row, patch dropout aside, have the same first losses and parameters."""
    equal = [one for one in runs if not one["side"].startswith("patch drop")]
    for one in equal[1:]:
        bound = 2e-4 if one["dtype"] == "float32" else 3e-2
        apart = max(abs(a - b) for a, b in zip(one["losses"], equal[0]["losses"], strict=True))
        if apart > bound or one["parameters"] != equal[0]["parameters"]:
            told = [f"{each['side']}: {each['losses']}, {each['parameters']} parameters" for each in (one, equal[0])]
            raise SystemExit(f"{row}: no equal work, by the first losses: {'; '.join(told)}")


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each model and side, from all rounds."""
    groups: dict[tuple, dict[str, list[dict[str, Any]]]] = {}
    for one in runs:
        group = (
            one["row"],
            one["batch"],
            one["dtype"],
            one["act"],
            one["norms"],
            one["memory"],
            json.dumps(one["options"]),
        )
        groups.setdefault(group, {}).setdefault(one["side"], []).append(one)
    rows = []
    for (name, batch, dtype, act, norms, memory, _), sides in groups.items():
        ours = {one["round"]: _table.middle(one["wall"]) for one in sides.get("mmjax", [])}
        peaks = [one["matmul_peak"] for one in sides.get("mmjax", [])]
        used = {one["round"]: _table.middle(one["cpu"]) for one in sides.get("mmjax", [])}
        for side, found in sorted(sides.items(), key=lambda item: (item[0] not in SIDES, item[0])):
            wall = [_table.middle(one["wall"]) for one in found]
            ratios = [_table.middle(one["wall"]) / ours[one["round"]] for one in found if one["round"] in ours]
            row = {
                "model": name,
                "batch": batch,
                "dtype": dtype,
                "act": act,
                "norms": norms,
                "memory": memory,
                "side": side,
            }
            row |= {"rounds": len(found), "wall s": _table.middle(wall)}
            row |= {"cpu s": _table.middle([_table.middle(one["cpu"]) for one in found])}
            row |= {"samples/s": batch / row["wall s"], "compile s": max(one["compile_s"] for one in found)}
            row["mfu"] = found[0]["flops"] / row["wall s"] / max(peaks) if peaks else None
            row |= {"ratio": None, "spread": None, "cpu ratio": None}
            if side != "mmjax" and ratios:
                row |= {"ratio": _table.middle(ratios), "spread": _table.spread(ratios)}
                by_cpu = [_table.middle(one["cpu"]) / used[one["round"]] for one in found if one["round"] in used]
                row["cpu ratio"] = _table.middle(by_cpu)
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
