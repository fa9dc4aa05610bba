"""Copies of the items of memories in one place."""

from __future__ import annotations

import torch
from torch import Tensor

from gnt.replay.buffer import ReplayBuffer, Samples


class ItemCopies:
    """Copies of the items of memories, one memory at a time, in the same tensors: a forward may change what it gets."""

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}

    @torch.no_grad()
    def of(self, memory: ReplayBuffer) -> Samples:
        """Copies of all items of a memory, until the next call."""
        held = {}
        for name, stored in memory._stored.items():
            present, own = stored[: len(memory)], self._copies.get(name)
            if own is None or (own.shape, own.dtype, own.device) != (present.shape, present.dtype, present.device):
                self._copies[name] = own = present.clone()
            else:
                own.copy_(present)
            held[name] = own
        return Samples(held.pop("x"), held.pop("y"), held.pop("task", None), held)
