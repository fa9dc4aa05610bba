"""What removing each unit of a group would cost earlier tasks, as a protection in [0, 1)."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gnt.units import Slot, UnitGroup

LARGEST = 1.0 - 2.0**-24  # in float32 the largest number below 1


class _Known(NamedTuple):
    """The protection of a group, with what it was computed from: the objects themselves, as an id may be used again."""

    group: UnitGroup
    tensors: list[Tensor]
    versions: list[int]
    protection: Tensor | None


class UnitCosts:
    """The protection of groups of units, computed again for a group when its weights' importances have changed.

    Args:
        weight: how strongly the relative cost counts.
    """

    def __init__(self, weight: float = 10.0) -> None:
        self.weight = weight
        self._known: dict[int, _Known] = {}

    def of(self, group: UnitGroup, outgoing: Sequence[tuple[Slot, Tensor, Tensor]]) -> Tensor | None:
        """The protection of a group's units, from the slots of its consumers with importance and anchor; or None."""
        tensors = [each for _, *values in outgoing for each in values]
        versions = [each._version for each in tensors]
        known = self._known.get(id(group))
        if known is None or known.versions != versions or not all(map(is_, known.tensors, tensors)):
            known = self._known[id(group)] = _Known(group, tensors, versions, self._compute(outgoing))
        return known.protection

    @torch.no_grad()
    def _compute(self, outgoing: Sequence[tuple[Slot, Tensor, Tensor]]) -> Tensor | None:
        costs = [_per_unit(slot, importance * anchor.square()) for slot, importance, anchor in outgoing]
        if not costs:
            return None
        cost = 0.5 * torch.stack(costs).sum(0)
        mean = cost.mean()
        if not self.weight or not mean > 0:
            return None
        relative = self.weight * cost / mean
        return (relative / (1.0 + relative)).clamp(max=LARGEST)

    def __getstate__(self) -> dict[str, Any]:
        return {"weight": self.weight, "_known": {}}


def _per_unit(slot: Slot, values: Tensor) -> Tensor:
    """The sum of values, shaped like a consumer's weight, over what each unit owns: (num_units,)."""
    if slot.groups > 1:
        by_channel = torch.unflatten(values, 0, (slot.groups, -1)).transpose(1, 2).flatten(2).sum(2)
        totals = by_channel.flatten()
    else:
        totals = values.movedim(slot.dim, 0).flatten(1).sum(1)
    return slot.of_units(totals, 0).sum(1)
