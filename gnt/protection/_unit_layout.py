"""The units of several groups as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from gnt.units import Slot, UnitGroup


class UnitLayout:
    """Positions of the units of all groups in one vector, group by group.

    Attributes:
        groups: the groups.
        sizes: number of units of each group.
        starts: position of the first unit of each group.
        total: number of units of all groups.
    """

    def __init__(self, groups: Sequence[UnitGroup]) -> None:
        self.groups = tuple(groups)
        self.sizes = [group.num_units for group in groups]
        self.starts = [0, *accumulate(self.sizes)][:-1]
        self.total = sum(self.sizes)

    def part(self, vector: Tensor, number: int) -> Tensor:
        """The entries of one group: a view."""
        return vector.narrow(-1, self.starts[number], self.sizes[number])

    def by_group(self, vector: Tensor) -> dict[str, Tensor]:
        """The entries of each group by its name: views."""
        return {group.name: self.part(vector, number) for number, group in enumerate(self.groups)}

    def group_numbers(self) -> Tensor:
        """The number of the group of each unit."""
        return torch.arange(len(self.sizes), device="cpu").repeat_interleave(torch.tensor(self.sizes, device="cpu"))

    def write_units(self, index: Tensor, slot: Slot, number: int) -> None:
        """Set the positions of a slot in ``index`` (positions of the slot's module,) to those of its units here."""
        units = torch.arange(slot.num_units, device="cpu")
        index[slot.index(units)] = (units + self.starts[number]).repeat_interleave(slot.block)
