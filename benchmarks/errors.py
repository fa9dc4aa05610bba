"""The exception for problems that the user can solve."""

from __future__ import annotations

STOPPED = 130
"""Exit status of a command that was stopped with Ctrl-C, as in shells."""


class CannotRun(Exception):
    """A run cannot be started or continued. The message says why and what to do; it is shown without a traceback."""


class Diverged(FloatingPointError):
    """Some of the networks that are trained together diverged. The others are stopped with them.

    Args:
        message: what is not finite.
        seeds: the seeds that diverged; empty if that is not known.
    """

    def __init__(self, message: str, seeds: list[int]) -> None:
        super().__init__(message)
        self.seeds = seeds


START_OVER_HINT = "Move it away, or use --fresh to start all runs of the command over."
"""What to do about a file that a run cannot be continued from."""
