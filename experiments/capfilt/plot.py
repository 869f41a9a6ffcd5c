"""Draws results/capfilt.json as capfilt.png: the filter's shares over its threshold, and the captioners' CIDEr-D.

python experiments/capfilt/plot.py
"""

import json
import pathlib
import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).resolve().parent
CURVES = {"right_kept": ("right captions kept", "#33658a"), "wrong_removed": ("wrong captions removed", "#f26419"),
          "precision": ("right among the kept", "#86bbd8")}  # fmt: skip


def draw(folder: pathlib.Path) -> None:
    """Two panels; a thin line or a dot is one seed."""
    seeds = json.loads((folder / "results" / "capfilt.json").read_text(encoding="utf-8"))["seeds"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, (label, colour) in CURVES.items():
        for number, seed in enumerate(seeds):
            left.plot(seed["curve"]["threshold"], seed["curve"][name], color=colour, label=None if number else label)
    for seed in seeds:
        left.axvline(seed["threshold"], color="grey", linestyle=":", linewidth=1)
    left.axhline(0.8, color="grey", linewidth=0.5)
    left.set_xlabel("threshold on P(fits); dotted: chosen on val")
    left.set_ylabel("share of the web's captions")
    left.legend(fontsize=8)
    arms = list(seeds[0]["runs"])
    arms.remove("filter")
    for place, arm in enumerate(arms):
        values = [seed["runs"][arm]["metrics"]["test_captions/CIDEr"] for seed in seeds]
        right.bar(place, statistics.fmean(values), color="#86bbd8")
        right.plot([place] * len(values), values, "o", markersize=4, color="black")
    right.set_xticks(range(len(arms)), arms)
    right.set_ylabel("CIDEr-D, unseen compositions")
    figure.savefig(folder / "capfilt.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    draw(HERE)
