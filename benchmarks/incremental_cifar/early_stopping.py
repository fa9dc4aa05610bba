"""Early stopping: the network as it was when it did best on the validation images."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class BestNetwork:
    """Keeps a copy of the network whenever it is better than ever before in this stage (the first of equals stays).

    Attributes:
        accuracy: of the copy, on the validation images; below 0 when there is none.
    """

    def __init__(self) -> None:
        self.accuracy = -1.0
        self._net: dict[str, Tensor] = {}

    def update(self, net: nn.Module, accuracy: float) -> None:
        """After an epoch."""
        if accuracy > self.accuracy:
            self.accuracy = accuracy
            self._net = {name: value.clone() for name, value in net.state_dict().items()}

    def restore(self, net: nn.Module) -> None:
        """At the end of a stage: the network becomes the best there was, and the next stage begins anew.

        Parameters and buffers keep their places, so that optimizer and engine go on with them.
        """
        net.load_state_dict(self._net)
        self.accuracy, self._net = -1.0, {}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"accuracy": self.accuracy, "net": self._net}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.accuracy, self._net = state["accuracy"], dict(state["net"])
