"""A warning of batch norms whose running statistics follow replaced units too slowly."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch.nn.modules.batchnorm import _NormBase

from gnt._utils.stack_level import user_level
from gnt.units import UnitGroup


def warn_of_cumulative_averages(groups: Sequence[UnitGroup]) -> None:
    """Warn if a batch norm of the units averages over all batches since it was built (``momentum=None``).

    After n batches, the statistics of a new unit move by 1/n per batch, as those of all units do, so that they are
    wrong in evaluation mode for about as many batches as there were before.
    """
    slots = {id(slot.module): slot for group in groups for slot in group.scales}.values()
    names = [
        repr(slot.name)
        for slot in slots
        if isinstance(slot.module, _NormBase) and slot.module.track_running_stats and slot.module.momentum is None
    ]
    if names:
        warnings.warn(
            f"{', '.join(names)} has momentum=None: its running statistics are averages over all batches so far, and "
            "those of a replaced unit stay wrong in evaluation mode for a long time. Set a momentum, such as 0.1",
            stacklevel=user_level(),
        )
