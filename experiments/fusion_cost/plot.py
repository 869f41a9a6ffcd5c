"""Draws results/fusion_cost.json as fusion_cost.png: recall of CoCa and ALBEF after the same seconds of training.

python experiments/fusion_cost/plot.py
"""

import json
import pathlib
import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).resolve().parent
WAYS = {
    "CoCa, cosine": ("coca", "scenes_retrieval/", "#33658a"),
    "ALBEF, cosine": ("albef", "scenes/cosine/", "#f6ae2d"),
    "ALBEF, re-ranked": ("albef", "scenes/", "#f26419"),
}
METRICS = ("text_to_image_R@1", "text_to_image_R@5", "image_to_text_R@1", "image_to_text_R@5")


def draw(folder: pathlib.Path) -> None:
    """A group of bars a metric; a dot is one seed."""
    data = json.loads((folder / "results" / "fusion_cost.json").read_text(encoding="utf-8"))
    figure, axis = plt.subplots(figsize=(9, 4.2), layout="constrained")
    for number, (way, (arm, prefix, colour)) in enumerate(WAYS.items()):
        for place, metric in enumerate(METRICS):
            values = [100 * run["metrics"][prefix + metric] for run in data["runs"] if run["arm"] == arm]
            at = place + 0.27 * (number - 1)
            axis.bar(at, statistics.fmean(values), width=0.25, color=colour, label=None if place else way)
            axis.plot([at] * len(values), values, "o", markersize=3, color="black")
    axis.set_xticks(range(len(METRICS)), [metric.replace("_", " ") for metric in METRICS], fontsize=8)
    axis.set_ylabel(f"% of 500 unseen scenes, after {data['seconds']:.0f} s of training")
    axis.legend(fontsize=8)
    figure.savefig(folder / "fusion_cost.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    draw(HERE)
