"""GraphWarmup of steps: what lets a compiled run that was killed end with the very bytes of one that was not.

A learner with ``compile=True`` takes the first step of each kind (shapes, strides and types of x and y) operation by
operation and all later ones by a graph, which rounds differently. So which steps go by the graph is part of what a run
is, and a new process has to start where the old one was: it takes two throw-away steps of each kind that the old one
had taken, the ordinary one and the one that compiles, and only then loads the state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Kind = tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype, str], ...]


class GraphWarmup:
    """The kinds of steps that a learner has taken."""

    def __init__(self) -> None:
        self._seen: dict[Kind, None] = {}

    def record(self, *batch: Tensor) -> None:
        """Remember the kind of a step that was taken."""
        self._seen.setdefault(tuple((tuple(t.shape), t.stride(), t.dtype, t.device.type) for t in batch))

    def state_dict(self) -> list[Any]:
        """All kinds, as what ``torch.load(weights_only=True)`` accepts."""
        return [
            [[list(shape), list(stride), str(dtype).removeprefix("torch."), on] for shape, stride, dtype, on in kind]
            for kind in self._seen
        ]

    def warm_up(self, learner: Any, state: list[Any]) -> None:
        """Bring a new learner to where one with this `state_dict` was; its weights are loaded afterwards."""
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):  # dropout draws from torch's own
            for kind in state:
                batch = [_dummy_tensor(*each, generator) for each in kind]
                for _ in ("by operations", "by the graph"):
                    learner.learn(*batch)
                self.record(*batch)


def _dummy_tensor(shape: list[int], stride: list[int], dtype: str, device: str, generator: torch.Generator) -> Tensor:
    """Numbers that change what a forward changes; of classes the first, which is always there."""
    extent = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    kind: torch.dtype = getattr(torch, dtype)
    numbers = torch.randn(extent, generator=generator) if kind.is_floating_point else torch.zeros(extent)
    return numbers.to(device, kind).as_strided(shape, stride)
