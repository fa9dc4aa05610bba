"""One warning if an engine has never replaced a unit, with the setting that is the cause."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from gnt.units import UnitGroup

WARN_AFTER = 10_000  # updates


def warn_if_idle(
    groups: Sequence[UnitGroup], replacement_rate: float, maturity_threshold: int, *, selects: bool
) -> None:
    """Warn if no unit was ever replaced, naming the cause; a replacement rate of 0 gives no warning.

    Args:
        groups: the engine's groups.
        replacement_rate, maturity_threshold: its settings.
        selects: units were selected at least once.
    """
    if replacement_rate == 0.0 or any(group.state.replaced for group in groups):
        return
    updates = groups[0].state.updates
    if not any(group.state.eligible for group in groups):
        why = f"no unit has been eligible: maturity_threshold={maturity_threshold} is longer than that"
    elif 2 * maturity_threshold > updates:
        why = f"maturity_threshold={maturity_threshold} leaves units hardly any updates in which they are eligible"
    elif selects:
        why = f"no unit has been due: replacement_rate={replacement_rate:g} is low for groups of this size"
    else:
        why = "GnT.select and GnT.replace, or GnT.step, were never called"
    warnings.warn(f"gnt has replaced nothing in {updates} updates; {why}. See GnT.report()", stacklevel=_user_level())


def _user_level() -> int:
    """The stacklevel of the first caller outside gnt and torch."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in ("gnt", "torch"):
        level, frame = level + 1, frame.f_back
    return level
