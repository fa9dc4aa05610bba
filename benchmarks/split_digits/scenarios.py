"""The three scenarios: what the network's outputs stand for, and which of them are compared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CLASSES, PER_TASK = 10, 2
TASKS = CLASSES // PER_TASK


class SplitScenario:
    """A scenario, for classes that are numbered in the order in which they come: those of task t are 2t and 2t + 1.

    Args:
        name: "task": the outputs of the image's own task are compared; "domain": two outputs stand for the first and
            the second class of every task; "class": all ten outputs are compared.
    """

    tasks = TASKS

    def __init__(self, name: str) -> None:
        self.name = name
        self.outputs = PER_TASK if name == "domain" else CLASSES

    def targets(self, classes: Tensor) -> Tensor:
        """The targets of images of these classes."""
        return classes % PER_TASK if self.name == "domain" else classes

    def restrict(self, output: Tensor, targets: Tensor) -> Tensor:
        """Outputs with minus infinity for those that are not compared.

        >>> SplitScenario("task").restrict(torch.zeros(1, 10), torch.tensor([3])).isfinite().nonzero()[:, 1]
        tensor([2, 3])
        """
        if self.name != "task":
            return output
        own = torch.arange(self.outputs, device=output.device) // PER_TASK == targets[:, None] // PER_TASK
        return output.masked_fill(~own, -torch.inf)

    def own_outputs(self, task: int) -> slice | None:
        """The outputs that belong to one task only: with the scenario "task" those of its two classes."""
        return slice(task * PER_TASK, (task + 1) * PER_TASK) if self.name == "task" else None

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the outputs that are compared."""
        return F.cross_entropy(self.restrict(output, targets), targets)
