"""The table at the end of a command: a row per method, with means over seeds and 95% confidence intervals."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .display import Display, Metric
from .method_styles import COLOURS
from .plasticity import NOT_MEASURED
from .summary import Estimate, MethodResults, first_and_last

NARROW = 80  # columns of a terminal below which a table that does not fit becomes a list


def comparison_table(results: list[MethodResults], display: Display, width: int | None = None) -> Table:
    """First, last and mean of the main metric, and the last of the others.

    Args:
        results: the methods.
        display: what to show.
        width: columns of the terminal. If the table does not fit into fewer than 80, it has a line for each figure.
    """
    complete = [result for result in results if result.complete_seeds]
    others = [metric for metric in display.others if any(result.has(metric.name) for result in complete)]
    shown = Table(title=f"{display.main.title}: mean over seeds, 95% interval")
    shown.add_column("method")
    shown.add_column("seeds", justify="right")
    columns = [f"first {display.first:.0%}", f"last {display.last:.0%}", "mean"]
    for heading in [*columns, *(metric.name.replace("_", " ") for metric in others)]:
        shown.add_column(heading, justify="right")
    further = further_columns(complete, display)
    for heading in further:
        shown.add_column(heading, justify="right")
    for result in results:
        cells = [*_cells(result, display, others), *(own.get(result.label, "") for own in further.values())]
        shown.add_row(result.label, *cells, style=COLOURS[result.method])
    if width is None or width >= NARROW or Console(width=1000).measure(shown).maximum <= width:
        return shown
    return _one_figure_a_line(shown)


def _one_figure_a_line(wide: Table) -> Table:
    """The figures of each row of a table below one another, with the headings beside them."""
    narrow = Table.grid(padding=(0, 2, 0, 0))
    narrow.title, narrow.title_justify = wide.title, "left"
    narrow.add_column()
    narrow.add_column(overflow="fold")
    names, *columns = (list(column.cells) for column in wide.columns)
    for number, (name, row) in enumerate(zip(names, wide.rows, strict=True)):
        narrow.add_row(f"[bold]{escape(str(name))}[/bold]", style=row.style)
        for column, cells in zip(wide.columns[1:], columns, strict=True):
            if cells[number] != "":
                narrow.add_row(f"  {column.header}", cells[number], style=row.style)
    return narrow


def further_columns(results: list[MethodResults], display: Display) -> dict[str, dict[str, str]]:
    """Heading -> label -> cell: the core time of a seed, where the display asks for it, and the verdict of the
    plasticity check, where any result has one.
    """
    found = {"core seconds": {result.label: f"{result.core_seconds:.0f}" for result in results if display.seconds}}
    verdicts = {result.label: result.plasticity for result in results if result.complete_seeds}
    if any(verdicts.values()):
        found["plasticity check"] = {label: verdict or NOT_MEASURED for label, verdict in verdicts.items()}
    return {heading: cells for heading, cells in found.items() if cells}


def _cells(result: MethodResults, display: Display, others: list[Metric]) -> list[str]:
    if not result.complete_seeds:
        return [result.seeds_text, "", "", "", *("" for _ in others)]
    first, last = first_and_last(result, display)
    main = [interval_text(each, display.main) for each in (first, last, result.mean(display.main.name))]
    further = [
        interval_text(result.mean(metric.name, 1.0 - display.last, 1.0), metric) if result.has(metric.name) else ""
        for metric in others
    ]
    return [result.seeds_text, *main, *further]


def interval_text(value: Estimate, metric: Metric) -> str:
    """A mean and its confidence interval, with the same number of decimals.

    >>> interval_text(Estimate(35.84, 0.4712), Metric("", ""))
    '35.8 ± 0.5'
    >>> interval_text(Estimate(0.5, 0.01), Metric("", "", percent=True))
    '50.0% ± 1.0%'
    >>> interval_text(Estimate(3.07e25, 9.7e25), Metric("", ""))
    '3.1e+25 ± 9.7e+25'
    """
    mean = metric.text(value.mean)
    if value.half is None:
        return mean
    if "e" in mean:
        return f"{mean} ± {metric.text(value.half)}"
    decimals = len(mean.rstrip("%").partition(".")[2])
    half = 100 * value.half if metric.percent else value.half
    return f"{mean} ± {half:,.{decimals}f}{'%' if metric.percent else ''}"
