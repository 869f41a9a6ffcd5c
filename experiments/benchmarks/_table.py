"""What the benchmarks share: the machine that they ran on, statistics over rounds, one table as text and as JSON."""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--json`, which every benchmark takes."""
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the table as JSON, too")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """The processor's name, as the system knows it."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine(*packages: str, device: str | None = None) -> dict[str, Any]:
    """Device, cores, and the versions of Python and of these packages (of those that are installed)."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"device": device or processor(), "cores": cores(), "versions": versions}


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The smallest and the largest value: '0.98–1.04'."""
    return f"{min(values):.{digits}f}–{max(values):.{digits}f}"


def show(title: str, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as text: a title, the machine, a head and one line a row; columns are the keys of all rows."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    cells = [heads, *([_cell(row.get(key)) for key in heads] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(heads))]
    left = [any(isinstance(row.get(key), str) for row in rows) for key in heads]
    lines = [
        "  ".join(cell.ljust(width) if flush else cell.rjust(width)
                  for cell, width, flush in zip(line, widths, left, strict=True)).rstrip()
        for line in cells
    ]  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return "\n".join([title, f"{about['device']}, {about['cores']} cores; {versions}", "", *lines])


def publish(
    title: str, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], path: pathlib.Path | None, **more: Any
) -> None:
    """Prints the table; with a path, writes it as JSON: `title`, `machine`, `rows` and what is in `more`."""
    print(show(title, about, rows), flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"title": title, "machine": about, "rows": list(rows), **more}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 0.01 else f"{value:.1e}"
    return str(value)
