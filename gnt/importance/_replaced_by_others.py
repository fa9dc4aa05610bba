"""Units that an engine has replaced after features of another reader's next update had been recorded.

These features are of the units before. An update with them must leave the new units at age 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnt.units import UnitGroup


class ReplacedByOthers:
    """The units that engines have replaced since the features of the next update were recorded.

    Attributes:
        features_taken: features were taken for an update that has not been made yet.
        units: the units, with their groups.
    """

    def __init__(self) -> None:
        self.features_taken = False
        self.units: list[tuple[UnitGroup, Tensor]] = []

    def add(self, group: UnitGroup, units: Tensor) -> None:
        """Remember units for `restart` and `without`."""
        self.units.append((group, units))

    def restart(self) -> None:
        """Restart the units: an update was made with features of the units before."""
        for group, units in self.units:
            group.state.restart(units)
        self.units.clear()

    def without(self, group: UnitGroup, units: Tensor) -> Tensor:
        """Those of ``units`` that no other has replaced."""
        replaced = [theirs for owner, theirs in self.units if owner is group]
        return units[~torch.isin(units, torch.cat(replaced).to(units.device))] if replaced else units

    def clear(self) -> None:
        """Forget the units: the features were dropped, or have been used."""
        self.units.clear()
        self.features_taken = False
