"""The look of all pictures: one headline, few lines, each labelled where it ends instead of in a legend."""

from __future__ import annotations

from typing import IO, Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.palette import COLOURS, LABELS

_LEFT = 0.06
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#444444",
    "axes.titlelocation": "left",
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": "#222222",
    "axes.titlepad": 12,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "ytick.left": False,
    "lines.linewidth": 2.4,
    "lines.solid_capstyle": "round",
}


def canvas(headline: str, explanation: str, panels: int) -> tuple[Figure, list[Axes]]:
    """An empty picture with its headline, and the panels side by side."""
    pyplot.rcParams.update(_STYLE)
    figure, axes = pyplot.subplots(1, panels, figsize=(11, 5), dpi=160, squeeze=False)
    figure.text(_LEFT, 0.95, headline, fontsize=19, fontweight="bold", color="#111111", va="top")
    figure.text(_LEFT, 0.868, explanation, fontsize=11, color="#555555", va="top")
    figure.subplots_adjust(left=_LEFT, right=0.89, top=0.715, bottom=0.115, wspace=0.46)
    return figure, list(axes[0])


def whole_ticks(axes: Axes, last: int) -> None:
    """An x axis from 1 to ``last`` that is marked at whole numbers."""
    axes.set_xlim(0.6, last + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))


def end_label(method: str) -> str:
    """A method's name for `label_ends`, in short lines."""
    return LABELS[method].replace(" ", "\n")


def label_ends(axes: Axes, x: float, ends: dict[str, tuple[float, str]], apart: float = 16.0) -> None:
    """Write each method's label beside the end of its line, at least ``apart`` percent of the axis from the
    next.
    """
    bottom, top = axes.get_ylim()
    gap = apart / 100 * (top - bottom)
    lowest = bottom + gap / 3
    for method, (y, text) in sorted(ends.items(), key=lambda item: item[1][0]):
        place = max(y, lowest)
        lowest = place + gap
        axes.annotate(
            text,
            (x, place),
            (9, 0),
            textcoords="offset points",
            va="center",
            color=COLOURS[method],
            fontweight="bold",
            annotation_clip=False,
            linespacing=1.25,
        )


def save(figure: Figure, file: IO[bytes]) -> None:
    """Write the picture as PNG."""
    options: dict[str, Any] = {"format": "png", "facecolor": "white"}
    figure.savefig(file, **options)
    pyplot.close(figure)
