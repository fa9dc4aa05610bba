"""Executes the runs of a command, several at a time, until all are finished or the user stops them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .errors import CannotRun
from .launching import Launcher
from .progress import ProgressView, Title
from .run import Run
from .training import Row
from .worker import FINAL_MESSAGES

STOP_SECONDS = 10.0
_POLL_SECONDS = 0.2

RowsText = Callable[[list[Row]], str]


class _Scheduler:
    """The runs of a command: waiting and running ones, and errors."""

    def __init__(
        self,
        runs: list[Run],
        launcher: Launcher,
        view: ProgressView,
        title: Callable[[Run], Title],
        rows_text: RowsText,
        interrupted: list[int],
    ) -> None:
        self.waiting = list(runs)
        self.running: list[Run] = []
        self.launcher, self.view, self.title, self.rows_text = launcher, view, title, rows_text
        self.errors: list[str] = []
        self.refused = False
        self.stopping = False
        self.interrupted = interrupted

    @property
    def has_work(self) -> bool:
        """Whether runs are left. False after a run was refused, as the others would be refused too."""
        return bool(self.running or self.waiting) and not self.refused

    def poll(self) -> None:
        """Start as many runs as the launcher has slots for, then wait briefly for messages and handle them."""
        while self.waiting and len(self.running) < self.launcher.slots and not self.stopping:
            run = self.waiting.pop(0)
            self.launcher.start(run)
            self.running.append(run)
        for run, message in self.launcher.messages(_POLL_SECONDS):
            self._handle(self.title(run), message)
            if message[0] in FINAL_MESSAGES:
                self.running.remove(run)
                if message[0] != "stopped":
                    self.view.end(self.title(run))

    def stop(self) -> None:
        """Ask all running ones to save and stop; kill those that do not in time."""
        self.stopping = True
        for run in self.running:
            self.launcher.request_stop(run)
        deadline = time.monotonic() + STOP_SECONDS
        while self.running and time.monotonic() < deadline:
            self.poll()
        for run in self.running:
            self.launcher.kill(run)

    def _handle(self, title: Title, message: tuple[Any, ...]) -> None:
        match message:
            case ("progress", done, total, latest):
                self.view.progress(title, done, total, latest)
            case ("rows", rows):
                self.view.line(title, self.rows_text(rows))
            case ("diverged", why):
                self.view.line(title, f"stopped, as it diverged: {why}")
            case ("refused", text):
                self.refused = True
                self.errors.append(text)
            case ("failed", text):
                self.errors.append(f"The run {title.label} failed:\n{text}")
            case ("died", why) if not (self.stopping or self.interrupted):
                self.errors.append(
                    f"The process of the run {title.label} was killed ({why}). "
                    "Run the same command again to continue from the last checkpoint."
                )


def run_all(
    runs: list[Run], launcher: Launcher, view: ProgressView, title: Callable[[Run], Title], rows_text: RowsText
) -> bool:
    """Execute the runs. Returns True if all were finished, False if the user stopped them.

    Raises:
        CannotRun: a run was refused (the others were stopped, with checkpoints), or runs failed (all others are
            finished).
    """
    with _interruptible() as interrupted:
        scheduler = _Scheduler(runs, launcher, view, title, rows_text, interrupted)
        try:
            while scheduler.has_work and not interrupted:
                scheduler.poll()
        finally:
            scheduler.stop()
            launcher.close()
    if scheduler.errors:
        raise CannotRun("\n".join(dict.fromkeys(scheduler.errors)))  # workers often report the same error
    return all(run.finished for run in runs)


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM in the list instead of raising, so that no operation is interrupted halfway."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
