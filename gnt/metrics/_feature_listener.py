"""Features that the consumers of unit groups read in one forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt.metrics._numerics import at_least_float32, full_tensor
from gnt.metrics._validation import check_finite
from gnt.units import CONV_LAYERS, Slot, UnitGroup


class FeatureListener:
    """Records what consumers read during one forward pass, by temporary hooks.

    If several consumers of a group read the same tensor, only the first of them is recorded.
    """

    def __init__(self, groups: Mapping[str, UnitGroup]) -> None:
        self._groups = groups
        self._inputs: dict[int, list[Tensor]] = {}

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Record the forward pass inside this context."""
        self._inputs = {}
        modules = {id(slot.module): slot.module for group in self._groups.values() for slot in group.taps}
        handles = [
            module.register_forward_pre_hook(self._record_input, with_kwargs=True) for module in modules.values()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _record_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        feature = args[0] if args else next(iter(kwargs.values()))
        # cloned, because later layers may write to it in place
        self._inputs.setdefault(id(module), []).append(full_tensor(feature.detach()).clone())

    def features(self, name: str) -> list[Tensor]:
        """Return the recorded features of the group ``name``, one tensor for each distinct tensor its consumers read.

        Each is (samples, units, positions), in float32 or wider.

        Raises:
            RuntimeError: the forward pass did not call the consumer.
            ValueError: a shape that the consumer does not accept, or different shapes in several calls.
            FloatingPointError: NaN or infinite values.
        """
        return [self._features_at(name, slot) for slot in self._groups[name].taps]

    def _features_at(self, name: str, slot: Slot) -> Tensor:
        inputs = self._inputs.get(id(slot.module))
        if not inputs:
            raise RuntimeError(
                f"no features of group {name!r}: in evaluation mode the model's forward does not call its consumer "
                f"{slot.name!r}"
            )
        calls = [_per_unit(feature, slot, name) for feature in inputs]
        if len({call.shape[1:] for call in calls}) > 1:
            shapes = ", ".join(str(tuple(feature.shape)) for feature in inputs)
            raise ValueError(
                f"{slot.name!r}, consumer of group {name!r}, reads a different shape in each call: {shapes}"
            )
        features = at_least_float32(torch.cat(calls) if len(calls) > 1 else calls[0])
        return check_finite(f"features of group {name!r}", features)

    def clear(self) -> None:
        """Delete the recorded features."""
        self._inputs = {}


def _per_unit(feature: Tensor, slot: Slot, name: str) -> Tensor:
    """Rearrange what one call of a consumer read to (samples, units, positions)."""
    if isinstance(slot.module, CONV_LAYERS):
        spatial = slot.weight.ndim - 2
        channel_dim = feature.ndim - spatial - 1
        fits = channel_dim in (0, 1) and feature.shape[channel_dim] == slot.width
        shape: Sequence[int] = (-1, slot.width, feature.shape[-spatial:].numel())
    else:
        fits = feature.ndim >= 1 and feature.shape[-1] == slot.width
        shape = (-1, slot.width)
    if not fits or not feature.is_floating_point() or not feature.numel():
        raise ValueError(
            f"{slot.name!r}, consumer of group {name!r}, must read floating-point features of width {slot.width} for "
            f"at least one sample, got {feature.dtype} of shape {tuple(feature.shape)}"
        )
    return slot.of_units(feature.reshape(shape), 1).flatten(2)
