"""The table that a command ends with: a line for each method, with means over seeds and their 95% intervals."""

from __future__ import annotations

from rich.table import Table

from benchmarks.display import Display, Figure
from benchmarks.palette import COLOURS
from benchmarks.summary import Estimate, Line, first_and_last


def table(lines: list[Line], display: Display) -> Table:
    """First, last and mean of the main figure, and the others in the last part."""
    complete = [line for line in lines if line.complete]
    others = [figure for figure in display.others if any(line.has(figure.name) for line in complete)]
    shown = Table(title=f"{display.main.title}: mean over seeds, 95% interval")
    shown.add_column("method")
    shown.add_column("seeds", justify="right")
    columns = [f"first {display.first:.0%}", f"last {display.last:.0%}", "mean"]
    for heading in [*columns, *(figure.name.replace("_", " ") for figure in others)]:
        shown.add_column(heading, justify="right")
    for line in lines:
        shown.add_row(line.label, *_cells(line, display, others), style=COLOURS[line.method])
    return shown


def _cells(line: Line, display: Display, others: list[Figure]) -> list[str]:
    diverged = f" ({len(line.diverged)} diverged)" if line.diverged else ""
    if not line.complete:
        return [f"0{diverged}"]
    first, last = first_and_last(line, display)
    main = [text(each, display.main) for each in (first, last, line.mean(display.main.name))]
    further = [
        text(line.mean(figure.name, 1.0 - display.last, 1.0), figure) if line.has(figure.name) else ""
        for figure in others
    ]
    return [f"{len(line.complete)}{diverged}", *main, *further]


def text(value: Estimate, figure: Figure) -> str:
    """A mean and its interval as they are shown, to the same decimals.

    >>> text(Estimate(35.84, 0.4712), Figure("", "")), text(Estimate(0.5, 0.01), Figure("", "", percent=True))
    ('35.8 ± 0.5', '50.0% ± 1.0%')
    >>> text(Estimate(3.07e25, 9.7e25), Figure("", ""))
    '3.1e+25 ± 9.7e+25'
    """
    mean = figure.text(value.mean)
    if value.half is None:
        return mean
    if "e" in mean:
        return f"{mean} ± {figure.text(value.half)}"
    decimals = len(mean.rstrip("%").partition(".")[2])
    half = 100 * value.half if figure.percent else value.half
    return f"{mean} ± {half:,.{decimals}f}{'%' if figure.percent else ''}"
