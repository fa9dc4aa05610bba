"""NormStatistics: finds the running statistics that a forward writes."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_TAKES_THOSE_OF_THE_BATCH = {F.batch_norm: "training", F.instance_norm: "use_input_stats"}
"""Norms with running statistics, and the argument by which they write them."""


class NormStatistics(TorchFunctionMode):
    """Finds the tensors that batch norms and instance norms write inside this context.

    They are written without an increase of their versions, and may keep their values in one step: a batch of zeros
    behind a layer without bias leaves means of 0 as they are.

    Attributes:
        written: the ids of the running means and variances.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the statistics of a norm, and call the function."""
        kwargs = kwargs or {}
        flag: str | None
        if (flag := _TAKES_THOSE_OF_THE_BATCH.get(func)) is not None:
            given = inspect.signature(func).bind(*args, **kwargs)
            given.apply_defaults()
            if given.arguments[flag]:
                self.written |= {id(given.arguments["running_mean"]), id(given.arguments["running_var"])}
        elif func in (torch.batch_norm, torch.instance_norm) and args[5]:
            self.written |= {id(args[3]), id(args[4])}
        return func(*args, **kwargs)
