"""Draws results/masked_data.json as masked_data.png: every difference, the seeds as dots, the interval as a bar.

python experiments/masked_data/plot.py
"""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # what experiments share

from _compare import draw

if __name__ == "__main__":
    draw(pathlib.Path(__file__).resolve().parent, "masked_data")
