"""The groups that an update does not measure, with ``measure_every`` above 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gnt.importance._tap_features import TapFeatures
from gnt.units import UnitGroup


class RestingGroups(NamedTuple):
    """The groups that an update does not measure.

    Attributes:
        unmeasured: their numbers.
        ran: the numbers of those of them of which a forward ran.
    """

    unmeasured: frozenset[int] = frozenset()
    ran: frozenset[int] = frozenset()


ALL_MEASURED = RestingGroups()


def find_resting_groups(groups: Sequence[UnitGroup], taps: Iterable[tuple[int, TapFeatures]]) -> RestingGroups:
    """The groups that this update does not measure; what their taps noted or recorded is forgotten.

    Of a group without gradients it cannot be seen whether a backward has run for it; if others have some, it has not.

    Args:
        groups: the unit groups.
        taps: all taps, each with the number of its group.
    """
    unmeasured = frozenset([number for number, group in enumerate(groups) if not group.state.measures_next])
    if not unmeasured:
        return ALL_MEASURED
    ran = frozenset([number for number, tap in taps if number in unmeasured and tap.take_note()])
    return RestingGroups(unmeasured, frozenset([number for number in ran if _has_gradients(groups[number])]) or ran)


def _has_gradients(group: UnitGroup) -> bool:
    """True if a weight that reads or produces the units has a gradient."""
    return any(slot.weight.grad is not None for slot in (*group.incoming, *group.outgoing))
