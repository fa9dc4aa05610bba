"""Warm-up of compiled learners, so that a run that is killed and resumed produces the same bytes as an uninterrupted
one.

A learner with ``compile=True`` executes the first step with a batch of a new layout (shapes, strides, dtypes and
devices of x and y) eagerly and all later ones as a compiled graph, which rounds differently. A resumed process must
continue with compiled steps. So it takes two dummy steps of each layout that the run had used, an eager one and one
that compiles, and only then loads the learner's state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Layout = tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype, str], ...]


class GraphWarmup:
    """The batch layouts that a learner has been called with."""

    def __init__(self) -> None:
        self._layouts: dict[Layout, None] = {}

    def record(self, *batch: Tensor) -> None:
        """Record the layout of a batch that the learner was called with."""
        self._layouts.setdefault(tuple((tuple(t.shape), t.stride(), t.dtype, t.device.type) for t in batch))

    def state_dict(self) -> list[Any]:
        """All layouts, in types that ``torch.load(weights_only=True)`` accepts."""
        return [
            [
                [list(shape), list(stride), str(dtype).removeprefix("torch."), device]
                for shape, stride, dtype, device in layout
            ]
            for layout in self._layouts
        ]

    def warm_up(self, learner: Any, state: list[Any]) -> None:
        """Compile a new learner for all layouts of a `state_dict`; load the learner's own state afterwards."""
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):  # dropout draws from torch's global generator
            for layout in state:
                batch = [
                    _dummy_tensor(shape, stride, dtype, device, generator) for shape, stride, dtype, device in layout
                ]
                for _ in ("eager", "compiled"):
                    learner.learn(*batch)
                self.record(*batch)


def _dummy_tensor(shape: list[int], stride: list[int], dtype: str, device: str, generator: torch.Generator) -> Tensor:
    """Random numbers, so that running statistics stay finite; for labels zeros, as class 0 always exists."""
    extent = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    type_: torch.dtype = getattr(torch, dtype)
    numbers = torch.randn(extent, generator=generator) if type_.is_floating_point else torch.zeros(extent)
    return numbers.to(device, type_).as_strided(shape, stride)
