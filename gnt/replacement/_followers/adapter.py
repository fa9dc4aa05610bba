"""What an engine calls of each of its followers, in the order: check, move_bias, reset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from gnt.units import Slot, UnitGroup


class FollowerAdapter(Protocol):
    """One follower of an engine, behind the interface that all kinds of followers have here."""

    @property
    def target(self) -> Any:
        """The object that follows."""

    @property
    def moves_bias(self) -> bool:
        """Whether `move_bias` has an effect; if no follower has one, the biases need not be copied."""

    def check(self, groups: Sequence[UnitGroup]) -> None:
        """Raise an error if units of these groups could not be followed. Called before anything is changed."""

    def move_bias(self, slot: Slot, change: Tensor) -> None:
        """The bias of a consumer has changed by ``change``, which has its shape."""

    def reset(self, group: UnitGroup, units: Tensor) -> None:
        """These units were replaced; their weights in the network are the new ones."""
