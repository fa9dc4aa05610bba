"""Which units of a group own a weight that belongs to a task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gnt.protection._packed_parameter import PackedParameter
from gnt.units import UnitGroup


class OwnedUnits:
    """The protection of groups, kept until `clear` is called: owners change at the end of a task only."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[UnitGroup, Tensor]] = {}

    def clear(self) -> None:
        """Owners have changed."""
        self._known.clear()

    def of(self, group: UnitGroup, parameters: Iterable[PackedParameter]) -> Tensor:
        """True for units with an incoming or outgoing weight that a task owns: bool (num_units,)."""
        device = group.incoming[0].weight.device
        known = self._known.get(id(group))
        if known is None or known[0] is not group or known[1].device != device:
            known = self._known[id(group)] = group, _owned(group, parameters).to(device)
        return known[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_known": {}}


def _owned(group: UnitGroup, parameters: Iterable[PackedParameter]) -> Tensor:
    units = torch.arange(group.num_units, device="cpu")
    found = torch.zeros(group.num_units, dtype=torch.bool, device="cpu")
    by_tensor = {id(each.tensor): each for each in parameters if each.prunable}
    for _, parameter, slot in group.slices():
        each = by_tensor.get(id(parameter))
        if each is not None:
            positions = each.owned_positions(slot.dim_of(parameter), slot.groups).cpu()
            found |= positions[slot.index(units)].view(group.num_units, -1).any(1)
    return found
