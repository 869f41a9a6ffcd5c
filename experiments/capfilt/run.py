"""CapFilt on emoji_scenes whose share of wrong captions is known: bootstraps a BLIP's data, and trains anew on it.

    python experiments/capfilt/run.py [--workdir runs/capfilt] [--seeds 2] [--at-once 2] [--out DIR] [--smoke]

Killed and started again, it goes on; what has ended is not done again. README.md says what is asked.
"""

import json
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # what experiments share

import plot
from _arms import Arm, arguments, call, machine, run_arms, shares
from _summary import half_width, markdown, mean, signed, write

from mmjax.data.scenes.noise import KINDS
from mmjax.data.sources import open_source

HERE = pathlib.Path(__file__).resolve().parent
CONFIG = str(HERE.parents[1] / "configs" / "blip" / "emoji_scenes.py")
NOISE = 0.3
TEXTS = {"all": "", "wrong, other scene": KINDS[0], "wrong, swapped": KINDS[1], "wrong, reversed": KINDS[2]}


class Sizes:
    """How much of everything: of the experiment, or of its smoke form."""

    def __init__(self, smoke: bool) -> None:
        self.variant = "smoke" if smoke else ""
        # Part of the pictures -> (of how many, of which kind)
        few = {"easy": (24, "&kinds=1"), "mixed": (48, "")}
        many = {"easy": (5_000, "&kinds=1"), "mixed": (15_000, "")}
        self.parts = few if smoke else many
        self.clean, self.checked = (24, 24) if smoke else (5_000, 500)

    def web(self, part: str, noise: float) -> str:
        """The pictures with captions of which a share is wrong."""
        length, more = self.parts[part]
        return f"emoji_scenes:train?parts=image,captions&length={length}&noise={noise}{more}"

    def config(self, form: str = "") -> str:
        """The config and its variant."""
        variant = "_".join(filter(None, (form, self.variant)))
        return CONFIG + (f":{variant}" if variant else "")


def trained(name: str, sizes: Sizes, seed: int, parts: Mapping[str, str]) -> Arm:
    """A BLIP trained from nothing on the two parts of some data."""
    changes = [f"data.train={parts['mixed']}", f"stages.names.data.train={parts['easy']}"]
    if not sizes.variant:
        changes.append("evals.test_captions.data=emoji_scenes:test?length=1000")
    return Arm(name, sizes.config(), tuple(changes), seed)


def tuned(form: str, sizes: Sizes, seed: int, start: pathlib.Path) -> Arm:
    """The captioner or the filter: the first model, trained on with clean captions."""
    clean = f"emoji_scenes:train?parts=image,captions&seed=1&length={sizes.clean}"
    changes = [f"init={start}", f"data.train={clean}"]
    if form == "captioner" and not sizes.variant:
        changes.append("evals.test_captions.data=emoji_scenes:test?length=1000")
    return Arm(form, sizes.config(form), tuple(changes), seed)


def capfilt(
    data: str, output: pathlib.Path, seed: int, threshold: float, models: Mapping[str, pathlib.Path], share: set[int]
) -> dict:
    """The manifest of `mmjax capfilt`, run unless it is there."""
    command = [sys.executable, "-m", "mmjax.cli", "capfilt", "--data", data, "--output", str(output), "--shards", "4",
               "--captioner", str(models["captioner"]), "--filter", str(models["filter"]), "--seed", str(seed),
               "--min-length", "8", "--max-length", "24", f"--threshold={threshold}"]  # fmt: skip
    call(command, output.with_suffix(".log"), share)
    return json.loads((output / "manifest.json").read_text(encoding="utf-8"))


