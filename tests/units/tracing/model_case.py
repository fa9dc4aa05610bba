"""`Case`: a model to trace, with the groups and refusals that are expected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# reasons of refusal, as regular expressions
SUM = "summed|residual"
ATTENTION = "attention"
OUTPUT = "output"
SHARED = "tied|shares|called 2 times|read by several operations"


@dataclass(frozen=True)
class Case:
    """A model to trace on ``args`` and ``kwargs``.

    ``groups`` maps a pattern of group names to the number of units (0: any) and the activation. ``refused`` maps a
    pattern to the reason, a regular expression. Every pattern must match something, and every group and refusal must
    match a pattern.
    """

    build: Callable[[], nn.Module]
    groups: Mapping[str, tuple[int, str]]
    refused: Mapping[str, str]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    gated: Collection[str] = frozenset()  # groups whose units are multiplied by values of no unit
    oracle: bool = True  # Torch-Pruning can build its graph, with all parameters


def tokens() -> Tensor:
    return torch.tensor([[1, 4, 2, 9, 5, 3], [7, 2, 6, 1, 8, 3]])


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))
