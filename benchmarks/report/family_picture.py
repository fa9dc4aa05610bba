"""The picture of a family: a small panel for each problem and tuning, all with the same scale."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import IO

from matplotlib.figure import Figure

from .. import experiments
from ..axis_limits import band_limits
from ..comparison_picture import Curve, draw_curve, scale_axes, seeds_in_words, show_chance
from ..display import Display
from ..line_labels import LineEnd, label_ends
from ..method_styles import COLOURS, LABELS
from ..plot_layout import LEFT, WIDTH, add_panel, choose_ticks, new_figure, save, text_width
from ..settings import settings_text
from ..summary import MethodResults, best_results
from .problems import Family
from .result_tables import tuning, varying

_MOST = 7  # panels in a row
_ONE_ROW = 4  # more problems than these, with one tuning, are shown in two rows
_TITLE, _GAP, _EDGE, _KEYS, _KEY_LINE = 0.5, 0.16, 0.1, 0.42, 0.25
_KEY_SIZE, _KEY_GAP = 11.5, 0.35
_LEAST, _WIDEST = 1.2, 4.2
_SIZE, _LABEL = 8.5, 0.17  # of the text at the end of a curve, and the height that it takes


def write_family_picture(family: Family, file: IO[bytes]) -> None:
    """Write the picture as PNG."""
    save(draw_family(family), file)


def draw_family(family: Family) -> Figure:
    """A column for each problem, a row for each value of the tuning that all methods share."""
    display = experiments.display(family.experiment)
    names = varying(family.results)
    cells = _cells(family, names)
    tunings = sorted({values for _, values in cells}, reverse=True)
    in_two_rows = len(tunings) == 1 and len(family.problems) > _ONE_ROW
    columns = min(_MOST, -(-len(family.problems) // 2) if in_two_rows else len(family.problems))
    bands = -(-len(family.problems) // columns)
    labels = 0.08 + text_width("0.000" if not display.main.percent else "100.0%", _SIZE, bold=True) + 0.17
    each = min(_WIDEST, (WIDTH - LEFT - _EDGE - (columns - 1) * _GAP) / columns)
    wide = each - labels
    most = max(map(len, cells.values()), default=0)  # curves in a panel, each with its value
    high = max(min(2.2, max(_LEAST, 0.72 * wide)), _LABEL * most)
    rows = bands * len(tunings)
    results = [result for result in family.results if result.complete_seeds]
    keys = _key_lines(results)
    above = _KEYS + (len(keys) - 1) * _KEY_LINE
    body = rows * high + (rows - 1) * _TITLE + above
    by = family.by.replace("_", " ")
    headline = f"{display.main.title}, for each {by}" + (f" and {' and '.join(names)}" if names else "")
    shown = sum(len(curves) for curves in cells.values())
    note = ["For each method the best of the settings tried."] if shown < len(results) else []
    figure, height = new_figure(headline, [f"{family.about}.", *seeds_in_words(results), *note], body)
    every = [curve for curves in cells.values() for curve in curves]
    points = [point for curve in every for point in curve.points]
    _draw_keys(figure, keys, height, body)
    for (problem, values), curves in cells.items():
        band, column = divmod(problem, columns)
        row = band * len(tunings) + tunings.index(values)
        place = (LEFT + column * (each + _GAP), body - above - (row + 1) * high - row * _TITLE)
        title = str(family.problems[problem].values[family.by])
        title += f", {settings_text(dict(zip(names, values, strict=True)))}" if names else ""
        axes = add_panel(figure, *place, wide, high, title, 9.5 if columns > 4 else 11)
        for order, curve in enumerate(curves):
            draw_curve(
                axes,
                curve,
                band_limits(points, display.main),
                thin=True,
                order=order,
                crowded=len(curves) > 4,
                marked=False,
            )
        scale_axes(axes, display.main, points, display.chance)
        if display.chance is not None:
            show_chance(axes, display, labelled=False)
        if not display.main.percent:
            axes.set_ylim(*_limits(every))
        axes.tick_params(labelsize=8.5, labelleft=column == 0)
        choose_ticks(axes.xaxis, nbins=2, integer=True)
        if not _below(problem, values, columns, tunings, cells):
            axes.set_xlabel(display.x, fontsize=9.5)
        else:
            axes.tick_params(labelbottom=False)
        ends = [LineEnd(curve.mean[-1], _value(curve, display), curve.colour) for curve in curves]
        if ends:
            label_ends(axes, max(curve.xs[-1] for curve in curves), ends, _SIZE, off=6.0)
    return figure


def _cells(family: Family, names: list[str]) -> dict[tuple[int, tuple[object, ...]], list[Curve]]:
    """The curves of each panel: for each method the best of its results."""
    display = experiments.display(family.experiment)
    scale = 100.0 if display.main.percent else 1.0
    cells: dict[tuple[int, tuple[object, ...]], list[Curve]] = {}
    for number, problem in enumerate(family.problems):
        parts: dict[tuple[object, ...], list[MethodResults]] = {}
        for result in problem.results:
            parts.setdefault(tuple(tuning(result)[name] for name in names), []).append(result)
        for values, results in parts.items():
            cells[number, values] = []
            for result in best_results(results, display).values():
                xs, estimates = result.curve(display.main.name, display.x, display.smooth)
                mean = [scale * one.mean for one in estimates]
                half = [scale * (one.half or 0.0) for one in estimates]
                cells[number, values].append(Curve(result, COLOURS[result.method], "-", xs, mean, mean, half))
    return cells


def _below(problem: int, values: object, columns: int, tunings: Sequence[object], cells: Container[object]) -> bool:
    """Whether there is a panel below that of a problem and tuning."""
    lower = [(problem, other) for other in tunings[tunings.index(values) + 1 :]]
    return any(cell in cells for cell in [*lower, *((problem + columns, other) for other in tunings)])


def _limits(curves: list[Curve]) -> tuple[float, float]:
    """The common scale, which includes all means, most of the bands, and 0."""
    points = [(mean, half) for curve in curves for mean, half in zip(curve.mean, curve.half, strict=True)]
    low = min((mean - 0.6 * half for mean, half in points), default=0.0)
    high = max((mean + 0.6 * half for mean, half in points), default=1.0)
    lowest = min((mean for mean, _ in points), default=0.0)
    return (low if lowest < 0 else 0.0), high


def _value(curve: Curve, display: Display) -> str:
    return display.main.text(curve.mean[-1] / (100.0 if display.main.percent else 1.0))


def _key_lines(results: list[MethodResults]) -> list[list[str]]:
    """The methods, in lines that fit into the width."""
    lines: list[list[str]] = [[]]
    x = LEFT
    for method in dict.fromkeys(result.method for result in results):
        wide = text_width(LABELS[method], _KEY_SIZE, bold=True)
        if lines[-1] and x + wide > WIDTH - _EDGE:
            lines.append([])
            x = LEFT
        lines[-1].append(method)
        x += wide + _KEY_GAP
    return lines


def _draw_keys(figure: Figure, lines: list[list[str]], height: float, body: float) -> None:
    """Names of the methods in their colours, above the panels."""
    for number, methods in enumerate(lines):
        x, y = LEFT, (0.62 + body - 0.02 - number * _KEY_LINE) / height
        for method in methods:
            text, colour = LABELS[method], COLOURS[method]
            figure.text(x / WIDTH, y, text, color=colour, fontsize=_KEY_SIZE, fontweight="bold", va="bottom")
            x += text_width(text, _KEY_SIZE, bold=True) + _KEY_GAP
