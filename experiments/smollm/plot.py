"""Draws results/smollm.json as smollm.png: accuracy by kind of question, and the first scenes with their answers.

python experiments/smollm/plot.py
"""

import json
import pathlib
import textwrap

WAYS = {"with the picture": "#33658a", "blank picture": "#86bbd8", "commonest answer": "#bbbbbb"}
SCENES = "emoji_scenes:test?size=64&parts=image"


def draw(folder: pathlib.Path) -> None:
    """Bars above, scenes below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mmjax.data.sources import open_source

    data = json.loads((folder / "results" / "smollm.json").read_text(encoding="utf-8"))
    scenes = sorted({each["scene"] for each in data["samples"]})
    figure = plt.figure(figsize=(11, 4 + 4.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(4, 4.2))
    axis = above.subplots()
    for number, (way, colour) in enumerate(WAYS.items()):
        places = [place + 0.27 * (number - 1) for place in range(len(data["rows"]))]
        axis.bar(places, [row[way]["mean"] for row in data["rows"]], 0.25, color=colour, label=way,
                 yerr=[row[way]["half"] or 0 for row in data["rows"]])  # fmt: skip
    axis.set_xticks(range(len(data["rows"])), [textwrap.fill(row["kind"], 16) for row in data["rows"]], fontsize=8)
    axis.set_ylabel("right answers, %")
    axis.legend(fontsize=8)
    source = open_source(SCENES)
    for axis, scene in zip(below.subplots(1, len(scenes), squeeze=False)[0], scenes, strict=True):
        axis.imshow(source[scene]["image"])
        axis.axis("off")
        lines = [f"{each['question']}\n→ {each['with the picture'] or '(nothing)'} [{each['right']}]"
                 for each in data["samples"] if each["scene"] == scene]  # fmt: skip
        text = "\n".join(textwrap.fill(line, 30) for lines in lines for line in lines.split("\n"))
        axis.set_title(text, fontsize=6, y=-0.05, verticalalignment="top")
    figure.savefig(folder / "smollm.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    draw(pathlib.Path(__file__).resolve().parent)
