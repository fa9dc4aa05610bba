"""One row for each optimizer: how it is built, and what each entry of its state is for a unit that was just born.

A row enters its optimizer into all generic tests: those of tests/replacement/test_optimizer_state.py and, by way of
tests/strategies.py, the property tests. The values at birth are what the optimizer itself would put there before its
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

THE_WEIGHT = "the parameter itself"


@dataclass(frozen=True)
class OptimizerCase:
    """An optimizer with its options.

    Attributes:
        name: shown as the test's id.
        build: makes it for some parameters.
        birth: state key -> its value for a new unit.
        shared: state keys that the whole tensor shares; a replacement leaves them alone.
        matrices_only: it takes no parameters but matrices.
    """

    name: str
    build: Callable[[Iterable[Tensor]], Optimizer]
    birth: Mapping[str, float | str]
    shared: tuple[str, ...] = ("step",)
    matrices_only: bool = False

    def __repr__(self) -> str:
        return self.name


def case(
    optimizer: type[Optimizer],
    *,
    birth: Mapping[str, float | str],
    shared: tuple[str, ...] = ("step",),
    matrices_only: bool = False,
    **options: Any,
) -> OptimizerCase:
    shown = "-".join(f"{key}={value}" for key, value in options.items())
    name = f"{optimizer.__name__}-{shown}" if shown else optimizer.__name__
    return OptimizerCase(name, lambda params: optimizer(params, **options), birth, shared, matrices_only)


o = torch.optim
MOMENTUM = {"momentum_buffer": 0.0}
ADAM = {"exp_avg": 0.0, "exp_avg_sq": 0.0}
AMSGRAD = {**ADAM, "max_exp_avg_sq": 0.0}
ADAMAX = {"exp_avg": 0.0, "exp_inf": 0.0}
ADADELTA = {"square_avg": 0.0, "acc_delta": 0.0}
SQUARES = {"square_avg": 0.0}
CENTERED = {"square_avg": 0.0, "grad_avg": 0.0, "momentum_buffer": 0.0}
RPROP = {"prev": 0.0, "step_size": 0.02}
AVERAGE = {"ax": THE_WEIGHT}
NADAM_SHARED = ("step", "mu_product")
ASGD_SHARED = ("step", "eta", "mu")
GNT_SHARED = ("step", "row_start", "column_start")  # counts of rows and columns are not of the parameter's shape

CASES = [
    case(o.SGD, lr=0.02, birth={}, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, weight_decay=0.1, birth=MOMENTUM, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, dampening=0.5, birth=MOMENTUM, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, nesterov=True, birth=MOMENTUM, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, foreach=True, birth=MOMENTUM, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, foreach=False, birth=MOMENTUM, shared=()),
    case(o.SGD, lr=0.02, momentum=0.9, fused=True, birth=MOMENTUM, shared=()),
    case(o.Adam, birth=ADAM),
    case(o.Adam, weight_decay=0.1, foreach=True, birth=ADAM),
    case(o.Adam, foreach=False, birth=ADAM),
    case(o.Adam, fused=True, birth=ADAM),
    case(o.Adam, amsgrad=True, birth=AMSGRAD),
    case(o.Adam, amsgrad=True, foreach=True, birth=AMSGRAD),
    case(o.Adam, amsgrad=True, fused=True, birth=AMSGRAD),
    case(o.AdamW, birth=ADAM),
    case(o.AdamW, foreach=True, birth=ADAM),
    case(o.AdamW, fused=True, birth=ADAM),
    case(o.AdamW, amsgrad=True, birth=AMSGRAD),
    case(o.NAdam, birth=ADAM, shared=NADAM_SHARED),
    case(o.NAdam, foreach=True, birth=ADAM, shared=NADAM_SHARED),
    case(o.RAdam, birth=ADAM),
    case(o.RAdam, foreach=True, birth=ADAM),
    case(o.Adamax, birth=ADAMAX),
    case(o.Adamax, foreach=True, birth=ADAMAX),
    case(o.Adagrad, birth={"sum": 0.0}),
    case(o.Adagrad, initial_accumulator_value=0.3, birth={"sum": 0.3}),
    case(o.Adagrad, initial_accumulator_value=0.3, foreach=True, birth={"sum": 0.3}),
    case(o.Adagrad, initial_accumulator_value=0.3, fused=True, birth={"sum": 0.3}),
    case(o.Adadelta, birth=ADADELTA),
    case(o.Adadelta, foreach=True, birth=ADADELTA),
    case(o.RMSprop, birth=SQUARES),
    case(o.RMSprop, centered=True, momentum=0.9, birth=CENTERED),
    case(o.RMSprop, centered=True, momentum=0.9, foreach=True, birth=CENTERED),
    case(o.Rprop, lr=0.02, birth=RPROP),
    case(o.Rprop, lr=0.02, foreach=True, birth=RPROP),
    case(o.ASGD, lr=0.02, t0=1, birth=AVERAGE, shared=ASGD_SHARED),
    case(o.ASGD, lr=0.02, t0=1, foreach=True, birth=AVERAGE, shared=ASGD_SHARED),
    case(AdamGnT, birth=ADAM, shared=GNT_SHARED),
    case(AdamGnT, amsgrad=True, birth=AMSGRAD, shared=GNT_SHARED),
    case(AdamGnT, weight_decay=0.1, decoupled_weight_decay=True, birth=ADAM, shared=GNT_SHARED),
    case(AdamGnT, foreach=True, birth=ADAM, shared=GNT_SHARED),
    case(AdamGnT, fused=True, birth=ADAM, shared=GNT_SHARED),
]
if hasattr(o, "Muon"):  # torch 2.9
    CASES.append(case(o.Muon, birth=MOMENTUM, shared=(), matrices_only=True))
