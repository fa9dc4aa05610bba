"""How the runs get on: bars in a terminal, a line each time something is complete in a log."""

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
    """What a bar is called, and in which colour."""

    label: str
    colour: str


class ProgressView(Protocol):
    """What the runner shows things to."""

    def progress(self, title: Title, done: int, total: int, latest: str) -> None:
        """So much is done, and these are the last figures."""

    def line(self, title: Title, text: str) -> None:
        """Something is complete."""

    def end(self, title: Title) -> None:
        """It goes no further."""


class ProgressBars:
    """A bar for each run that is being made, with the time left and the last figures, and one for all.

    ``runs``: how many there will be; of one alone there is no bar for all. ``by_itself`` False: it moves only when
    there is progress, and takes no time from what is being timed.
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
        """Move the bar. The first report only places it, so that what was done before a stop does not count
        as speed.
        """
        if title not in self._tasks:
            label = f"[{title.colour}]{escape(title.label)}"
            task = self._progress.add_task(label, total=total, completed=done, latest=latest)
            self._tasks[title] = task
        self._progress.update(self._tasks[title], completed=done, latest=latest)
        self._show_all()

    def line(self, title: Title, text: str) -> None:
        """The bar shows it already."""

    def end(self, title: Title) -> None:
        """Of many runs, only those that are being made have a bar."""
        self._ended += 1
        if self._all is not None and title in self._tasks:
            self._progress.remove_task(self._tasks.pop(title))
        self._show_all()

    def _show_all(self) -> None:
        if self._all is not None:
            tasks = {task.id: task for task in self._progress.tasks}
            running = sum(tasks[each].completed / (tasks[each].total or 1) for each in self._tasks.values())
            if not tasks[self._all].started:
                self._progress.reset(self._all, start=True, total=self._runs, completed=running, latest="")
            count = f"{self._ended} of {self._runs} runs"
            self._progress.update(self._all, completed=self._ended + running, latest=count)
        if not self._by_itself:
            self._progress.refresh()


def _cut_to(width: int) -> Column:
    """A column that gives way first where the terminal is narrow: percent and time left stay."""
    return Column(no_wrap=True, overflow="ellipsis", max_width=width)


class ProgressLines:
    """A line each time something is complete; nothing moves."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def progress(self, title: Title, done: int, total: int, latest: str) -> None:
        """A log is not for moving things."""

    def line(self, title: Title, text: str) -> None:
        """Print the line."""
        self._console.print(f"{title.label}: {text}", highlight=False, markup=False, soft_wrap=True)

    def end(self, title: Title) -> None:
        """The last line told it."""
