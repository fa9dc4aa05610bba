"""Early stopping: the network of the epoch with the best validation accuracy."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..saved_tensors import weights
from ..saved_values import Kind, fields, number


class BestNetwork:
    """Keeps a copy of the network of the best epoch of a stage (the first of equal ones).

    Attributes:
        accuracy: validation accuracy of the copy; negative if there is none.
    """

    def __init__(self) -> None:
        self.accuracy = -1.0
        self._net: dict[str, Tensor] = {}

    def update(self, net: nn.Module, accuracy: float) -> None:
        """Compare with the network after an epoch, and copy it if it is better."""
        if accuracy > self.accuracy:
            self.accuracy = accuracy
            self._net = {name: value.clone() for name, value in net.state_dict().items()}

    def restore(self, net: nn.Module) -> None:
        """At the end of a stage: load the copy into the network and forget it.

        Parameters and buffers are changed in place, so that optimizer and engine keep working.
        """
        net.load_state_dict(self._net)
        self.accuracy, self._net = -1.0, {}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"accuracy": self.accuracy, "net": self._net}

    @staticmethod
    def kind(net: nn.Module) -> Kind:
        """What a `state_dict` is, for networks like this one."""
        return fields(accuracy=number(), net=weights(net))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.accuracy, self._net = state["accuracy"], dict(state["net"])
