"""The closest third-party implementation, `ccbp-pytorch <https://pypi.org/project/ccbp-pytorch/>`_, with settings that
match gnt's.

Its discrete mode is continual backpropagation with a gradient-based utility. By default it replaces units every 1,000
steps and also replaces outputs; here both are set as in gnt: units are replaced in the step in which they are due, and
only hidden ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .step_runners import REPLACEMENT_RATE, StepRunner, loop
from .workloads import Workload

MODULE, PACKAGE = "ccbp_pytorch", "ccbp-pytorch"


def runner(workload: Workload, make_optimizer: Callable[[nn.Module], Any]) -> StepRunner:
    """A plain training loop with a wrapped optimizer."""
    from ccbp_pytorch import CCBP, find_neuron_configs

    def wrapped(net: nn.Module) -> Any:
        return CCBP(
            make_optimizer(net),
            neuron_configs=find_neuron_configs(net)[:-1],  # the last one contains the outputs
            continuous=False,
            replacement_rate=REPLACEMENT_RATE,
            maturity_steps=workload.maturity,
            reset_interval=1,
            utility_type="contribution",
        )

    return loop(workload, wrapped)
