"""Checks of features and of what a measure returns; each raises before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gnt.importance._tap_features import TapFeatures
from gnt.units import CONV_LAYERS, Slot, UnitGroup

Readers = Sequence[tuple[UnitGroup, Slot]]


def check_feature_count(features: Any, readers: Readers) -> None:
    """Raise an error unless there is one entry of features for each group, or for each tap of groups with several."""
    if isinstance(features, Tensor) or not isinstance(features, Sequence):
        raise TypeError(
            f"features must be a sequence of {len(readers)} tensors, one for each group, got {type(features).__name__}"
        )
    if len(features) != len(readers):
        names = ", ".join(repr(group.name) for group, _ in readers)
        raise ValueError(
            f"features must hold one tensor for each of the {len(readers)} groups ({names}), got {len(features)}"
        )


def missing_features(recorded: Sequence[bool], readers: Readers, *, partial: bool) -> str | None:
    """The message of an error if features are missing; None if they are not.

    Args:
        recorded: for each tap whether features were recorded.
        readers: group and consumer of each tap.
        partial: groups without features take no part in the update, if others have some.
    """
    if all(recorded) or (any(recorded) and partial):
        return None
    missing = dict.fromkeys(group.name for (group, _), seen in zip(readers, recorded, strict=True) if not seen)
    hint = ". Some groups may be left out of a forward, but only if a backward shows that it was complete"
    return f"{_no_features(missing)}{hint if any(recorded) else ''}"


def check_features(features: Sequence[Sequence[Any]], readers: Readers, *, given: bool) -> None:
    """Raise an error for features that their consumers could not read; also for missing ones if they were given."""
    missing = dict.fromkeys(group.name for (group, _), seen in zip(readers, features, strict=True) if not seen)
    if missing and given:
        raise RuntimeError(_no_features(missing))
    for (group, slot), seen in zip(readers, features, strict=True):
        for value in seen:
            check_feature(value, group, slot)


def _no_features(groups: Iterable[str]) -> str:
    return (
        f"no features of group {', '.join(map(repr, groups))} since the last update: run the network forward in "
        "training mode with grad enabled before the step, or give the features"
    )


def check_feature(value: Any, group: UnitGroup, slot: Slot) -> None:
    """Raise an error for a feature that the consumer at ``slot`` could not read."""
    name, weight, width = group.name, slot.weight, slot.width
    if not isinstance(value, Tensor):
        raise TypeError(f"features of group {name!r} must be a tensor, got {type(value).__name__}")
    if isinstance(slot.module, CONV_LAYERS):
        spatial = weight.ndim - 2
        fits = value.ndim in (spatial + 1, spatial + 2) and value.shape[-spatial - 1] == width
        wanted = f"(batch, {width}{', size' * spatial})"
    else:
        # a linear layer reads the last dimension, which contains units only if the convolution's output was flattened
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


def check_gradients(taps: Sequence[TapFeatures], measure: str) -> None:
    """Raise RuntimeError, and keep what was recorded, if there cannot be the gradients that the measure reads."""
    compiled = next((tap.group for tap in taps if tap.compiled), None)
    if compiled is not None:
        raise RuntimeError(
            f"{measure!r} reads gradients of features, and code compiled by torch.compile records none, as that of the "
            f"consumer of group {compiled!r}: do not compile this network, or choose a measure that reads no gradients "
            "of features"
        )
    waiting = [tap for tap in taps if tap.waiting]
    if waiting and not any(tap.trained or tap.unmarked for tap in waiting):
        raise RuntimeError(
            f"{measure!r} reads gradients of features, and no backward of a loss has reached the features of group "
            f"{waiting[0].group!r}: run the backward before the update"
        )


def check_measured(value: Any, group: UnitGroup, utility: str) -> None:
    """Raise ValueError if a measure does not return one floating point number per unit."""
    if not isinstance(value, Tensor) or value.shape != (group.num_units,):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    elif not value.is_floating_point() or value.is_meta or value.layout is not torch.strided:
        got = f"dtype {value.dtype}, layout {value.layout}, on {value.device}"
    else:
        return
    raise ValueError(
        f"utility {utility!r} must return a dense floating point tensor of shape ({group.num_units},) for group "
        f"{group.name!r}, got {got}"
    )
