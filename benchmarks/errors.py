"""The one exception whose message is all that a person needs to see."""

from __future__ import annotations


class CannotRun(Exception):
    """The run cannot be made or continued; the message says why and what to do. Shown without a traceback."""
