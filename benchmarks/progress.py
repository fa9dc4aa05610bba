"""How the runs get on: a bar each in a terminal, a line each time something is complete in a log."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from benchmarks.palette import COLOURS, LABELS


class View(Protocol):
    """What the runner shows things to."""

    def progress(self, method: str, done: int, total: int, latest: str) -> None:
        """So much is done, and these are the last figures."""

    def line(self, method: str, text: str) -> None:
        """Something is complete."""


class Bars:
    """A bar for each method, with the time left and the last figures.

    ``by_itself`` False: it moves only when there is progress, and takes no time from what is being timed.
    """

    def __init__(self, console: Console, methods: list[str], *, by_itself: bool = True) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[latest]}", style="dim"),
            console=console,
            auto_refresh=by_itself,
        )
        self._by_itself = by_itself
        self._methods = methods
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> Bars:
        for method in self._methods:
            label = f"[{COLOURS[method]}]{LABELS[method]}"
            self._tasks[method] = self._progress.add_task(label, start=False, total=None, latest="starting")
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def progress(self, method: str, done: int, total: int, latest: str) -> None:
        """Move the bar. The first report only places it, so that what was done before a stop does not count
        as speed.
        """
        task = self._progress.tasks[self._tasks[method]]
        if not task.started:
            self._progress.reset(task.id, start=True, total=total, completed=done)
        self._progress.update(task.id, completed=done, latest=latest)
        if not self._by_itself:
            self._progress.refresh()

    def line(self, method: str, text: str) -> None:
        """The bar shows it already."""


class Lines:
    """A line each time something is complete; nothing moves."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def progress(self, method: str, done: int, total: int, latest: str) -> None:
        """A log is not for moving things."""

    def line(self, method: str, text: str) -> None:
        """Print the line."""
        self._console.print(f"{LABELS[method]}: {text}", highlight=False)
