"""A model to be traced, with what is expected of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# reasons of refusals, as regular expressions
SUM = "summed|residual"
ATTENTION = "attention"
OUTPUT = "output"
SHARED = "tied|shares|called 2 times|read by several operations"


@dataclass(frozen=True)
class Case:
    """A model to be traced on ``args`` and ``kwargs``.

    ``groups``: number of units (0: any) and activation by pattern of the group's name; ``refused``: reason, as a
    regular expression, by pattern. Every pattern matches something, every group and every refusal matches a pattern.
    """

    build: Callable[[], nn.Module]
    groups: Mapping[str, tuple[int, str]]
    refused: Mapping[str, str]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    gated: Collection[str] = frozenset()  # groups whose units are multiplied with something beside them
    oracle: bool = True  # whether Torch-Pruning builds its graph


def tokens() -> Tensor:
    return torch.tensor([[1, 4, 2, 9, 5, 3], [7, 2, 6, 1, 8, 3]])


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))
