"""Table of the per-element state of torch's optimizers: state key -> initial value.

Those of other packages are in `_third_party_reset_table`. Each entry was written from the optimizer's source and is
tested with the real optimizer. An optimizer without an entry is refused: state with the shape of the parameter could be
anything, and a wrong guess would corrupt it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

PARAMETER = object()  # initial value: the parameter itself
SHARED = object()  # one value, or a few, for the whole parameter: not changed when a unit is replaced
InitialValue = Any  # a number, the name of an entry of the parameter group, PARAMETER or SHARED

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
