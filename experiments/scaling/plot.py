"""Draws results/sharding_memory.json as sharding_memory.png: memory per device on every mesh.

python experiments/scaling/plot.py
"""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
PARTS = (("state MiB", "parameters and moments", "#33658a"), ("temporaries MiB", "temporaries", "#f6ae2d"))


def main() -> None:
    """One panel a model, one bar a mesh."""
    rows = json.loads((HERE / "results" / "sharding_memory.json").read_text())["rows"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = plt.subplots(1, len(models), figsize=(7 * len(models), 3.6), squeeze=False, layout="constrained")
    for axis, model in zip(axes[0], models, strict=True):
        shown = [row for row in rows if row["model"] == model]
        left = [0.0] * len(shown)
        for key, label, colour in PARTS:
            values = [row[key] for row in shown]
            axis.barh([row["mesh"] for row in shown], values, left=left, label=label, color=colour)
            left = [a + b for a, b in zip(left, values, strict=True)]
        axis.invert_yaxis()
        axis.set_xlabel("MiB per device")
        axis.set_title(f"{model}, batch {shown[0]['batch']}")
        axis.legend(loc="lower right")
    figure.savefig(HERE / "sharding_memory.png", dpi=120)


if __name__ == "__main__":
    main()
