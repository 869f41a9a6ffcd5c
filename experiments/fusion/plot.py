"""Draws results/fusion.json as fusion.png: every difference, the seeds as dots, the interval as a bar.

python experiments/fusion/plot.py
"""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).resolve().parent
COLOURS = ("#33658a", "#f6ae2d", "#86bbd8", "#f26419")  # a metric each


def draw(folder: pathlib.Path) -> None:
    """One panel a question; above 0 the claim holds."""
    data = json.loads((folder / "results" / "fusion.json").read_text(encoding="utf-8"))
    figure, axes = plt.subplots(1, len(data["questions"]), figsize=(16, 4.5), layout="constrained")
    metrics = list(dict.fromkeys(row["metric"] for row in data["rows"]))
    for axis, (question, title) in zip(axes, data["questions"].items(), strict=True):
        shown = [row for row in data["rows"] if row["question"] == question]
        groups = list(dict.fromkeys(row["compared"] for row in shown))
        for row in shown:
            number = metrics.index(row["metric"])
            place = groups.index(row["compared"]) + 0.2 * (number - (len(metrics) - 1) / 2)
            first = row["compared"] == groups[0]
            axis.errorbar(
                place, row["difference"], yerr=row["half"], fmt="s", capsize=3, color=COLOURS[number],
                label=row["metric"].replace("_", " ") if first else None,
            )  # fmt: skip
            seeds = row["differences"]
            axis.plot([place] * len(seeds), seeds, "o", markersize=3, color="black", alpha=0.5)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set_xticks(range(len(groups)), [group.replace(", ", "\n") for group in groups], fontsize=8)
        axis.set_xlim(-0.6, len(groups) - 0.4)
        axis.set_title(f"{title}, points of recall")
    axes[0].legend(fontsize=8)
    figure.savefig(folder / "fusion.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    draw(HERE)
