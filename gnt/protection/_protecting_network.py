"""`ProtectingNetwork`: what a `HAT` tells engines that replace units: which to keep, and which biases may move."""

from __future__ import annotations

import torch
from torch import Tensor

from gnt.protection._saved_network import SavedNetwork
from gnt.units import UnitGroup


class ProtectingNetwork(SavedNetwork):
    """Base class of `HAT`, for ``GnT(protect=hat, follow=[hat])``. Arguments and attributes are as before."""

    def protected(self, group: UnitGroup) -> Tensor | None:
        """For ``GnT(protect=hat)``: True for units that more than ``protect_above`` tasks use.

        Args:
            group: a group with the units of one of this object's; None is returned for others.
        """
        return self._protection.protected(group, self.counts, self.settings.protect_above)

    def available(self, group: UnitGroup) -> Tensor | None:
        """For ``GnT(protect=hat)``: True for units whose gates are on in the task that is trained; None: all.

        Units whose gates are off do not learn, and what their consumers read is 0, so that measures of features would
        always rank them lowest. They are not replaced, except with ``idle=True`` and while no task is open.

        Args:
            group: a group with the units of one of this object's; None is returned for others.
        """
        return self._protection.gated_on(group, self.embedding) if self._open and not self.settings.idle else None

    def movable_bias(self, bias: Tensor) -> Tensor | None:
        """For ``GnT(protect=hat)``: True for entries that belong to no unit that tasks use.

        The bias of an output layer counts as used by the tasks that have trained it.

        Args:
            bias: a parameter of the network; None is returned for others.
        """
        return self._protection.movable(bias, self._coverage, self._earlier())

    @torch.no_grad()
    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        """For an engine that this object follows: reset the optimizer's state for e of replaced units; e is kept.

        Args:
            param, dim, index, groups: as for `gnt.replacement.Follower`.
        """
        optimizer = self._optimizers[-1].optimizer if self._open and self._optimizers else None
        if optimizer is not None:
            self._protection.reset_embedding(optimizer, self.embedding, param, dim, index)

    @property
    def followed_parameters(self) -> list[Tensor]:
        """The parameters of the groups, whose replacement this object follows."""
        return [parameter for group in self.groups for _, parameter, _ in group.slices()]
