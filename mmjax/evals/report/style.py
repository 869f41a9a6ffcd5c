"""One look for all figures, and figures as PNG."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

INK, MUTED, LINE, PAPER = "#1c2430", "#6b7686", "#dfe4ea", "#ffffff"
BLUE, GREEN, ORANGE = "#2f6fde", "#1a8f5a", "#d9622b"
SERIES = (BLUE, ORANGE, GREEN, "#8a5cd6", "#b8860b", "#c2418a", "#3a9fb5", "#6b7686")
SCALE = LinearSegmentedColormap.from_list("similarity", ("#ffffff", "#dbe7fb", "#8db3f2", "#2f6fde", "#173f8a"))

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # labels are texts of a data set: a $ in them is a $
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eef1f5",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


@contextmanager
def look() -> Iterator[None]:
    """The settings under which figures are made and saved."""
    with matplotlib.rc_context(_RC):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches, drawn by Agg without pyplot's global state."""
    figure = Figure(figsize=(width, height), dpi=150, layout=None)
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as PNG, with no date or version in it: the same figure gives the same bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def frame(axes: Axes, x: float, y: float, width: float, height: float, color: str, line: float = 1.6) -> None:
    """A rounded outline around a box in data coordinates."""
    patch = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle=f"round,pad=0,rounding_size={0.08 * min(abs(width), abs(height))}",
        fill=False,
        edgecolor=color,
        linewidth=line,
        clip_on=False,
        zorder=5,
    )
    axes.add_patch(patch)


def shorten(text: str, length: int) -> str:
    """A text of at most `length` characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
