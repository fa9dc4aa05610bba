"""The one exception whose message is all that a person needs to see."""

from __future__ import annotations


class CannotRun(Exception):
    """The run cannot be made or continued; the message says why and what to do. Shown without a traceback."""


START_OVER_HINT = "Move it away, or use --fresh to make all runs of the command again."
"""What to do about a file that cannot be gone on from."""
