"""Checks of the unit groups given to an engine: each slot fits its module, and each row and column has one unit.

Groups may be written by hand, and a network may be changed after it was traced. Without these checks a wrong slot would
fail in the middle of the first replacement, or corrupt the network unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from gnt.units._containers import Container
from gnt.units._group import UnitGroup
from gnt.units._layer_types import WEIGHT_LAYERS, input_groups, weight_fault
from gnt.units._scale_values import has_entry_per_unit, initial_scale_values
from gnt.units._slot import Slot

_SIDES = {"incoming": 0, "scales": 0, "outgoing": 1}  # the units' dimension in the weight of torch's layers


def check_groups(groups: Sequence[UnitGroup], *, frozen: bool = False) -> None:
    """Check that unit groups fit their modules and each other; ``frozen``: accept frozen weights.

    Raises:
        TypeError: an attribute of the wrong type.
        ValueError: a number or shape that does not fit, a frozen weight, a row or column that belongs to two units.
    """
    for group in groups:
        _check_group(group)
        if not frozen:
            _refuse_frozen(group)
    for side in _SIDES:
        _check_disjoint(groups, side)


def _check_group(group: UnitGroup) -> None:
    label = f"unit group {group.name!r}"
    if not isinstance(group.name, str):
        raise TypeError(f"the name of a unit group must be a string, got {group.name!r}")
    _check_integer(label, "num_units", group.num_units, 1)
    _check_activation(label, group.activation)
    _check_integer(label, "members", group.members, 1)
    if group.num_units % group.members:
        raise ValueError(f"members of {label} must divide its num_units, {group.num_units}, got {group.members}")
    for key, kind in {"containers": Container, "couplings": str}.items():
        held: Any = getattr(group, key)
        if not isinstance(held, (tuple, list)) or not all(isinstance(each, kind) for each in held):
            raise TypeError(f"{key} of {label} must be a tuple of {kind.__name__}, got {held!r}")
    for side in _SIDES:
        slots: Any = getattr(group, side)
        if not isinstance(slots, (tuple, list)) or not all(isinstance(slot, Slot) for slot in slots):
            raise TypeError(f"{side} of {label} must be a tuple of gnt.units.Slot, got {slots!r}")
        if not slots and side != "scales":
            raise ValueError(f"{side} of {label} is empty: units need at least one producer and one consumer")
        for slot in slots:
            _check_slot(f"{side} slot {slot.name!r} of {label}", slot, side, group.num_units)
    _check_reads_itself(label, group)


def _refuse_frozen(group: UnitGroup) -> None:
    """Refuse frozen weights of which a replacement changes a part: those of all slots but norms."""
    sides = {id(slot): side for side in _SIDES for slot in getattr(group, side)}
    for slot in (*group.drawn, *group.outgoing):
        fault = weight_fault(slot.weight)
        if fault is not None:
            kind = type(slot.module).__name__
            raise ValueError(
                f"{sides[id(slot)]} slot {slot.name!r} of unit group {group.name!r}: the weight of its {kind} {fault}"
            )


def _check_reads_itself(label: str, group: UnitGroup) -> None:
    """Refuse a group whose only producers, or only consumers, are layers that read the units they produce.

    A gate that the units compute of themselves, ``h * sigmoid(gate(h))``, is a producer and a consumer; other layers
    produce and read the units beside it.
    """
    producers, consumers = ({id(slot.module) for slot in slots} for slots in (group.incoming, group.outgoing))
    if producers & consumers and (producers <= consumers or consumers <= producers):
        name = next(slot.name for slot in group.incoming if id(slot.module) in consumers)
        raise ValueError(
            f"{name!r} is both a producer and a consumer of {label}: a layer that reads its own outputs is accepted "
            "only as a gate of the units, beside another producer and another consumer"
        )


def _check_slot(label: str, slot: Slot, side: str, units: int) -> None:
    if not isinstance(slot.name, str):
        raise TypeError(f"the name of {label} must be a string, got {slot.name!r}")
    _check_activation(label, slot.activation)
    for key, least in {"num_units": 1, "dim": 0, "block": 1, "offset": 0, "groups": 1, "tap": None}.items():
        _check_integer(label, key, getattr(slot, key), least)
    if slot.num_units != units:
        raise ValueError(f"{label} must have the group's num_units, {units}, got {slot.num_units}")
    _check_values(label, slot, side)
    weight = _weight(label, slot, side)
    if side == "scales":
        _check_scale(label, slot)
    if weight is None:
        return
    kind, shape = type(slot.module).__name__, tuple(weight.shape)
    known = isinstance(slot.module, WEIGHT_LAYERS)
    if slot.dim >= weight.ndim or (known and slot.dim != _SIDES[side]):
        allowed = str(_SIDES[side]) if known else f"in 0..{weight.ndim - 1}"
        raise ValueError(
            f"dim of {label} must be {allowed} for a {kind} with a weight of shape {shape}, got {slot.dim}"
        )
    groups = input_groups(slot.module) if side == "outgoing" else 1
    if slot.groups != groups:
        raise ValueError(f"groups of {label} must be {groups} for this {kind}, got {slot.groups}")
    _check_positions(label, slot, "weight", weight)


def _check_scale(label: str, slot: Slot) -> None:
    """Check that a module between producer and consumer has an entry for each unit in all of its tensors."""
    kind = type(slot.module).__name__
    if slot.values is None and not has_entry_per_unit(slot.module):
        raise ValueError(
            f"{label}: {kind} has no entry for each unit, as norms, PReLU and depthwise convolutions have: it cannot "
            "be among the scales"
        )
    for key in initial_scale_values(slot):
        tensor = getattr(slot.module, key)
        if not isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            _check_dim(label, slot, key, tensor)
            _check_positions(label, slot, key, tensor)


def _check_dim(label: str, slot: Slot, key: str, tensor: Tensor) -> None:
    if slot.dim_of(tensor) >= tensor.ndim:
        raise ValueError(
            f"dim of {label} must be in 0..{tensor.ndim - 1} for {key!r} of shape {tuple(tensor.shape)}, got {slot.dim}"
        )


def _check_positions(label: str, slot: Slot, key: str, parameter: Tensor) -> None:
    kind, shape, dim = type(slot.module).__name__, tuple(parameter.shape), slot.dim_of(parameter)
    width = shape[dim] * slot.groups
    available = f"the {width} along dim {dim} of its {kind}'s {key} of shape {shape}"
    positions: Any = slot.positions
    if positions is None:
        end = slot.offset + slot.num_units * slot.block
        if end > width:
            raise ValueError(
                f"{label} reaches to position {end} (offset {slot.offset} + {slot.num_units} units x block "
                f"{slot.block}), beyond {available}"
            )
        return
    wanted = (slot.num_units, slot.block)
    if not isinstance(positions, Tensor) or positions.dtype != torch.int64 or positions.device.type != "cpu":
        got = f"{positions.dtype} on {positions.device}" if isinstance(positions, Tensor) else repr(positions)
        raise TypeError(f"positions of {label} must be an int64 tensor on the CPU, of shape {wanted}, got {got}")
    if tuple(positions.shape) != wanted:
        raise ValueError(
            f"positions of {label} must have shape (num_units, block) = {wanted}, got {tuple(positions.shape)}"
        )
    low, high = (int(bound) for bound in positions.aminmax())
    if low < 0 or high >= width:
        raise ValueError(f"positions of {label} are in {low}..{high}, beyond {available}")
    if slot.offset:
        raise ValueError(f"offset={slot.offset} of {label} would be ignored, because its positions are given")


def _check_values(label: str, slot: Slot, side: str) -> None:
    """Check the names and numbers of ``values``, and that each named parameter has an entry for every position."""
    values: Any = slot.values
    if values is None:
        return
    if not isinstance(values, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        for key, value in values.items()
    ):
        raise TypeError(f"values of {label} must be None or a dict of names to finite numbers, got {values!r}")
    if side != "scales" or isinstance(slot.module, WEIGHT_LAYERS):
        raise ValueError(f"values of {label} must be None: only a norm (or similar) among the scales may have them")
    for key in values:
        parameter = getattr(slot.module, "_parameters", {}).get(key)
        kind = type(slot.module).__name__
        if parameter is None:
            raise ValueError(f"values of {label} name {key!r}, which is not a parameter of its {kind}")
        _check_dim(label, slot, key, parameter)
        _check_positions(label, slot, key, parameter)


def _weight(label: str, slot: Slot, side: str) -> Tensor | None:
    """The weight that the slot indexes, or None for a norm without weight."""
    module: Any = slot.module
    if not isinstance(module, nn.Module):
        raise TypeError(f"module of {label} must be a torch.nn.Module, got {type(module).__name__}")
    weight = module._parameters.get("weight")
    if weight is None and side == "scales":
        return None
    kind = type(module).__name__
    if weight is None:
        raise ValueError(
            f"{label}: its {kind} has no weight that is a plain parameter (or it is parametrized): it cannot be reset"
        )
    if isinstance(weight, UninitializedParameter):
        raise ValueError(f"{label}: its {kind} is lazy and has no weights yet: run one forward first")
    if side != "scales" and not (weight.ndim >= 2 and hasattr(module, "bias")):
        raise ValueError(
            f"{label}: {kind} is not a layer with a weight matrix (or kernels) and a bias, which may be None"
        )
    fault = weight_fault(weight, frozen_allowed=True)
    if fault is not None:
        raise ValueError(f"{label}: the weight of its {kind} {fault}")
    return weight


def _check_disjoint(groups: Sequence[UnitGroup], side: str) -> None:
    """Refuse a row, column or norm entry that belongs to two units."""
    for name, module, entries in _slots_by_module(groups, side):
        taken = torch.cat([slot.index(torch.arange(slot.num_units, device="cpu")) for _, slot in entries])
        if len(torch.unique(taken)) == len(taken):
            continue
        owners = " and ".join(dict.fromkeys(repr(group.name) for group, _ in entries))
        what = {"incoming": "row", "outgoing": "column", "scales": "entry"}[side]
        raise ValueError(
            f"a {what} of {name!r} ({type(module).__name__}) belongs to two units of unit group {owners}: each must "
            "belong to one unit of one group, and each group must be passed once"
        )


def _slots_by_module(
    groups: Sequence[UnitGroup], side: str
) -> Iterator[tuple[str, nn.Module, list[tuple[UnitGroup, Slot]]]]:
    entries: dict[int, list[tuple[UnitGroup, Slot]]] = {}
    for group in groups:
        for slot in getattr(group, side):
            entries.setdefault(id(slot.module), []).append((group, slot))
    for found in entries.values():
        yield found[0][1].name, found[0][1].module, found


def _check_activation(label: str, activation: Any) -> None:
    if activation is None:
        return
    if (
        not isinstance(activation, tuple)
        or len(activation) != 2
        or not isinstance(activation[0], str)
        or not (activation[1] is None or (isinstance(activation[1], Real) and not isinstance(activation[1], bool)))
    ):
        raise TypeError(
            f"activation of {label} must be None or a pair of a name and a slope (or None), such as ('relu', None) or "
            f"('leaky_relu', 0.01), got {activation!r}"
        )


def _check_integer(label: str, key: str, value: Any, least: int | None) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or (least is not None and value < least):
        allowed = "an integer" if least is None else f"an integer >= {least}"
        error = TypeError if not isinstance(value, Integral) or isinstance(value, bool) else ValueError
        raise error(f"{key} of {label} must be {allowed}, got {value!r}")
