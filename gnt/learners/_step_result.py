"""Step: what a learner returns of one step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from gnt._utils.caller_instruction import number_of_targets

_UNPACKED = "loss, output, replaced = learn(x, y), for every loss; see docs/from_loss_of_plasticity.md"


class Step(NamedTuple):
    """Result of one call of `learn`.

    Attributes:
        loss: the loss before the update, 0-d and detached, without the penalties of methods.
        output: the network's output before the update, detached.
        replaced: indices of the units replaced after the update, one int64 tensor for each unit group: of the learner's
            engine, then of engines attached to the optimizer (`CBPSGD`, `GnT.attach`), then of `CBPLinear` and
            `CBPConv` layers, then of methods that replace units (`ReDo`).
    """

    loss: Tensor
    output: Tensor
    replaced: list[Tensor]

    def __iter__(self) -> Iterator[Any]:
        if number_of_targets(sys._getframe(1)) == 2:
            raise ValueError(f"learn returns three values, {_UNPACKED}")
        return tuple.__iter__(self)

    def __getattr__(self, name: str) -> Any:
        of_tensors = f": learn returns {_UNPACKED}" if not name.startswith("_") and hasattr(Tensor, name) else ""
        raise AttributeError(f"Step has no attribute {name}{of_tensors}")
