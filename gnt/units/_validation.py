"""Unit groups as they come to an engine: do their addresses fit the modules, and does every unit have its own?

Groups are written by hand, too, and a network may be changed after it was traced. An address that does not fit would be
noticed at the first replacement, half done, or never.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from gnt.units._group import WEIGHT_LAYERS, Slot, UnitGroup, input_groups

_SIDES = {"incoming": 0, "scales": 0, "outgoing": 1}  # where the units are in the weight of torch's own layers


def check(groups: Sequence[UnitGroup]) -> None:
    """Refuse unit groups that do not fit their modules or each other.

    Raises:
        TypeError: a part of the wrong kind.
        ValueError: a number or shape that does not fit, a frozen weight, units that belong to two groups.
    """
    for group in groups:
        _check_group(group)
    for side in _SIDES:
        _check_disjoint(groups, side)


def _check_group(group: UnitGroup) -> None:
    who = f"unit group {group.name!r}"
    if not isinstance(group.name, str):
        raise TypeError(f"the name of a unit group must be a string, got {group.name!r}")
    _integer(who, "num_units", group.num_units, 1)
    _check_activation(who, group.activation)
    for side in _SIDES:
        slots: Any = getattr(group, side)
        if not isinstance(slots, (tuple, list)) or not all(isinstance(slot, Slot) for slot in slots):
            raise TypeError(f"{side} of {who} must be a tuple of gnt.units.Slot, got {slots!r}")
        if not slots and side != "scales":
            raise ValueError(f"{side} of {who} is empty: units need at least one producer and one consumer")
        for slot in slots:
            _check_slot(f"{side} slot {slot.name!r} of {who}", slot, side, group.num_units)
    both = {id(slot.module) for slot in group.incoming} & {id(slot.module) for slot in group.outgoing}
    if both:
        name = next(slot.name for slot in group.incoming if id(slot.module) in both)
        raise ValueError(f"{name!r} is a producer and a consumer of {who}: a layer that reads itself is called twice")


def _check_slot(who: str, slot: Slot, side: str, units: int) -> None:
    if not isinstance(slot.name, str):
        raise TypeError(f"the name of {who} must be a string, got {slot.name!r}")
    _check_activation(who, slot.activation)
    for key, least in {"num_units": 1, "dim": 0, "block": 1, "offset": 0, "groups": 1, "tap": None}.items():
        _integer(who, key, getattr(slot, key), least)
    if slot.num_units != units:
        raise ValueError(f"{who} must have the group's num_units, {units}, got {slot.num_units}")
    weight = _weight(who, slot, side)
    if weight is None:
        return
    kind, shape = type(slot.module).__name__, tuple(weight.shape)
    own = isinstance(slot.module, WEIGHT_LAYERS)
    if slot.dim >= weight.ndim or (own and slot.dim != _SIDES[side]):
        allowed = str(_SIDES[side]) if own else f"in 0..{weight.ndim - 1}"
        raise ValueError(f"dim of {who} must be {allowed} for a {kind} with a weight of shape {shape}, got {slot.dim}")
    groups = input_groups(slot.module) if side == "outgoing" else 1
    if slot.groups != groups:
        raise ValueError(f"groups of {who} must be {groups} for this {kind}, got {slot.groups}")
    _check_positions(who, slot, shape)


def _check_positions(who: str, slot: Slot, shape: tuple[int, ...]) -> None:
    along = f"the {slot.width} along dim {slot.dim} of its {type(slot.module).__name__}'s weight of shape {shape}"
    positions: Any = slot.positions
    if positions is None:
        end = slot.offset + slot.num_units * slot.block
        if end > slot.width:
            raise ValueError(
                f"{who} reaches to position {end} (offset {slot.offset} + {slot.num_units} units x block {slot.block})"
                f", beyond {along}"
            )
        return
    wanted = (slot.num_units, slot.block)
    if not isinstance(positions, Tensor) or positions.dtype != torch.int64 or positions.device.type != "cpu":
        got = f"{positions.dtype} on {positions.device}" if isinstance(positions, Tensor) else repr(positions)
        raise TypeError(f"positions of {who} must be an int64 tensor on the CPU, of shape {wanted}, got {got}")
    if tuple(positions.shape) != wanted:
        raise ValueError(
            f"positions of {who} must have shape (num_units, block) = {wanted}, got {tuple(positions.shape)}"
        )
    low, high = (int(bound) for bound in positions.aminmax())
    if low < 0 or high >= slot.width:
        raise ValueError(f"positions of {who} lie in {low}..{high}, beyond {along}")
    if slot.offset:
        raise ValueError(f"offset={slot.offset} of {who} would be ignored: its positions are given")


def _weight(who: str, slot: Slot, side: str) -> Tensor | None:
    """The weight that the slot addresses; None for a norm that has none."""
    module: Any = slot.module
    if not isinstance(module, nn.Module):
        raise TypeError(f"module of {who} must be a torch.nn.Module, got {type(module).__name__}")
    weight = module._parameters.get("weight")
    if weight is None and side == "scales":
        return None
    kind = type(module).__name__
    if weight is None:
        raise ValueError(
            f"{who}: its {kind} has no weight that is a plain parameter (or it is parametrized): it cannot be reset"
        )
    if isinstance(weight, UninitializedParameter):
        raise ValueError(f"{who}: its {kind} is lazy and has no weights yet: run one forward first")
    if side != "scales" and not (weight.ndim >= 2 and hasattr(module, "bias")):
        raise ValueError(f"{who}: {kind} is no layer with a weight matrix (or kernels) and a bias, which may be None")
    if weight.is_complex():
        raise ValueError(f"{who}: the weight of its {kind} is complex; utilities are defined for real networks")
    if not weight.requires_grad and side != "scales":
        raise ValueError(
            f"{who}: the weight of its {kind} is frozen (requires_grad=False): its replaced units could not learn"
        )
    return weight


def _check_disjoint(groups: Sequence[UnitGroup], side: str) -> None:
    """Refuse a row, or a column, that belongs to two units."""
    for name, module, entries in _by_module(groups, side):
        taken = torch.cat([slot.index(torch.arange(slot.num_units)) for _, slot in entries])
        if len(torch.unique(taken)) == len(taken):
            continue
        owners = " and ".join(dict.fromkeys(repr(group.name) for group, _ in entries))
        what = {"incoming": "row", "outgoing": "column", "scales": "entry"}[side]
        raise ValueError(
            f"a {what} of {name!r} ({type(module).__name__}) belongs to two units of unit group {owners}: each must "
            "belong to one unit of one group, and each group must be given once"
        )


def _by_module(groups: Sequence[UnitGroup], side: str) -> Iterator[tuple[str, nn.Module, list[tuple[UnitGroup, Slot]]]]:
    entries: dict[int, list[tuple[UnitGroup, Slot]]] = {}
    for group in groups:
        for slot in getattr(group, side):
            entries.setdefault(id(slot.module), []).append((group, slot))
    for found in entries.values():
        yield found[0][1].name, found[0][1].module, found


def _check_activation(who: str, activation: Any) -> None:
    if activation is None:
        return
    if (
        not isinstance(activation, tuple)
        or len(activation) != 2
        or not isinstance(activation[0], str)
        or not (activation[1] is None or (isinstance(activation[1], Real) and not isinstance(activation[1], bool)))
    ):
        raise TypeError(
            f"activation of {who} must be None or a pair of a name and a slope (or None), such as ('relu', None) or "
            f"('leaky_relu', 0.01), got {activation!r}"
        )


def _integer(who: str, key: str, value: Any, least: int | None) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or (least is not None and value < least):
        allowed = "an integer" if least is None else f"an integer >= {least}"
        error = TypeError if not isinstance(value, Integral) or isinstance(value, bool) else ValueError
        raise error(f"{key} of {who} must be {allowed}, got {value!r}")
