"""Selection of single weights, by their utility. The first dimension of all tensors is the member of an ensemble."""

from __future__ import annotations

import torch
from torch import Tensor


def below_threshold(utility: Tensor, factor: float, eligible: Tensor | None) -> Tensor:
    """Weights with U <= factor * mean U; none if the mean is 0. (members, n), bool."""
    mean = utility.mean(1, keepdim=True)
    return _allowed((utility <= factor * mean) & (mean > 0), utility, eligible)


def lowest_share(utility: Tensor, count: int, eligible: Tensor | None) -> Tensor:
    """The ``count`` eligible weights of lowest utility; none if all utilities are 0. (members, n), bool."""
    chosen = torch.zeros_like(utility, dtype=torch.bool)
    if not count:
        return chosen
    ranked = utility if eligible is None else utility.masked_fill(~eligible, torch.inf)
    lowest = ranked.topk(count, dim=1, largest=False, sorted=False).indices
    return _allowed(chosen.scatter_(1, lowest, True) & (utility.amax(1, keepdim=True) > 0), utility, eligible)


def _allowed(chosen: Tensor, utility: Tensor, eligible: Tensor | None) -> Tensor:
    chosen &= utility.isfinite()
    return chosen if eligible is None else chosen & eligible
