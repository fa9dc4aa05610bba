"""Tables of the per-element state of optimizers: state key -> initial value.

Optimizers of torch are listed by class, those of other packages by name, since they are not imported. Each entry was
written from the optimizer's source and is tested with the real optimizer. An optimizer without an entry is refused:
state with the shape of the parameter could be anything, and a wrong guess would corrupt it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

PARAMETER = object()  # initial value: the parameter itself
InitialValue = Any  # a number, the name of an entry of the parameter group, or PARAMETER

_ADAM = {"exp_avg": 0.0, "exp_avg_sq": 0.0, "max_exp_avg_sq": 0.0}

STATE_RESETS: dict[type[Optimizer], Mapping[str, InitialValue]] = {
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

REASONS_NOT_RESETTABLE = {
    "LBFGS": "its history mixes all parameters into flat vectors",
    "Adafactor": "its factored second moment is shared by whole rows and columns",
    "SparseAdam": "it takes sparse gradients only",
}

_SCHEDULE_FREE = {"z": PARAMETER, "exp_avg_sq": 0.0}

# by package and class name
THIRD_PARTY_STATE_RESETS: dict[tuple[str, str], Mapping[str, InitialValue]] = {
    ("schedulefree", "SGDScheduleFree"): _SCHEDULE_FREE,
    ("schedulefree", "AdamWScheduleFree"): _SCHEDULE_FREE,
    ("schedulefree", "RAdamScheduleFree"): _SCHEDULE_FREE,
    ("lion_pytorch", "Lion"): {"exp_avg": 0.0},
    ("pytorch_optimizer", "Lion"): {"exp_avg": 0.0},
    ("pytorch_optimizer", "AdaBelief"): {"exp_avg": 0.0, "exp_avg_var": 0.0, "max_exp_avg_var": 0.0},
    ("muon", "SingleDeviceMuon"): {"momentum_buffer": 0.0},
    ("muon", "SingleDeviceMuonWithAuxAdam"): {"momentum_buffer": 0.0, "exp_avg": 0.0, "exp_avg_sq": 0.0},
}

# wrappers without state of their own: package -> the attribute with the optimizer
WRAPPERS = {"accelerate": "optimizer", "lightning": "optimizer", "pytorch_lightning": "optimizer"}
