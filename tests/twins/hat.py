"""The rates of HAT and AdaHAT, weight by weight, and the network capacity that follows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gnt.units import UnitGroup

Unit = tuple[str, int]  # group and number


class Weight(NamedTuple):
    """One element of a parameter: the unit whose row, bias or norm entry it is, and the unit whose column it is."""

    parameter: str
    position: tuple[int, ...]
    row: Unit | None
    column: Unit | None
    is_vector: bool


def weights(model: nn.Module, groups: Sequence[UnitGroup]) -> Iterator[Weight]:
    """All elements of all parameters."""
    for name, parameter in model.named_parameters():
        sides: tuple[dict[tuple[int, ...], Unit], ...] = ({}, {})
        for group in groups:
            for slot in group.slots:
                of_consumer = slot in group.outgoing
                for key, own in slot.module._parameters.items():
                    if own is parameter and not (of_consumer and key != "weight"):
                        for unit in range(group.num_units):
                            touched = torch.zeros(parameter.shape)
                            slot.fill_(touched, torch.tensor([unit]), 1.0)
                            for position in touched.nonzero().tolist():
                                sides[of_consumer][tuple(position)] = group.name, unit
        for at in itertools.product(*map(range, parameter.shape)):
            yield Weight(name, at, sides[0].get(at), sides[1].get(at), parameter.ndim == 1)


def joined(weight: Weight, number: Callable[[Unit], float], none: float) -> float:
    """The smaller of the numbers of a weight's two units; of the only one; or ``none`` if it belongs to no unit."""
    if weight.is_vector:
        return none if weight.row is None else number(weight.row)
    sides = [number(unit) for unit in (weight.row, weight.column) if unit is not None]
    return min(sides) if sides else none


def rate_of_hat(weight: Weight, masks: Sequence[dict[str, Tensor]]) -> float:
    """1 - min(c_i, c_j)."""
    return 1.0 - joined(weight, lambda unit: float(count(unit, masks) > 0), 1.0)


def rate_of_adahat(
    weight: Weight,
    masks: Sequence[dict[str, Tensor]],
    gates: dict[str, Tensor],
    alpha: float,
    epsilon: float,
    variant: str = "adahat",
) -> float:
    """r / (M + r) with r = alpha / (R + epsilon)."""
    m = joined(weight, lambda unit: count(unit, masks), len(masks))
    if variant == "no_sum":
        m = len(masks)
    names = list(gates) if weight.row is None else [weight.row[0]]
    regularization = 0.0 if variant == "no_reg" else sparsity(names, masks, gates)
    r = alpha / (regularization + epsilon)
    return r / (m + r)


def sparsity(names: Sequence[str], masks: Sequence[dict[str, Tensor]], gates: dict[str, Tensor]) -> float:
    """sum of a (1 - c) / sum of (1 - c), 0 if no unit is free."""
    free = [(name, unit) for name in names for unit in range(len(gates[name])) if not count((name, unit), masks)]
    return sum(float(gates[name][unit]) for name, unit in free) / len(free) if free else 0.0


def count(unit: Unit, masks: Sequence[dict[str, Tensor]]) -> int:
    """How many tasks use a unit."""
    return sum(int(mask[unit[0]][unit[1]]) for mask in masks)


def capacity(rates: dict[tuple[str, tuple[int, ...]], float], model: nn.Module, groups: Sequence[UnitGroup]) -> float:
    """The mean rate of all weights and biases of the layers whose outputs are units."""
    modules = [slot.module for group in groups for slot in group.incoming]
    names = [
        name
        for name, parameter in model.named_parameters()
        if any(parameter is own for module in modules for own in module._parameters.values())
    ]
    taken = [rate for (name, _), rate in rates.items() if name in names]
    return sum(taken) / len(taken)
