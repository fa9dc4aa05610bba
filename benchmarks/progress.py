"""Progress of runs: bars in a terminal, lines in a log."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column


class Title(NamedTuple):
    """Name and colour of a progress bar."""

    label: str
    colour: str


class ProgressView(Protocol):
    """Displays progress of runs."""

    def progress(self, title: Title, done: int, total: int, latest: str) -> None:
        """Show how much is done, and the latest metrics."""

    def line(self, title: Title, text: str) -> None:
        """Show that a part is complete."""

    def end(self, title: Title) -> None:
        """Show that a run has ended."""


class ProgressBars:
    """A bar for each active run, with remaining time and latest metrics, and one for all runs.

    Args:
        console: where to draw.
        runs: number of runs; with a single one there is no bar for all.
        by_itself: whether the bars also move between reports. False: they are drawn only on progress, so that no time
            is taken from what is being timed.
    """

    def __init__(self, console: Console, runs: int, *, by_itself: bool = True) -> None:
        bar = min(40, max(8, console.width - 100))
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", table_column=_cut_to(max(8, console.width - bar - 43))),
            BarColumn(bar_width=bar),
            TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4)),
            TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[latest]}", style="dim", table_column=_cut_to(24)),
            console=console,
            auto_refresh=by_itself,
        )
        self._by_itself = by_itself
        self._runs = runs
        self._tasks: dict[Title, TaskID] = {}
        self._all: TaskID | None = None
        self._ended = 0

    def __enter__(self) -> ProgressBars:
        if self._runs > 1:
            self._all = self._progress.add_task("all", start=False, total=float(self._runs), latest="starting")
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def progress(self, title: Title, done: int, total: int, latest: str) -> None:
        """Advance a run's bar. Its first report sets the starting point, so that work from before an interruption does
        not count as speed.
        """
        if title not in self._tasks:
            label = f"[{title.colour}]{escape(title.label)}"
            task = self._progress.add_task(label, total=total, completed=done, latest=latest)
            self._tasks[title] = task
        self._progress.update(self._tasks[title], completed=done, latest=latest)
        self._show_all()

    def line(self, title: Title, text: str) -> None:
        """Nothing: the bar shows it."""

    def end(self, title: Title) -> None:
        """Remove the run's bar if there is one for all runs."""
        self._ended += 1
        if self._all is not None and title in self._tasks:
            self._progress.remove_task(self._tasks.pop(title))
        self._show_all()

    def _show_all(self) -> None:
        if self._all is not None:
            tasks = {task.id: task for task in self._progress.tasks}
            running = sum(tasks[each].completed / (tasks[each].total or 1) for each in self._tasks.values())
            if not tasks[self._all].started:
                self._progress.reset(
                    self._all,
                    start=True,
                    total=self._runs,
                    completed=running,  # type: ignore[arg-type,unused-ignore]  # a float, as of other methods of rich
                    latest="",
                )
            count = f"{self._ended} of {self._runs} runs"
            self._progress.update(self._all, completed=self._ended + running, latest=count)
        if not self._by_itself:
            self._progress.refresh()


def _cut_to(width: int) -> Column:
    """A column that is truncated first if the terminal is narrow, so that percentage and remaining time stay
    visible.
    """
    return Column(no_wrap=True, overflow="ellipsis", max_width=width)


class ProgressLines:
    """A line for each completed part."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def progress(self, title: Title, done: int, total: int, latest: str) -> None:
        """Nothing: a log has no moving bars."""

    def line(self, title: Title, text: str) -> None:
        """Print the line."""
        self._console.print(f"{title.label}: {text}", highlight=False, markup=False, soft_wrap=True)

    def end(self, title: Title) -> None:
        """Nothing: the last line shows it."""


def progress_view(console: Console, runs: int, *, quiet: bool, by_itself: bool = True) -> ProgressBars | ProgressLines:
    """Bars in a terminal; lines if the output is not a terminal or ``quiet`` is true. See `ProgressBars`."""
    if quiet or not console.is_terminal:
        return ProgressLines(console)
    return ProgressBars(console, runs, by_itself=by_itself)
