"""Table of optimizers: how each is built, and the value of each entry of its state for a newly replaced unit.

Each row enters its optimizer into the generic tests: those of tests/replacement/test_optimizer_state.py and, through
tests/helpers/strategies.py, the property tests. The initial values are those that the optimizer itself sets before its
first step, written down as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt import AdamGnT
from gnt.optim import UPGD

PARAMETER_VALUE = "the value of the parameter"


@dataclass(frozen=True)
class OptimizerCase:
    """An optimizer with its options.

    Attributes:
        name: the id of the test.
        build: builds the optimizer for the given parameters.
        initial: the value of each state key for a new unit.
        shared: state keys with one value for the whole tensor; a replacement does not change them.
        matrices_only: the optimizer accepts only 2-d parameters.
    """

    name: str
    build: Callable[[Iterable[Tensor]], Optimizer]
    initial: Mapping[str, float | str]
    shared: tuple[str, ...] = ("step",)
    matrices_only: bool = False

    def __repr__(self) -> str:
        return self.name


def case(
    optimizer: type[Optimizer],
    *,
    initial: Mapping[str, float | str],
    shared: tuple[str, ...] = ("step",),
    matrices_only: bool = False,
    **options: Any,
) -> OptimizerCase:
    shown = "-".join(f"{key}={value}" for key, value in options.items())
    name = f"{optimizer.__name__}-{shown}" if shown else optimizer.__name__
    return OptimizerCase(name, lambda params: optimizer(params, **options), initial, shared, matrices_only)


o = torch.optim
MOMENTUM = {"momentum_buffer": 0.0}
ADAM = {"exp_avg": 0.0, "exp_avg_sq": 0.0}
AMSGRAD = {**ADAM, "max_exp_avg_sq": 0.0}
ADAMAX = {"exp_avg": 0.0, "exp_inf": 0.0}
ADADELTA = {"square_avg": 0.0, "acc_delta": 0.0}
SQUARES = {"square_avg": 0.0}
CENTERED = {"square_avg": 0.0, "grad_avg": 0.0, "momentum_buffer": 0.0}
RPROP = {"prev": 0.0, "step_size": 0.02}
AVERAGE = {"ax": PARAMETER_VALUE}
NADAM_SHARED = ("step", "mu_product")
ASGD_SHARED = ("step", "eta", "mu")
GNT_SHARED = ("step", "row_start", "column_start")  # step counts per row and column, not of the parameter's shape

CASES = [
    case(o.SGD, lr=0.02, initial={}, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, weight_decay=0.1, initial=MOMENTUM, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, dampening=0.5, initial=MOMENTUM, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, nesterov=True, initial=MOMENTUM, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, foreach=True, initial=MOMENTUM, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, foreach=False, initial=MOMENTUM, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, fused=True, initial=MOMENTUM, shared=()),
    case(o.Adam, initial=ADAM),
    case(o.Adam, weight_decay=0.1, foreach=True, initial=ADAM),
    case(o.Adam, foreach=False, initial=ADAM),
    case(o.Adam, fused=True, initial=ADAM),
    case(o.Adam, amsgrad=True, initial=AMSGRAD),
    case(o.Adam, amsgrad=True, foreach=True, initial=AMSGRAD),
    case(o.Adam, amsgrad=True, fused=True, initial=AMSGRAD),
    case(o.AdamW, initial=ADAM),
    case(o.AdamW, foreach=True, initial=ADAM),
    case(o.AdamW, fused=True, initial=ADAM),
    case(o.AdamW, amsgrad=True, initial=AMSGRAD),
    case(o.NAdam, initial=ADAM, shared=NADAM_SHARED),
    case(o.NAdam, foreach=True, initial=ADAM, shared=NADAM_SHARED),
    case(o.RAdam, initial=ADAM),
    case(o.RAdam, foreach=True, initial=ADAM),
    case(o.Adamax, initial=ADAMAX),
    case(o.Adamax, foreach=True, initial=ADAMAX),
    case(o.Adagrad, initial={"sum": 0.0}),
    case(o.Adagrad, initial_accumulator_value=0.3, initial={"sum": 0.3}),
    case(o.Adagrad, initial_accumulator_value=0.3, foreach=True, initial={"sum": 0.3}),
    case(o.Adagrad, initial_accumulator_value=0.3, fused=True, initial={"sum": 0.3}),
    case(o.Adadelta, initial=ADADELTA),
    case(o.Adadelta, foreach=True, initial=ADADELTA),
    case(o.RMSprop, initial=SQUARES),
    case(o.RMSprop, centered=True, momentum=0.9, initial=CENTERED),
    case(o.RMSprop, centered=True, momentum=0.9, foreach=True, initial=CENTERED),
    case(o.Rprop, lr=0.02, initial=RPROP),
    case(o.Rprop, lr=0.02, foreach=True, initial=RPROP),
    case(o.ASGD, lr=0.02, t0=1, initial=AVERAGE, shared=ASGD_SHARED),
    case(o.ASGD, lr=0.02, t0=1, foreach=True, initial=AVERAGE, shared=ASGD_SHARED),
    case(AdamGnT, initial=ADAM, shared=GNT_SHARED),
    case(AdamGnT, amsgrad=True, initial=AMSGRAD, shared=GNT_SHARED),
    case(AdamGnT, weight_decay=0.1, decoupled_weight_decay=True, initial=ADAM, shared=GNT_SHARED),
    case(AdamGnT, foreach=True, initial=ADAM, shared=GNT_SHARED),
    case(AdamGnT, fused=True, initial=ADAM, shared=GNT_SHARED),
    case(UPGD, sigma=0.0, betas=(0.9, 0.999), initial={"avg_utility": 0.0, **ADAM}),
]
if hasattr(o, "Muon"):  # torch 2.9
    CASES.append(case(o.Muon, initial=MOMENTUM, shared=(), matrices_only=True))
