"""Random generators."""

from __future__ import annotations

import torch


def new_generator(device: torch.device) -> torch.Generator:
    """Return a generator on ``device`` whose seed is drawn from torch's global generator.

    `torch.manual_seed` therefore determines its draws, as it does for torch's DataLoader.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_().item())
    return torch.Generator(device=device).manual_seed(seed)
