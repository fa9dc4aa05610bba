"""What optimizers keep for each element of a parameter, and its value at birth: rows, state key -> value.

Optimizers of torch stand here by their class, those of other packages by their names: they are not imported. Each row
was written from the optimizer's source and is tested with the real one. An optimizer without a row is refused: state
shaped like the parameter may be anything, and a guess would corrupt it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

# value at birth: a number, the name of an entry of the parameter group, or the parameter itself
PARAMETER = object()
Fresh = Any

_ADAM = {"exp_avg": 0.0, "exp_avg_sq": 0.0, "max_exp_avg_sq": 0.0}

STATE_RESETS: dict[type[Optimizer], Mapping[str, Fresh]] = {
    torch.optim.SGD: {"momentum_buffer": 0.0},
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.NAdam: _ADAM,
    torch.optim.RAdam: _ADAM,
    torch.optim.Adamax: {"exp_avg": 0.0, "exp_inf": 0.0},
    torch.optim.Adagrad: {"sum": "initial_accumulator_value"},
    torch.optim.Adadelta: {"square_avg": 0.0, "acc_delta": 0.0},
    torch.optim.RMSprop: {"square_avg": 0.0, "momentum_buffer": 0.0, "grad_avg": 0.0},
    torch.optim.Rprop: {"prev": 0.0, "step_size": "lr"},
    torch.optim.ASGD: {"ax": PARAMETER},
}
if hasattr(torch.optim, "Muon"):  # torch 2.9
    STATE_RESETS[torch.optim.Muon] = {"momentum_buffer": 0.0}

WHY_NOT = {
    "LBFGS": "its history mixes all parameters into flat vectors",
    "Adafactor": "its factored second moment is shared by whole rows and columns",
    "SparseAdam": "it takes sparse gradients only",
}

_SCHEDULE_FREE = {"z": PARAMETER, "exp_avg_sq": 0.0}

# by package and class
THIRD_PARTY: dict[tuple[str, str], Mapping[str, Fresh]] = {
    ("schedulefree", "SGDScheduleFree"): _SCHEDULE_FREE,
    ("schedulefree", "AdamWScheduleFree"): _SCHEDULE_FREE,
    ("schedulefree", "RAdamScheduleFree"): _SCHEDULE_FREE,
    ("lion_pytorch", "Lion"): {"exp_avg": 0.0},
    ("pytorch_optimizer", "Lion"): {"exp_avg": 0.0},
    ("pytorch_optimizer", "AdaBelief"): {"exp_avg": 0.0, "exp_avg_var": 0.0, "max_exp_avg_var": 0.0},
    ("muon", "SingleDeviceMuon"): {"momentum_buffer": 0.0},
    ("muon", "SingleDeviceMuonWithAuxAdam"): {"momentum_buffer": 0.0, "exp_avg": 0.0, "exp_avg_sq": 0.0},
}

# wrappers that add nothing to the state: package -> the attribute that is the optimizer
_WRAPPERS = {"accelerate": "optimizer", "lightning": "optimizer", "pytorch_lightning": "optimizer"}


def unwrap_optimizer(optimizer: Any) -> Any:
    """The optimizer inside the wrappers that accelerate and Lightning put around it."""
    while isinstance(inner := getattr(optimizer, _WRAPPERS.get(_package(type(optimizer)), ""), None), Optimizer):
        optimizer = inner
    return optimizer


def row_of(optimizer: Optimizer) -> Mapping[str, Fresh] | None:
    """The row of an optimizer, or of the nearest class that it is derived from."""
    for kind in type(optimizer).__mro__:
        row = STATE_RESETS.get(kind, THIRD_PARTY.get((_package(kind), kind.__name__)))
        if row is not None:
            return row
    return None


def known() -> list[str]:
    """The names of all optimizers that have a row."""
    names = {kind.__name__ for kind in STATE_RESETS} | {name for _, name in THIRD_PARTY}
    return sorted(names)


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]
