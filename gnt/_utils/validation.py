"""What is refused at the engine's door, with what was passed and what is allowed. Everything here runs before a
change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gnt.units._group import CONV_LAYERS, Slot, UnitGroup


def settings(replacement_rate: Any, maturity_threshold: Any, decay_rate: Any, generator: Any) -> None:
    """Refuse settings outside their range."""
    if not _is_real(replacement_rate) or not 0.0 <= replacement_rate <= 1.0:
        raise ValueError(f"replacement_rate must be a number in [0, 1], got {replacement_rate!r}")
    if not isinstance(maturity_threshold, Integral) or isinstance(maturity_threshold, bool) or maturity_threshold < 0:
        raise ValueError(f"maturity_threshold must be an integer >= 0, in updates, got {maturity_threshold!r}")
    if not _is_real(decay_rate) or not 0.0 <= decay_rate < 1.0:
        raise ValueError(f"decay_rate must be a number in [0, 1), got {decay_rate!r}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")


def unknown_settings(given: Iterable[str], taker: str, allowed: Iterable[str], engine: Sequence[str] = ()) -> None:
    """Refuse settings that nothing would use; ``allowed`` are those of ``taker``, ``engine`` those of its engine."""
    own = list(allowed)
    unknown = [name for name in given if name not in own and name not in engine]
    if unknown:
        beside = f"; the engine takes {', '.join(engine)}" if engine else ""
        raise TypeError(f"unknown setting {', '.join(unknown)}: {taker} takes {', '.join(own)}{beside}")


def flags(**values: Any) -> None:
    """Refuse what is neither True nor False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def accumulate(value: Any) -> None:
    """Refuse what is no rule for fractions of a unit."""
    if not isinstance(value, bool) and value != "one":
        raise TypeError(f"accumulate must be True, False or 'one', got {value!r}")


def process_group(value: Any) -> None:
    """Refuse what is no process group; what `torch.distributed.new_group` gives to processes outside of it is one."""
    if value is None or value is False:
        return
    known = dist.is_available() and (isinstance(value, dist.ProcessGroup) or value is dist.GroupMember.NON_GROUP_MEMBER)
    if not known:
        raise TypeError(f"process_group must be a torch process group, None or False, got {value!r}")


def positive(**values: Any) -> None:
    """Refuse what is not an integer of at least 1."""
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value!r}")


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


Taps = Sequence[tuple[UnitGroup, Slot]]


def feature_count(features: Any, taps: Taps) -> None:
    """Refuse features that are not one for each group (one for each tap, where a group has several)."""
    if isinstance(features, Tensor) or not isinstance(features, Sequence):
        raise TypeError(
            f"features must be a sequence of {len(taps)} tensors, one for each group, got {type(features).__name__}"
        )
    if len(features) != len(taps):
        names = ", ".join(repr(group.name) for group, _ in taps)
        raise ValueError(
            f"features must hold one tensor for each of the {len(taps)} groups ({names}), got {len(features)}"
        )


def recorded(features: Sequence[Sequence[Any]], taps: Taps) -> None:
    """Refuse an update of which some group has seen nothing, and features that its consumer would not read."""
    missing = dict.fromkeys(group.name for (group, _), seen in zip(taps, features, strict=True) if not seen)
    if missing:
        raise RuntimeError(
            f"no features of group {', '.join(map(repr, missing))} since the last update: run the network forward in "
            "training mode with grad enabled before the step, or give the features"
        )
    for (group, slot), seen in zip(taps, features, strict=True):
        for value in seen:
            feature(value, group, slot)


def feature(value: Any, group: UnitGroup, slot: Slot) -> None:
    """Refuse a feature that is not what the consumer at ``slot`` reads."""
    name, weight, width = group.name, slot.weight, slot.width
    if not isinstance(value, Tensor):
        raise TypeError(f"features of group {name!r} must be a tensor, got {type(value).__name__}")
    if isinstance(slot.module, CONV_LAYERS):
        spatial = weight.ndim - 2
        fits = value.ndim in (spatial + 1, spatial + 2) and value.shape[-spatial - 1] == width
        wanted = f"(batch, {width}{', size' * spatial})"
    else:
        # a linear layer would read the last dimension, which holds units only once a convolution's output is flat
        flat = isinstance(group.producer, CONV_LAYERS) and slot.block > 1
        fits = value.ndim >= 1 and value.shape[-1] == width and not (flat and value.ndim > 2)
        wanted = f"(batch, {width})" if flat else f"(..., {width})"
    if not fits:
        raise ValueError(
            f"features of group {name!r} must be what its consumer {slot.name!r} reads, of shape {wanted}, got "
            f"{tuple(value.shape)}"
        )
    if (
        not value.is_floating_point()
        or torch.promote_types(value.dtype, group.state.utility.dtype) != group.state.utility.dtype
    ):
        raise ValueError(
            f"features of group {name!r} must be floating point and no wider than {group.state.utility.dtype}, got "
            f"{value.dtype}"
        )
    if value.device != weight.device:
        raise ValueError(f"features of group {name!r} must be on {weight.device}, got {value.device}")


def worth(value: Any, group: UnitGroup, utility: str) -> None:
    """Refuse a measure that does not return one number a unit."""
    if not isinstance(value, Tensor) or value.shape != (group.num_units,):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"utility {utility!r} must return a tensor of shape ({group.num_units},) for group {group.name!r}, got "
            f"{got}"
        )


def units(chosen: Any, groups: Sequence[UnitGroup]) -> list[Tensor]:
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


def incoming(fresh: Any, chosen: Sequence[Tensor], groups: Sequence[UnitGroup]) -> list[list[Tensor] | None]:
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