def decisions(output: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The rows that the job wrote, one a picture, in the order of the source."""
    for path in sorted(output.glob("decisions-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def scores(output: pathlib.Path, data: str) -> dict[str, np.ndarray]:
    """P(fits) of the web texts: `score`, whether each is `true`, and its `kind` of noise."""
    source, found = open_source(data.replace("parts=image,captions", "parts=captions")), []
    for row in decisions(output):
        kinds = source[row["index"]]["noise_kind"]
        web = [text for text in row["texts"] if text["source"] == "web"]
        found += [(text["score"], text["true"], kind) for text, kind in zip(web, kinds, strict=True)]
    score, true, kind = zip(*found, strict=True)
    return {"score": np.array(score), "true": np.array(true), "kind": np.array(kind)}


def best_threshold(found: Mapping[str, np.ndarray]) -> float:
    """The threshold at which the worse of two shares is best: wrong texts removed, right ones kept."""
    candidates = np.unique(found["score"].round(3)).clip(0.001, 0.999)
    right, wrong = (np.sort(found["score"][found["true"] == truth]) for truth in (True, False))
    kept = 1 - np.searchsorted(right, candidates) / len(right)
    removed = np.searchsorted(wrong, candidates) / len(wrong)
    return float(candidates[np.minimum(kept, removed).argmax()])


def one_seed(seed: int, sizes: Sizes, workdir: pathlib.Path, share: set[int]) -> dict[str, Any]:
    """The whole of CapFilt with one seed, on some cores: what the filter did, and the captioners before and after."""

    def run(arm: Arm) -> tuple[pathlib.Path, dict[str, Any]]:
        return arm.folder(workdir), run_arms([arm], workdir, within=share)[0]

    before = {part: sizes.web(part, NOISE) for part in sizes.parts}
    noisy, first = run(trained("noisy", sizes, seed, before))
    models, runs = {}, {"noisy": first}
    for form in ("captioner", "filter"):
        models[form], runs[form] = run(tuned(form, sizes, seed, noisy))
    # The threshold is chosen on scenes that nothing trains on, whose wrong captions are known.
    checked = f"emoji_scenes:val?parts=image,captions&length={sizes.checked}&noise={NOISE}"
    folder = workdir / "capfilt" / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    capfilt(checked, folder / "val", seed, 0.5, models, share)
    threshold = best_threshold(scores(folder / "val", checked))
    after, kept, counts = {}, [], []
    for part, data in before.items():
        manifest = capfilt(data, folder / part, seed, threshold, models, share)
        after[part] = manifest["opens_as"]
        counts.append(manifest["counts"])
        kept.append(scores(folder / part, data))
    found = {key: np.concatenate([part[key] for part in kept]) for key in kept[0]}
    for name, parts in (("cleaned", after), ("true", {part: sizes.web(part, 0.0) for part in sizes.parts})):
        runs[name] = run(trained(name, sizes, seed, parts))[1]
    return {
        "seed": seed,
        "threshold": threshold,
        "filter": {"right_kept": float((found["score"] >= threshold)[found["true"]].mean()),
                   "wrong_removed": {name: float((found["score"] < threshold)[_wrong(found, kind)].mean())
                                     for name, kind in TEXTS.items()},
                   "wrong": {name: int(_wrong(found, kind).sum()) for name, kind in TEXTS.items()}},
        "curve": curve(found),
        "counts": {key: sum(each[key] for each in counts) for key in counts[0]},
        "runs": {name: {key: value for key, value in result.items() if key != "config"}
                 for name, result in runs.items()},
        "train_s": sum(result["train_s"] for result in runs.values()),
    }  # fmt: skip


def _wrong(found: Mapping[str, np.ndarray], kind: str) -> np.ndarray:
    return found["kind"] == kind if kind else ~found["true"]


def curve(found: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Shares over thresholds: right texts kept, wrong ones removed (precision of the kept ones follows)."""
    thresholds = [round(0.02 * place, 2) for place in range(1, 50)]
    out: dict[str, list[float]] = {"threshold": thresholds, "right_kept": [], "wrong_removed": [], "precision": []}
    for threshold in thresholds:
        keep = found["score"] >= threshold
        out["right_kept"].append(float(keep[found["true"]].mean()))
        out["wrong_removed"].append(float(1 - keep[~found["true"]].mean()))
        out["precision"].append(float(found["true"][keep].mean()) if keep.any() else 1.0)
    return out


ARMS = {"noisy": f"web captions, {NOISE:.0%} wrong", "captioner": "the same, its writing trained on with clean ones",
        "cleaned": "what CapFilt kept, and wrote", "true": "the web's pictures, every caption true"}  # fmt: skip
CAPTIONS = {"CIDEr": "CIDEr-D", "Bleu_4": "BLEU-4", "ROUGE_L": "ROUGE-L"}


def section(data: Mapping[str, Any]) -> str:
    """The results as README.md has them."""
    about, seeds = data["machine"], data["seeds"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())

    def metric(arm: str, name: str) -> list[float]:
        return [seed["runs"][arm]["metrics"][f"test_captions/{name}"] for seed in seeds]

    written = [
        {"trained on": words, **{shown: mean(metric(arm, name), digits=3) for name, shown in CAPTIONS.items()}}
        for arm, words in ARMS.items()
    ]
    gains = [a - b for a, b in zip(metric("cleaned", "CIDEr"), metric("noisy", "CIDEr"), strict=True)]
    judged = [
        {
            "texts": name,
            "of": f"{statistics.fmean(seed['filter']['wrong'][name] for seed in seeds):,.0f}",
            "removed, %": mean([seed["filter"]["wrong_removed"][name] for seed in seeds], 100),
        }
        for name in TEXTS
    ]
    total = [seed["counts"] for seed in seeds]
    right = [count["right"] for count in total]
    judged.append({"texts": "right", "of": f"{statistics.fmean(right):,.0f}",
                   "removed, %": mean([1 - seed["filter"]["right_kept"] for seed in seeds], 100)})  # fmt: skip
    precision = [seed["filter"]["right_kept"] * count["right"] / max(count["web_kept"], 1)
                 for seed, count in zip(seeds, total, strict=True)]  # fmt: skip
    synthetic = [count["synthetic_kept"] / max(count["synthetic"], 1) for count in total]
    return "\n\n".join([
        f"{about['device']}, cores: {about['cores']}; {versions}. Seeds: {len(seeds)}, {data['at_once']} at "
        f"once. The trainings of a seed took {statistics.fmean(seed['train_s'] for seed in seeds) / 60:.0f} minutes.",
        "### The filter on the web's captions",
        markdown(judged),
        f"Threshold, chosen on val: {mean([seed['threshold'] for seed in seeds], digits=3)}. Of the captions that it "
        f"keeps {mean(precision, 100)} % are right (before: {100 * right[0] / (right[0] + total[0]['wrong']):.1f} %); "
        f"of those that the captioner wrote it keeps {mean(synthetic, 100)} %.",
        "### Captioners, on 1,000 unseen compositions",
        markdown(written),
        f"Cleaned − noisy, CIDEr-D, by seed: "
        f"{signed(statistics.fmean(gains), half_width(gains), digits=3)}.",
        "![the filter's shares over its threshold, and the captioners](capfilt.png)",
    ])  # fmt: skip


def main() -> None:
    """Runs, sums up, draws."""
    args = arguments(__doc__, HERE, seeds=2)
    sizes, at_once = Sizes(args.smoke), min(args.at_once, args.seeds)
    free = list(shares(at_once))
    pools = [ThreadPoolExecutor(1) for _ in free]
    ran = [
        pools[seed % at_once].submit(one_seed, seed, sizes, args.workdir, free[seed % at_once])
        for seed in range(args.seeds)
    ]
    data = {
        "title": "CapFilt on emoji scenes",
        "machine": machine("jax"),
        "noise": NOISE,
        "at_once": at_once,
        "seeds": [each.result() for each in ran],
    }
    write(args.out, "capfilt", data, section(data))
    plot.draw(args.out)


if __name__ == "__main__":
    main()
