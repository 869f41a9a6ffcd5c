"""What experiments share to sum up their runs: intervals over seeds, tables in Markdown, a README's results."""

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import scipy.stats

from mmjax.core import files

BEGIN, END = "<!-- results: written by the driver -->", "<!-- end of results -->"


def half_width(values: Sequence[float], level: float = 0.95) -> float | None:
    """Half of Student's interval of the mean of independent values, one a seed; None of a single one.

    t_{(1 + level) / 2, n - 1} · s / √n, where s is the standard deviation with n - 1. Of differences between two arms
    at the same seeds, that is the paired interval.
    """
    if len(values) < 2:
        return None
    quantile = float(scipy.stats.t.ppf((1 + level) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / len(values) ** 0.5


def mean(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """'81.2 ± 1.0', or '81.2' of one value; with Student's interval."""
    half = half_width([scale * value for value in values])
    return f"{scale * statistics.fmean(values):.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def write(out: pathlib.Path, name: str, data: Mapping[str, Any], text: str) -> None:
    """results/NAME.json and .md, the README's section where there is one, and the text on the screen."""
    (out / "results").mkdir(parents=True, exist_ok=True)
    files.write_text(out / "results" / f"{name}.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    files.write_text(out / "results" / f"{name}.md", text + "\n")
    if (out / "README.md").is_file():
        fill(out / "README.md", text)
    print(text)


def signed(value: float, half: float | None, digits: int = 1) -> str:
    """'+3.1 ± 1.2', or '+3.1 (one seed)'."""
    return f"{value:+.{digits}f} " + (f"± {half:.{digits}f}" if half is not None else "(one seed)")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table whose columns are the keys of the first row."""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([str(row[head]) for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(readme: pathlib.Path, text: str) -> None:
    """Puts a text in the place of what stands between BEGIN and END.

    Raises:
      ValueError: the file has no such place, or more than one.
    """
    before, *found = readme.read_text(encoding="utf-8").split(BEGIN)
    if len(found) != 1 or found[0].count(END) != 1:
        raise ValueError(f"{readme}: no place for results: {BEGIN} … {END}, once")
    after = found[0].partition(END)[2]
    files.write_text(readme, f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}")
