"""Checks of an engine's settings, of chosen units and of given weights; each raises before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gnt._utils.validation import is_real
from gnt.units import Slot, UnitGroup


def check_settings(replacement_rate: Any, maturity_threshold: Any, decay_rate: Any, generator: Any) -> None:
    """Refuse settings outside their range."""
    if not is_real(replacement_rate) or not 0.0 <= replacement_rate <= 1.0:
        raise ValueError(f"replacement_rate must be a number in [0, 1], got {replacement_rate!r}")
    if not isinstance(maturity_threshold, Integral) or isinstance(maturity_threshold, bool) or maturity_threshold < 0:
        raise ValueError(f"maturity_threshold must be an integer >= 0, in updates, got {maturity_threshold!r}")
    if not is_real(decay_rate) or not 0.0 <= decay_rate < 1.0:
        raise ValueError(f"decay_rate must be a number in [0, 1), got {decay_rate!r}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")


def check_accumulate(value: Any) -> None:
    """Refuse what is no rule for fractions of a unit."""
    if not isinstance(value, bool) and value != "one":
        raise TypeError(f"accumulate must be True, False or 'one', got {value!r}")


def check_process_group(value: Any) -> None:
    """Refuse what is no process group; what `torch.distributed.new_group` gives to processes outside of it is one."""
    if value is None or value is False:
        return
    known = dist.is_available() and (isinstance(value, dist.ProcessGroup) or value is dist.GroupMember.NON_GROUP_MEMBER)
    if not known:
        raise TypeError(f"process_group must be a torch process group, None or False, got {value!r}")


def checked_units(chosen: Any, groups: Sequence[UnitGroup]) -> list[Tensor]:
    """Refuse indices that are not distinct units of their groups; reads the device. Returns them on the groups'
    devices.
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
        if indices.ndim != 1 or (indices.numel() and (indices.is_floating_point() or indices.dtype == torch.bool)):
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


def checked_incoming(fresh: Any, chosen: Sequence[Tensor], groups: Sequence[UnitGroup]) -> list[list[Tensor] | None]:
    """Refuse given weights that do not fit the chosen units. Returns them in the groups' device and dtype, for each
    slot that is drawn; None: to be drawn.
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
    rows = torch.as_tensor(given).detach().to(slot.weight.device, slot.weight.dtype)
    if tuple(rows.shape) != wanted:
        raise ValueError(f"incoming weights of group {group.name!r} must have shape {wanted}, got {tuple(rows.shape)}")
    if rows.device.type == "cpu" and not torch.isfinite(rows).all():
        raise ValueError(f"incoming weights of group {group.name!r} must be finite")
    return rows
