"""The cost of a check, before it starts, and its progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

TIMED = 10  # steps after which the remaining time is estimated
_INTERVAL = 0.5  # seconds between two updates of the line


@dataclass(frozen=True)
class Progress:
    """How far a check is.

    Attributes:
        done, total: numbers of training steps.
        seconds_left: the estimate; None before the first steps.
    """

    done: int
    total: int
    seconds_left: float | None


class ProgressReport:
    """Counts steps and reports them: on a line of stderr, to a callback, or not at all."""

    def __init__(self, total: int, what: str, report: bool | Callable[[Progress], object]) -> None:
        self._total, self._what, self._report = total, what, report
        self._done, self._shown, self._started, self._estimated = 0, 0.0, time.monotonic(), False
        self._line = ""

    def start(self) -> None:
        """Say what the check costs, before the first step."""
        self._started = time.monotonic()
        if self._report is True:
            print(f"gnt: plasticity check: {self._what}", file=sys.stderr, flush=True)
        elif callable(self._report):
            self._report(Progress(0, self._total, None))

    def step(self) -> None:
        """Count one step."""
        self._done += 1
        now = time.monotonic()
        if self._report is False or self._done < TIMED or (now - self._shown < _INTERVAL and self._done < self._total):
            return
        self._shown = now
        left = (now - self._started) / self._done * (self._total - self._done)
        if callable(self._report):
            self._report(Progress(self._done, self._total, left))
        elif sys.stderr.isatty():
            self._write(f"gnt: step {self._done:,} of {self._total:,}, about {_time(left)} left")
        elif not self._estimated:
            print(f"gnt: about {_time(left)} left", file=sys.stderr, flush=True)
        self._estimated = True

    def end(self) -> None:
        """Remove the line."""
        if self._line:
            self._write("")

    def _write(self, text: str) -> None:
        sys.stderr.write("\r" + text.ljust(len(self._line)) + ("" if text else "\r"))
        sys.stderr.flush()
        self._line = text


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
