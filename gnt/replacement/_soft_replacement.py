"""Soft replacement: each unit moves a little towards a new one, the more the less useful it is (CCBP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gnt.distributed import dtensor
from gnt.replacement._soft_settings import SoftReplacement
from gnt.replacement.eligibility import UnitState
from gnt.replacement.reinitialization import changed_scale_tensors, transfer_mean
from gnt.units import Slot, UnitGroup, read_slices, write_slices


def soft_shares(soft: SoftReplacement, state: UnitState, members: int, available: Tensor | None) -> Tensor:
    """Alpha of each unit of a group, (num_units,); protected units, and those that are not available, have 0."""
    utility = state.corrected_utility.view(members, -1)
    tiny = torch.finfo(utility.dtype).tiny
    relative = (utility / utility.mean(1, keepdim=True).clamp_min(tiny)).flatten()
    shares = soft.rate * torch.sigmoid(-soft.steepness * (relative - 1.0))
    if state.maturity_threshold:
        shares = shares * (state.age.to(utility.dtype) / state.maturity_threshold).clamp_max(1.0)
    if state.unprotected_share is not None:
        shares = shares * state.unprotected_share
    if available is not None:
        shares = shares * available
    return shares if state.protected is None else shares.masked_fill(state.protected, 0.0)


def check_not_sharded(groups: Sequence[UnitGroup]) -> None:
    """Raise TypeError for units whose weights are distributed over processes."""
    sharded = [name for group in groups for name, parameter, _ in group.slices() if dtensor.is_split(parameter)]
    if sharded:
        raise TypeError(f"soft replacement cannot act on weights that are sharded over processes: {sharded[0]}")


def move_outgoing(group: UnitGroup, shares: Tensor, movable: Mapping[int, Tensor] | None) -> None:
    """The first half of a move: outgoing weights of all units of a group towards 0, mean contributions into biases.

    Args:
        group: the group.
        shares: alpha of each unit.
        movable: as for `gnt.replacement.reinitialization.disconnect`; None: no mean contribution is moved.
    """
    units = torch.arange(group.num_units, device=shares.device)
    if movable is not None:
        moved, numbers = group.state.corrected_mean_features * shares, group.tap_numbers
        for slot in group.outgoing:
            transfer_mean(slot, units, moved.select(0, numbers.index(slot.tap)), movable.get(id(slot.bias)))
    for slot in group.outgoing:
        _move(slot, slot.weight, units, shares, None)


def move_incoming(
    group: UnitGroup, shares: Tensor, fresh: Sequence[Tensor], biases: Sequence[Tensor | None], members: int
) -> None:
    """The second half, after the first one of all groups: incoming weights, norms and utilities towards new ones.

    Args:
        group: the group.
        shares: alpha of each unit.
        fresh, biases: new weights and biases of all units for each slot of ``group.drawn``; None: 0.
        members: number of networks whose units the group holds one after the other.
    """
    units = torch.arange(group.num_units, device=shares.device)
    state: UnitState = group.state
    for slot, rows, own in zip(group.drawn, fresh, biases, strict=True):
        _move(slot, slot.weight, units, shares, rows.reshape(-1, *slot.rest).movedim(0, slot.dim))
        if slot.bias is not None and slot.bias.requires_grad:
            _move(slot, slot.bias, units, shares, own)
    for slot in group.scales:
        if slot not in group.drawn:
            for name, value in changed_scale_tensors(slot).items():
                _move(slot, getattr(slot.module, name), units, shares, value)
    means = state.corrected_utility.view(members, -1).mean(1, keepdim=True).expand(members, group.num_units // members)
    target = means.flatten() * state.correction(state.measured_age) if state.corrected else means.flatten()
    state.utility.lerp_(target.to(state.utility.dtype), shares.to(state.utility.dtype))


def _move(slot: Slot, tensor: Tensor, units: Tensor, shares: Tensor, target: Tensor | float | None) -> None:
    """W <- (1 - alpha) w + alpha * target for the units' part of a tensor; the target None is 0."""
    tensor = tensor.detach()
    dim, index = slot.dim_of(tensor), slot.index(units)
    values = read_slices(tensor, dim, index, slot.groups)
    along = dim if slot.groups == 1 or dim != 1 else 0  # channels of a grouped convolution come first
    shape = [1] * values.ndim
    shape[along] = -1
    alpha = shares.repeat_interleave(slot.block).view(shape).to(values.dtype)
    moved = values * (1.0 - alpha)
    if target is not None and not (isinstance(target, float) and target == 0.0):
        moved += alpha * target
    write_slices(tensor, moved, dim, index, slot.groups)
