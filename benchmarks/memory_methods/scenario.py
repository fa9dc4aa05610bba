"""What the outputs of the network stand for in each task."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Scenario(Protocol):
    """The loss of an experiment, and which outputs are compared.

    Attributes:
        tasks: number of tasks.
        outputs: number of outputs of the network.
    """

    tasks: int
    outputs: int

    def restrict(self, output: Tensor, targets: Tensor) -> Tensor:
        """Outputs with minus infinity for those that are not compared."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The loss, of the outputs that are compared."""

    def own_outputs(self, task: int) -> slice | None:
        """The outputs that belong to one task only; None if all tasks share all outputs."""
