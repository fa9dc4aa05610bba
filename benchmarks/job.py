"""What an experiment's training must be able to do, so that it can be shown, stopped and continued."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Job(ABC):
    """One method's training, done in short pieces; it can be stopped and saved between any two.

    Attributes:
        total: the number of pieces.
        done: how many are done.
        figures: what is measured, for the results; lists that grow as the training goes on.
        latest: the last figures in a few words, for the progress bar.
    """

    total: int
    done: int
    figures: dict[str, list[Any]]
    latest: str

    @abstractmethod
    def advance(self) -> str | None:
        """Do the next piece (about a tenth of a second). Returns a line for logs when something worth a line
        is complete.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit; what ``torch.load(weights_only=True)`` accepts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
