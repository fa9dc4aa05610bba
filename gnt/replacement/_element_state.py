"""Reset of the optimizer's state for single elements of parameters.

An optimizer with a method ``reset_elements(param, chosen)`` resets its own state. For others the tables are those of
whole units (`gnt.replacement._optimizer_reset_table`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt.replacement._optimizer_checks import check_options
from gnt.replacement._optimizer_parts import OptimizerPart, optimizer_parts
from gnt.replacement._optimizer_registry import WHAT_TO_DO, unwrap_optimizer
from gnt.replacement._optimizer_reset_table import PARAMETER
from gnt.replacement._state_structure import path_name, walk_state


class ElementStateReset:
    """Resets the state of one optimizer, and of optimizers that it wraps, for elements of parameters.

    Raises:
        TypeError: not a torch optimizer, or one whose state cannot be reset per element.
        ValueError: the optimizer does not hold one of the parameters, or has eps = 0.
    """

    def __init__(self, optimizer: Any, names: Sequence[str], parameters: Sequence[Tensor]) -> None:
        optimizer = unwrap_optimizer(optimizer)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        held = {id(p) for options in optimizer.param_groups for p in options["params"]}
        missing = [name for name, parameter in zip(names, parameters, strict=True) if id(parameter) not in held]
        if missing:
            raise ValueError(
                f"optimizer {type(optimizer).__name__} does not hold {', '.join(missing)}: give it all parameters of "
                "the network (a copied network has parameters of its own)"
            )
        self.check(names, parameters)

    def _parts(self) -> list[OptimizerPart]:
        return optimizer_parts(self.optimizer, "reset_elements")

    def check(self, names: Sequence[str], parameters: Sequence[Tensor]) -> None:
        """Raise TypeError for state that cannot be reset, ValueError for eps = 0; nothing is changed."""
        for part in self._parts():
            for optimizer in part.optimizers:
                check_options(optimizer)
            if part.table is None:
                continue
            for name, parameter in zip(names, parameters, strict=True):
                for path, value in walk_state(part.state.get(parameter)):
                    if not isinstance(value, Tensor) or part.views(parameter, path, value) is None:
                        raise TypeError(
                            f"{part.name} keeps state {path_name(path)!r} for {name}, which gnt does not know how to "
                            f"reset for single weights; {WHAT_TO_DO}"
                        )

    def reset(self, parameter: Tensor, chosen: Tensor) -> None:
        """Reset the state of the elements where ``chosen``, bool of the parameter's shape, is True."""
        for part in self._parts():
            if part.table is None:
                cast(Any, part.optimizers[0]).reset_elements(parameter, chosen)
                continue
            part.expand_copies(parameter)
            for path, value in part.tensors(parameter):
                initial = part.initial(parameter, path)
                if initial is PARAMETER:
                    value.copy_(torch.where(chosen, parameter.detach().to(value.dtype), value))
                else:
                    value.masked_fill_(chosen, initial)
