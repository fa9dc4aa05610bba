"""The sparsity term of HAT: the share of free units that the gates of a task use."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from gnt.names import SparsityMode
from gnt.protection._unit_layout import UnitLayout

SPARSITY_MODES = get_args(SparsityMode)


class SparsityTerm:
    """R of the whole network and of each group, as a function of the gates.

        original  R = sum a (1 - c) / sum (1 - c)
        cross     (R + 1 - sum a c / sum c) / 2

    A ratio whose denominator is 0, or at most ``min_free``, is left out.

    Args:
        cumulative: c of each unit.
        layout: the units.
        mode: "original" or "cross".
        min_free: see above.
        strength: factor of the whole network's term in `penalty`.

    Attributes:
        penalty_weights, penalty_constant: `penalty` is the sum of weight * gate, plus the constant.
    """

    def __init__(
        self, cumulative: Tensor, layout: UnitLayout, mode: SparsityMode, min_free: int = 0, strength: float = 1.0
    ) -> None:
        free, numbers = 1 - cumulative, layout.group_numbers().to(cumulative.device)
        members = (torch.arange(len(layout.sizes), device=cumulative.device)[:, None] == numbers).to(cumulative.dtype)
        members = torch.cat([members, members.new_ones(1, layout.total)])
        weights, constant = _shares(members * free, min_free), cumulative.new_zeros(len(members))
        if mode == "cross":
            overlap = _shares(members * cumulative, min_free)
            weights = (weights - overlap) / 2
            constant = overlap.any(1).to(constant.dtype) / 2
        self._weights, self._constant = weights, constant
        self.penalty_weights, self.penalty_constant = strength * weights[-1], strength * float(constant[-1])

    def penalty(self, gates: Tensor) -> Tensor:
        """Strength times R of the whole network, differentiable."""
        penalty = torch.dot(gates, self.penalty_weights)
        return penalty + self.penalty_constant if self.penalty_constant else penalty

    def by_group(self, gates: Tensor) -> Tensor:
        """R of each group, and last that of the whole network."""
        return torch.addmv(self._constant, self._weights, gates)


def _shares(parts: Tensor, min_free: int) -> Tensor:
    """Each row divided by its sum; zeros where the sum is at most ``min_free``."""
    total = parts.sum(1, keepdim=True)
    return torch.where(total > min_free, parts / total.clamp(min=torch.finfo(parts.dtype).tiny), 0)
