"""The optimizer's step in a learner, which writes the means of |w| that the learner's engine reads after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

from gnt.importance import WeightMeans
from gnt.optim._sgd_kernel import SGDKernel
from gnt.optim._step_wrapper import unwrap_step
from gnt.optim.adam_gnt import AdamGnT

_torch_step = unwrap_step(torch.optim.SGD.step)


class LearnerStep:
    """Steps of a learner's optimizer: `AdamGnT` and plain ``torch.optim.SGD`` write means of |w| as they write w."""

    def __init__(self) -> None:
        self._sgd = SGDKernel()

    def step(self, optimizer: Optimizer, weight_means: Mapping[int, WeightMeans]) -> None:
        """Do what ``optimizer.step()`` does.

        Means are not written if a hook runs after the step, as it may change weights before the engine reads them. SGD
        is left to torch if its step was replaced, it has hooks, or `SGDKernel` does not take its options.

        Args:
            optimizer: the optimizer.
            weight_means: where means of |w| are written, by the parameter's id.

        Raises:
            RuntimeError: a gradient does not fit its parameter; nothing is changed.
        """
        if isinstance(optimizer, AdamGnT):
            optimizer.write_weight_means(None if _has_post_hooks(optimizer) else weight_means)
        elif (
            type(optimizer) is torch.optim.SGD
            and weight_means
            and _runs_plain_step(optimizer)
            and self._sgd.step(optimizer.param_groups, weight_means)
        ):
            return
        optimizer.step()


def _has_post_hooks(optimizer: Optimizer) -> bool:
    hooks: Any = optimizer._optimizer_step_post_hooks, torch_optimizer._global_optimizer_post_hooks
    return any(hooks)


def _runs_plain_step(optimizer: torch.optim.SGD) -> bool:
    """True if ``optimizer.step()`` is torch's own, without hooks."""
    hooks: Any = optimizer._optimizer_step_pre_hooks, torch_optimizer._global_optimizer_pre_hooks
    if any(hooks) or _has_post_hooks(optimizer):
        return False
    return "step" not in vars(optimizer) and unwrap_step(torch.optim.SGD.step) is _torch_step
