"""The look of all pictures: one headline, few lines, each labelled where it ends instead of in a legend."""

from __future__ import annotations

from typing import IO, Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    figure, axes = _empty(headline, explanation, 1, panels, (11, 5), dpi=160)
    figure.subplots_adjust(left=_LEFT, right=0.89, top=0.715, bottom=0.115, wspace=0.46)
    return figure, axes


def wide_canvas(headline: str, explanation: str, panels: int) -> tuple[Figure, list[Axes]]:
    """The same with room for long labels beside the panels, which stand in two columns."""
    rows, height = -(-panels // 2), 5.2 + 4.0 * (-(-panels // 2) - 1)
    figure, axes = _empty(headline, explanation, rows, min(panels, 2), (13.5, height), dpi=110)
    figure.subplots_adjust(
        left=_LEFT, right=0.83, top=1 - 1.6 / height, bottom=0.575 / height, wspace=0.62, hspace=0.4 if rows > 1 else 0
    )
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def _empty(
    headline: str, explanation: str, rows: int, columns: int, size: tuple[float, float], dpi: int
) -> tuple[Figure, list[Axes]]:
    pyplot.rcParams.update(_STYLE)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, dpi=dpi, squeeze=False)
    figure.text(_LEFT, 1 - 0.25 / size[1], headline, fontsize=19, fontweight="bold", color="#111111", va="top")
    figure.text(_LEFT, 1 - 0.66 / size[1], explanation, fontsize=11, color="#555555", va="top", linespacing=1.4)
    return figure, list(axes.flat)


def label_ends(axes: Axes, x: float, ends: list[tuple[float, str, str]], apart: float = 6.5) -> None:
    """Write each label (y, text, colour) beside its line's end, at least ``apart`` percent of the axis apart."""
    bottom, top = axes.get_ylim()
    gap = apart / 100 * (top - bottom)
    places = sorted(ends)
    lowest = bottom
    heights = []
    for y, _, _ in places:
        heights.append(max(y, lowest))
        lowest = heights[-1] + gap
    over = max(0.0, heights[-1] - top) if heights else 0.0
    for i in reversed(range(len(heights))):  # what stands above the axis pushes the others down
        limit = top if i == len(heights) - 1 else heights[i + 1] - gap
        heights[i] = min(heights[i], limit) if over else heights[i]
    for (_, text, colour), place in zip(places, heights, strict=True):
        axes.annotate(
            text,
            (x, place),
            (9, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9.5,
            fontweight="bold",
            annotation_clip=False,
        )


def save(figure: Figure, file: IO[bytes]) -> None:
    """Write the picture as PNG."""
    options: dict[str, Any] = {"format": "png", "facecolor": "white"}
    figure.savefig(file, **options)
    pyplot.close(figure)
