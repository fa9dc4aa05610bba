"""One warning if an engine replaces no unit, with the setting that is the cause.

An engine checks this twice: early, whether the first unit is due soon, and after 10,000 updates, whether any unit was
replaced.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from gnt._utils.stack_level import user_level
from gnt.units import UnitGroup

EARLY = 100  # updates since construction or loading
WARN_AFTER = 10_000  # updates


def first_check(updates: int) -> int:
    """The update of the first check of an engine that has made ``updates`` updates."""
    return min(updates + EARLY, WARN_AFTER)


def warn_if_late(
    groups: Sequence[UnitGroup], first_due: int | None, replacement_rate: float, maturity_threshold: int
) -> bool:
    """Warn if the first unit is due only after more than `WARN_AFTER` updates, and return whether it is.

    Args:
        groups: the engine's groups.
        first_due: number of updates, since the first one, after which the first unit is due; None: no unit ever is,
            or one was replaced.
        replacement_rate, maturity_threshold: its settings.
    """
    if first_due is None or first_due <= WARN_AFTER:
        return False
    warnings.warn(
        f"gnt will not replace a unit soon: at replacement_rate={replacement_rate:g} and "
        f"maturity_threshold={maturity_threshold}{_protected(groups)} the first unit is due after {first_due} updates. "
        "See GnT.report()",
        stacklevel=user_level(),
    )
    return True


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
    if all(group.state.num_protected == group.num_units for group in groups):
        why = "all units are protected (protect=)"
    elif not any(group.state.eligible for group in groups):
        why = f"no unit has been eligible: maturity_threshold={maturity_threshold} is longer than that"
    elif 2 * maturity_threshold > updates:
        why = f"maturity_threshold={maturity_threshold} leaves units hardly any updates in which they are eligible"
    elif selects:
        why = (
            f"no unit has been due: replacement_rate={replacement_rate:g} is low for groups of this size"
            f"{_protected(groups)}"
        )
    else:
        why = "GnT.select and GnT.replace, or GnT.step, were never called"
    warnings.warn(f"gnt has replaced nothing in {updates} updates; {why}. See GnT.report()", stacklevel=user_level())


def _protected(groups: Sequence[UnitGroup]) -> str:
    """How many units are protected, to be added to a cause; empty if none is."""
    count, units = (sum(values) for values in zip(*((g.state.num_protected, g.num_units) for g in groups), strict=True))
    return f" with {count} of {units} units protected" if count else ""
