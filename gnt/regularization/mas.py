"""Memory aware synapses."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gnt._utils.parameters import ModuleOrParameters
from gnt.regularization._likelihoods import NormDirections
from gnt.regularization._measured import MeasuredPenalty


class MAS(MeasuredPenalty):
    """Memory aware synapses: strength * sum of A (theta - mu)^2, with A from the sensitivity of the outputs.

    At the end of a task `consolidate` adds to A the mean over samples x of |d ||f(x)||^2 / d theta|, with gradients of
    single samples, and takes the weights as mu. Labels are not used.

    Args:
        params: a module, whose parameters that require a gradient are used, or a list of parameters.
        strength: factor of the penalty, >= 0, without a factor 1/2.
        samples: use at most so many samples of the data, the first ones; None: all.
        chunk: the largest number of samples at once, which bounds memory.
        process_group: the processes over whose samples importances are means, as for `GnT`. None: all; False: this one
            alone.

    Raises:
        TypeError: ``params`` is neither a module nor a list of parameters, or has a sharded one.
        ValueError: a setting out of range; no parameters; one that is frozen, lazy, repeated or not real.

    Source: Aljundi et al., ECCV 2018 (arXiv 1711.09601), Eq. 2 with the squared norm.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> mas = gnt.MAS(net, strength=1.0)
    >>> mas.consolidate(net, torch.randn(16, 4))        # at the end of a task
    >>> mas().item(), mas.tasks
    (0.0, 1)
    """

    def __init__(
        self,
        params: ModuleOrParameters,
        strength: float,
        *,
        samples: int | None = None,
        chunk: int = 256,
        process_group: Any = None,
    ) -> None:
        super().__init__(params, strength, samples, chunk, process_group)

    def _directions(self) -> NormDirections:
        return NormDirections()

    def _take(self, importance: list[Tensor]) -> None:
        total = [old + new for old, new in zip(self._importance, importance, strict=True)]
        self._set(total, [parameter.detach().clone() for parameter in self.parameters], self.tasks + 1)
