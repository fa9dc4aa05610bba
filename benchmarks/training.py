"""The interface of an experiment's training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from .plasticity import Verdicts

Row = dict[str, float]


class Training(ABC):
    """The training of one method, in short pieces; it can be stopped and saved between any two.

    Subclasses are constructed with settings, method and a list of seeds (several if they are trained together).

    Attributes:
        total: number of pieces.
        done: number of completed pieces.
        latest: the latest metrics, for the progress bar.
    """

    total: int
    done: int
    latest: str

    @abstractmethod
    def advance(self) -> list[Row]:
        """Train the next piece (about 0.1 s). Returns the rows of the record that are now complete.

        A row is flat: ``{"seed": 0, "task": 3, "online_accuracy": 0.93, "dead_units/0": 0.1}``; the keys of metrics of
        a layer are "name/layer". Rows must be equal in two executions of the same run, so they contain no times.
        """

    def plasticity(self) -> Verdicts:
        """What the plasticity check says of each seed's network, after the last piece; empty: it is not checked."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which training continues bit for bit, in types that
        ``torch.load(weights_only=True)`` accepts.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
