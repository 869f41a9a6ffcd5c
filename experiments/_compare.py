"""What experiments share that compare two sides at the same seeds: differences with their intervals, tables, a plot.

A question has a title and comparisons; a comparison is of two sides, each an arm and the prefix of its metrics, which
are shares with a bootstrap interval (`…_lo`, `…_hi`) or plain numbers.
"""

import json
import pathlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from _arms import cores, machine
from _summary import half_width, markdown, signed

from mmjax.core import files

COSINE, FUSED = "scenes/cosine/", "scenes/"  # prefixes of the metrics of an evaluator `rerank` called `scenes`
ORDERS = {COSINE: "cosine", FUSED: "re-ranked"}
RECALLS = {f"{a}_to_{b}_R@{k}": f"{a} → {b} R@{k}" for a, b in (("text", "image"), ("image", "text")) for k in (1, 5)}
COLOURS = ("#33658a", "#f6ae2d", "#86bbd8", "#f26419")  # a metric each


class Comparison(NamedTuple):
    """Two sides that differ in one thing: (arm, prefix of the metrics) without it and with it."""

    name: str
    without: tuple[str, str]
    having: tuple[str, str]


Questions = Mapping[str, tuple[str, Sequence[Comparison]]]
"""Question -> (title, what is compared)."""


def rows(results: Sequence[Mapping[str, Any]], questions: Questions, metrics: Sequence[str]) -> Iterator[dict]:
    """A row for each comparison and metric, in percent; differences are by seed, in the order of the seeds."""
    runs = {(result["arm"], result["seed"]): result["metrics"] for result in results}
    seeds = sorted({seed for _, seed in runs})

    def side(arm: str, name: str) -> list[list[float]]:
        """(value, lower, upper) of each seed; a metric without an interval is its own."""
        found = [runs[arm, seed] for seed in seeds]
        return [[100 * one.get(f"{name}{end}", one[name]) for end in ("", "_lo", "_hi")] for one in found]

    for question, (_, comparisons) in questions.items():
        for each in comparisons:
            for metric in metrics:
                names = {"without": each.without, "having": each.having}
                if any(prefix + metric not in runs[arm, seeds[0]] for arm, prefix in names.values()):
                    continue  # not of this comparison
                sides = {name: side(arm, prefix + metric) for name, (arm, prefix) in names.items()}
                pairs = zip(sides["without"], sides["having"], strict=True)
                differences = [after[0] - before[0] for before, after in pairs]
                row: dict[str, Any] = {"question": question, "compared": each.name, "metric": metric}
                for name, values in sides.items():
                    mean, low, high = (statistics.fmean(column) for column in zip(*values, strict=True))
                    row[name] = {"mean": mean, "half": half_width([v[0] for v in values]), "queries": [low, high]}
                row |= {"difference": statistics.fmean(differences), "half": half_width(differences)}
                yield row | {"differences": differences}


def summary(
    args: Any, results: Sequence[Mapping[str, Any]], questions: Questions, metrics: Sequence[str]
) -> dict[str, Any]:
    """What every results/NAME.json of a comparison has; `args`: of `_arms.arguments`."""
    return {
        "machine": machine("jax"),
        "seeds": args.seeds,
        "at_once": args.at_once,
        "questions": {name: title for name, (title, _) in questions.items()},
        "rows": list(rows(results, questions, metrics)),
        "runs": [{key: value for key, value in result.items() if key != "config"} for result in results],
    }


def side(found: Mapping[str, Any]) -> str:
    """'41.2 ± 2.0 [38.9, 43.4]', or without the brackets where a metric has no interval."""
    half = "" if found["half"] is None else f" ± {found['half']:.1f}"
    low, high = found["queries"]
    return f"{found['mean']:.1f}{half}" + (f" [{low:.1f}, {high:.1f}]" if low < high else "")


def table(data: Mapping[str, Any], question: str, metrics: Mapping[str, str]) -> str:
    """The rows of a question; `metrics`: name -> how it is shown."""
    title = data["questions"][question]
    return markdown([
        {
            "compared": row["compared"],
            "metric": metrics[row["metric"]],
            "without": side(row["without"]),
            "with": side(row["having"]),
            title: signed(row["difference"], row["half"]),
        }
        for row in data["rows"]
        if row["question"] == question
    ])  # fmt: skip


def versions(data: Mapping[str, Any]) -> str:
    """'AMD EPYC, cores: 2; jax 0.10.2. Seeds: 3.'"""
    about = data["machine"]
    found = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{about['device']}, cores: {about['cores']}; {found}. Seeds: {data['seeds']}."


def evaluator_seconds(folder: pathlib.Path, name: str) -> dict[str, float]:
    """What ranking by cosine and re-ranking take on the data of a run's evaluator; of two runs the second, in which
    nothing compiles. Measured once, kept beside the run."""
    kept = folder.parent / "evaluator_seconds.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    import mmjax
    from mmjax.evals.build import build_evaluator

    model = mmjax.load(folder)
    spec = dict(model.config["evals"][name])
    plain = {key: value for key, value in spec.items() if key not in ("nearest", "score")} | {"kind": "retrieval"}
    found: dict[str, float] = {"cores": cores()}
    for way, options in (("cosine", plain), ("re-ranked", spec)):
        evaluator = build_evaluator(name, options, model.tools)
        for _ in range(2):
            start = time.perf_counter()
            dict(evaluator.run(model.predictor))
            found[way] = time.perf_counter() - start
    files.write_text(kept, json.dumps(found) + "\n")
    return found


def draw(folder: pathlib.Path, name: str) -> None:
    """results/NAME.json as NAME.png: one panel a question, the seeds as dots, the interval as a bar."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    data = json.loads((folder / "results" / f"{name}.json").read_text(encoding="utf-8"))
    questions = data["questions"]
    figure, axes = plt.subplots(1, len(questions), figsize=(5.4 * len(questions), 4.5), layout="constrained")
    metrics = list(dict.fromkeys(row["metric"] for row in data["rows"]))
    for axis, (question, title) in zip([axes] if len(questions) == 1 else axes, questions.items(), strict=True):
        shown = [row for row in data["rows"] if row["question"] == question]
        groups = list(dict.fromkeys(row["compared"] for row in shown))
        labelled = set[str]()
        for row in shown:
            number = metrics.index(row["metric"])
            place = groups.index(row["compared"]) + 0.2 * (number - (len(metrics) - 1) / 2)
            label = None if row["metric"] in labelled else row["metric"].replace("_", " ")
            labelled.add(row["metric"])
            axis.errorbar(place, row["difference"], yerr=row["half"], fmt="s", capsize=3, label=label,
                          color=COLOURS[number % len(COLOURS)])  # fmt: skip
            seeds = row["differences"]
            axis.plot([place] * len(seeds), seeds, "o", markersize=3, color="black", alpha=0.5)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set_xticks(range(len(groups)), [group.replace(", ", "\n") for group in groups], fontsize=8)
        axis.set_xlim(-0.6, len(groups) - 0.4)
        axis.set_title(f"{title}, points", fontsize=10)
        axis.legend(fontsize=8)
    figure.savefig(folder / f"{name}.png", dpi=120)
    plt.close(figure)
