"""Layout and style of all pictures: a headline, an explanation, and panels whose lines are labelled at their ends."""

from __future__ import annotations

import textwrap
from typing import IO, Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

WIDTH = 13.5  # inches, like all lengths here
LEFT = 0.8
_HEADLINE, _EXPLANATION, _EXPLANATION_SIZE = 0.28, 0.74, 11.0
_LINE = 0.225  # of the explanation
_TO_TITLE, _BOTTOM = 0.62, 0.62
_DPI = 130
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
    """A figure with headline and explanation, and its panels side by side."""
    pyplot.rcParams.update(_STYLE)
    figure, axes = pyplot.subplots(1, panels, figsize=(11, 5), dpi=160, squeeze=False)
    figure.text(0.06, 0.95, headline, fontsize=19, fontweight="bold", color="#111111", va="top")
    figure.text(0.06, 0.868, explanation, fontsize=11, color="#555555", va="top", linespacing=1.4)
    figure.subplots_adjust(left=0.06, right=0.89, top=0.715, bottom=0.115, wspace=0.46)
    return figure, list(axes.flat)


def new_figure(headline: str, explanation: list[str], body: float) -> tuple[Figure, float]:
    """A figure with headline and explanation above ``body`` inches for panels. Returns it and its height.

    The explanation is wrapped; a headline that is too long for its line gets a smaller font.
    """
    pyplot.rcParams.update(_STYLE)
    room = WIDTH - 2 * LEFT
    lines = wrap_sentences(explanation, room, _EXPLANATION_SIZE)
    height = _EXPLANATION + _LINE * len(lines) + _TO_TITLE + body + _BOTTOM
    figure = pyplot.figure(figsize=(WIDTH, height), dpi=_DPI)
    size = min(19.0, 19.0 * room / text_width(headline, 19.0, bold=True))
    style: dict[str, Any] = {"va": "top", "x": LEFT / WIDTH}
    figure.text(y=1 - _HEADLINE / height, s=headline, fontsize=size, fontweight="bold", color="#111111", **style)
    style |= {"fontsize": _EXPLANATION_SIZE, "color": "#555555", "linespacing": 1.4}
    figure.text(y=1 - _EXPLANATION / height, s="\n".join(lines), **style)
    return figure, height


def add_panel(figure: Figure, left: float, bottom: float, wide: float, high: float, title: str, size: float) -> Axes:
    """Add a panel whose lower edge is ``bottom`` inches above that of the lowest panel."""
    height = figure.get_figheight()
    axes = figure.add_axes((left / WIDTH, (_BOTTOM + bottom) / height, wide / WIDTH, high / height))
    axes.set_title(title, fontsize=size, pad=0.8 * size)
    return axes


def choose_ticks(axis: Axis, **options: Any) -> None:
    """Set options of the `matplotlib.ticker.MaxNLocator` that chooses the numbers of an axis."""
    locator = axis.get_major_locator()
    assert isinstance(locator, MaxNLocator)
    locator.set_params(**options)


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a line of text."""
    font = FontProperties(family="sans-serif", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width) / 72 if text.strip() else 0.0


def wrap_sentences(sentences: list[str], room: float, size: float) -> list[str]:
    """Sentences as lines no wider than ``room``: several on a line if they fit, one per line otherwise, wrapped if too
    long.
    """
    lines: list[str] = []
    for sentence in sentences:
        joined = f"{lines[-1]} {sentence}" if lines else sentence
        wide = text_width(sentence, size)
        if lines and text_width(joined, size) <= room:
            lines[-1] = joined
        elif wide <= room:
            lines.append(sentence)
        else:
            lines += textwrap.wrap(sentence, int(0.97 * len(sentence) * room / wide))
    return lines


def short_number(number: float) -> str:
    """A number for an axis.

    >>> short_number(5), short_number(20_000), short_number(1_500_000)
    ('5', '20k', '1.5M')
    """
    if abs(number) >= 1e6:
        return f"{number / 1e6:g}M"
    return f"{number / 1e3:g}k" if abs(number) >= 1e3 else f"{number:g}"


def save(figure: Figure, file: IO[bytes]) -> None:
    """Write the picture as PNG."""
    options: dict[str, Any] = {"format": "png", "facecolor": "white"}
    figure.savefig(file, **options)
    pyplot.close(figure)
