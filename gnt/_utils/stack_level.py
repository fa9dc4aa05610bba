"""The stack level of warnings."""

from __future__ import annotations

import sys


def user_level() -> int:
    """The stacklevel of the first caller outside gnt and torch."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in ("gnt", "torch"):
        level, frame = level + 1, frame.f_back
    return level
