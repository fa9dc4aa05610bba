"""The picture of a comparison: the main figure over time beside dead units, rank and weights, with 95% intervals."""

from __future__ import annotations

from typing import IO

from matplotlib.axes import Axes

from benchmarks.display import Display, Figure
from benchmarks.headline import headline
from benchmarks.palette import COLOURS
from benchmarks.plots import label_ends, save, wide_canvas
from benchmarks.summary import Line

STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1, 1, 1, 1, 1)))


def picture(lines: list[Line], display: Display, file: IO[bytes], panels: int = 4) -> None:
    """Draw it as PNG. ``panels``: how many figures at most."""
    lines = [line for line in lines if line.complete]
    present = [figure for figure in display.others if any(line.has(figure.name) for line in lines)]
    figures = [display.main, *present][:panels]
    seeds = sorted({seed for line in lines for seed in line.complete})
    band = "; bands: 95% intervals" if any(len(line.complete) > 1 for line in lines) else ""
    explanation = f"{display.about(lines[0].settings)}\n{_seeds(seeds)}{band}"
    drawn, panel_axes = wide_canvas(headline(lines, display), explanation, panels=len(figures))
    styles = _styles(lines)
    for axes, figure in zip(panel_axes, figures, strict=True):
        _panel(axes, lines, display, figure, styles)
    save(drawn, file)


def _seeds(seeds: list[int]) -> str:
    """Which seeds, in words.

    >>> _seeds([3]), _seeds([0, 1, 2]), _seeds([0, 2])
    ('seed 3', '3 seeds, 0 to 2', '2 seeds: 0, 2')
    """
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    unbroken = seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{len(seeds)} seeds" + (f", {seeds[0]} to {seeds[-1]}" if unbroken else f": {', '.join(map(str, seeds))}")


def _styles(lines: list[Line]) -> list[object]:
    """A dash for each line: lines of one method have one colour, so they differ by that."""
    count: dict[str, int] = {}
    styles = []
    for line in lines:
        number = count.setdefault(line.method, 0)
        styles.append(STYLES[number % len(STYLES)])
        count[line.method] += 1
    return styles


def _panel(axes: Axes, lines: list[Line], display: Display, figure: Figure, styles: list[object]) -> None:
    scale = 100.0 if figure.percent else 1.0
    ends = []
    right = 0.0
    for line, style in zip(lines, styles, strict=True):
        if not line.has(figure.name):
            continue
        xs, values = line.curve(figure.name, display.x)
        mean = [scale * value.mean for value in values]
        colour = COLOURS[line.method]
        lasting = smooth(mean, display.smooth) if figure is display.main else mean
        if lasting != mean:  # what moves all methods alike from row to row hides what lasts
            axes.plot(xs, mean, color=colour, alpha=0.25, linewidth=1.2)
        axes.plot(xs, lasting, color=colour, linestyle=style, marker="o" if len(xs) <= 20 else "", markersize=4)
        halves = [scale * (value.half or 0.0) for value in values]
        low = [a - b for a, b in zip(mean, halves, strict=True)]
        high = [a + b for a, b in zip(mean, halves, strict=True)]
        axes.fill_between(xs, smooth(low, display.smooth), smooth(high, display.smooth), color=colour, alpha=0.14, lw=0)
        right = max(right, xs[-1])
        ends.append((lasting[-1], f"{line.label}  {figure.text(lasting[-1] / scale)}", colour))
    axes.set(title=figure.title, xlabel=display.x)
    if figure.percent:
        axes.set_ylim(-2, 102)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if figure is display.main and display.chance is not None:
        axes.axhline(scale * display.chance, color="#888888", linestyle=(0, (2, 3)), linewidth=1.2)
        axes.annotate(
            f"guessing {figure.text(display.chance)}",
            (axes.get_xlim()[0], scale * display.chance),
            (4, -4),
            textcoords="offset points",
            va="top",
            color="#666666",
        )
    label_ends(axes, right, ends)


def smooth(values: list[float], width: int) -> list[float]:
    """Each value's mean with those around it, ``width`` in all.

    >>> smooth([1.0, 2.0, 6.0], 3)
    [1.5, 3.0, 4.0]
    """
    side = width // 2
    windows = (values[max(0, i - side) : i + side + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
