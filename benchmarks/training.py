"""What an experiment's training must be able to do, so that it can be shown, stopped and continued."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

Row = dict[str, float]


class Training(ABC):
    """One method's training, done in short pieces; it can be stopped and saved between any two.

    It is called with settings, method and a list of seeds: one, but for methods whose seeds are trained together.

    Attributes:
        total: the number of pieces.
        done: how many are done.
        latest: the last figures in a few words, for the progress bar.
    """

    total: int
    done: int
    latest: str

    @abstractmethod
    def advance(self) -> list[Row]:
        """Do the next piece (about a tenth of a second). Returns the rows of the record that are complete now.

        A row is flat: ``{"seed": 0, "task": 3, "online_accuracy": 0.93, "dead_units/0": 0.1}``; per-layer figures are
        "name/layer". Nothing in it may differ between two runs of the same thing: no times.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit; what ``torch.load(weights_only=True)`` accepts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
