"""Literal twin of what followers see of a replacement: loops over units, positions and single elements."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gnt.units import UnitGroup
from tests.twins.shared_units import positions

Key = tuple[nn.Module, str]


def elements_of_unit(group: UnitGroup, unit: int) -> Iterator[tuple[Key, tuple[int, ...]]]:
    """Every element of a tensor of the network that belongs to a unit: (module, name of the tensor), index."""
    for slot in (*group.incoming, *group.scales):
        for name in slot.values or ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(slot.module, name, None)
            if tensor is not None:
                dim = slot.dim if tensor.ndim > 1 else 0
                for index in all_indices(tensor):
                    if index[dim] in positions(slot, unit):
                        yield (slot.module, name), index
    for slot in group.outgoing:
        weight = slot.module.weight
        for index in all_indices(weight):
            position = index[slot.dim]
            if slot.groups > 1:  # the row tells which group of channels the column belongs to
                position += index[0] // (weight.shape[0] // slot.groups) * weight.shape[1]
            if position in positions(slot, unit):
                yield (slot.module, "weight"), index


def all_indices(tensor: Tensor) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, tensor.shape))


def owned_by(groups: Sequence[UnitGroup], chosen: Sequence[Sequence[int]]) -> dict[Key, set[tuple[int, ...]]]:
    """For each tensor the elements that belong to the chosen units."""
    owned: dict[Key, set[tuple[int, ...]]] = {}
    for group, units in zip(groups, chosen, strict=True):
        for unit in units:
            for key, index in elements_of_unit(group, unit):
                owned.setdefault(key, set()).add(index)
    return owned


def followed_copy(
    copy: Tensor, before: Tensor, after: Tensor, owned: set[tuple[int, ...]], *, is_consumer_bias: bool
) -> Tensor:
    """What a copy of a tensor must hold after a replacement, element by element.

    Args:
        copy: the copy before the replacement.
        before, after: the tensor of the network.
        owned: the elements that belong to replaced units.
        is_consumer_bias: the tensor is the bias of a consumer of replaced units.
    """
    expected = copy.clone()
    for index in all_indices(copy):
        if index in owned:
            expected[index] = after[index]
        elif is_consumer_bias:
            expected[index] = copy[index] + (after[index] - before[index])
    return expected


def tensors_of(net: nn.Module) -> dict[Key, Tensor]:
    """Copies of all parameters and buffers of floating point, by module and name."""
    return {
        (module, name): tensor.detach().clone()
        for module in net.modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    }
