"""Checks of the arguments of `GnT.replace`; each raises before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnt.units import Slot, UnitGroup, frozen_layers


class Selection:
    """Indices returned by `GnT.select`, to find out whether they are given back as they were."""

    def __init__(self, units: Sequence[Tensor]) -> None:
        self._units = [(each, each.clone() if len(each) else each, _version(each)) for each in units]

    def is_unchanged(self, units: Any) -> bool:
        """True if ``units`` holds the same tensors, not edited since; on an accelerator by their version counters."""
        if isinstance(units, Tensor) or not isinstance(units, Sequence) or len(units) != len(self._units):
            return False
        return all(
            given is own
            and given.shape == copy.shape
            and (torch.equal(given, copy) if given.is_cpu else version == _version(given) is not None)
            for given, (own, copy, version) in zip(units, self._units, strict=True)
        )


def _version(tensor: Tensor) -> int | None:
    """Number of changes in place; None for tensors made in inference mode, which do not count them."""
    return None if tensor.is_inference() else tensor._version


def checked_units(chosen: Any, groups: Sequence[UnitGroup]) -> list[Tensor]:
    """Return the chosen units as int64 indices on their groups' devices; reads the device.

    Raises:
        ValueError: wrong number of groups, or indices that are not distinct units of their group.
    """
    if isinstance(chosen, Tensor) or not isinstance(chosen, Sequence) or len(chosen) != len(groups):
        several = isinstance(chosen, Sequence) and not isinstance(chosen, Tensor)
        got = f"{len(chosen)} entries" if several else type(chosen).__name__
        raise ValueError(f"units must be a sequence of {len(groups)} index tensors, one for each group, got {got}")
    result = []
    for group, indices in zip(groups, chosen, strict=True):
        try:
            indices = torch.as_tensor(indices, device=group.incoming[0].weight.device)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"units of group {group.name!r} must be a 1-d tensor of integer indices, got {indices!r}"
            ) from None
        if indices.ndim != 1 or indices.is_meta or (indices.numel() and not is_integer(indices)):
            raise ValueError(
                f"units of group {group.name!r} must be a 1-d tensor of integer indices, got {indices.dtype} of shape "
                f"{tuple(indices.shape)}"
            )
        indices = indices.long()
        if indices.numel():
            low, high = (int(bound) for bound in indices.aminmax())
            if low < 0 or high >= group.num_units:
                raise ValueError(
                    f"units of group {group.name!r} must lie in 0..{group.num_units - 1}, got {indices.tolist()}"
                )
            if len(torch.unique(indices)) != len(indices):
                raise ValueError(f"units of group {group.name!r} must be distinct, got {indices.tolist()}")
        result.append(indices)
    return result


def check_not_frozen(group: UnitGroup, units: Tensor) -> None:
    """Raise ValueError if units of a group with a frozen weight would be replaced."""
    if len(units):
        layers = " and ".join(frozen_layers(group))
        raise ValueError(
            f"units of group {group.name!r} cannot be replaced while the weight of {layers} is frozen "
            f"(requires_grad=False), got units {units.tolist()}"
        )


def check_not_protected(group: UnitGroup, units: Tensor) -> None:
    """Raise ValueError if protected units would be replaced; reads the device if any unit is protected."""
    protected = group.state.protected
    if protected is not None and len(units) and (among := units[protected[units]]).numel():
        raise ValueError(
            f"units of group {group.name!r} that are protected (protect=) cannot be replaced, got {among.tolist()} "
            "among the units"
        )


def is_integer(tensor: Tensor) -> bool:
    """True for a tensor of integers, which bools are not."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def checked_incoming(fresh: Any, chosen: Sequence[Tensor], groups: Sequence[UnitGroup]) -> list[list[Tensor] | None]:
    """Return given weights, on the groups' devices and in their dtypes, for each slot that is drawn; None: to be drawn.

    Raises:
        ValueError: weights that do not fit the chosen units.
    """
    if fresh is None:
        return [None] * len(groups)
    if isinstance(fresh, Tensor) or not isinstance(fresh, Sequence) or len(fresh) != len(groups):
        got = f"{len(fresh)} entries" if isinstance(fresh, Sequence) else type(fresh).__name__
        raise ValueError(
            f"incoming must be a sequence of {len(groups)} tensors (or None), one for each group, got {got}"
        )
    result: list[list[Tensor] | None] = []
    for group, indices, weights in zip(groups, chosen, fresh, strict=True):
        drawn = group.drawn
        if weights is None:
            result.append(None)
            continue
        several = list(weights) if isinstance(weights, (list, tuple)) and len(drawn) > 1 else [weights]
        if len(several) != len(drawn):
            raise ValueError(
                f"incoming weights of group {group.name!r} must be a list of {len(drawn)} tensors, for "
                f"{', '.join(slot.name for slot in drawn)}, got {len(several)}"
            )
        result.append([_rows(given, slot, indices, group) for given, slot in zip(several, drawn, strict=True)])
    return result


def _rows(given: Any, slot: Slot, indices: Tensor, group: UnitGroup) -> Tensor:
    wanted = (len(indices) * slot.block, *slot.rest)
    try:
        rows = (given if isinstance(given, Tensor) else torch.as_tensor(given, device="cpu")).detach()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"incoming weights of group {group.name!r} must be a tensor of shape {wanted}, got {type(given).__name__}"
        ) from None
    if rows.is_complex() or rows.dtype == torch.bool or rows.is_meta:
        raise ValueError(
            f"incoming weights of group {group.name!r} must be real numbers, got {rows.dtype} on {rows.device}"
        )
    rows = rows.to(slot.weight.device, slot.weight.dtype)
    if tuple(rows.shape) != wanted:
        raise ValueError(f"incoming weights of group {group.name!r} must have shape {wanted}, got {tuple(rows.shape)}")
    if rows.device.type == "cpu" and not torch.isfinite(rows).all():
        raise ValueError(f"incoming weights of group {group.name!r} must be finite")
    return rows
