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


class FeatureRecorder:
    """Records what consumers read during one forward pass, by temporary hooks.

    If several consumers read the same values of the units, these count once. If they were run on different ones, for
    example in turn, all count; consumers that were not run do not.
    """

    def __init__(self, groups: Mapping[str, UnitGroup]) -> None:
        self._groups = groups
        self._inputs: dict[int, list[Tensor]] = {}

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Record the forward pass inside this context."""
        self.clear()
        modules = {id(slot.module): slot.module for group in self._groups.values() for slot in group.outgoing}
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
        """Return the recorded features of the group ``name``, one tensor for each different value that was read.

        Each is (samples, units, positions), in float32 or wider.

        Raises:
            RuntimeError: the forward pass called no consumer.
            ValueError: a shape that a consumer does not accept, or different shapes in several calls.
            FloatingPointError: NaN or infinite values.
        """
        group = self._groups[name]
        taps = [[slot for slot in group.outgoing if slot.tap == tap] for tap in group.tap_numbers]
        found = [features for slots in taps if (features := self._features_at(name, slots)) is not None]
        if not found:
            consumers = list(dict.fromkeys(repr(slot.name) for slot in group.outgoing))
            which = ("its consumer " if len(consumers) == 1 else "any of its consumers ") + ", ".join(consumers)
            raise RuntimeError(
                f"no features of group {name!r}: in evaluation mode the model's forward does not call {which}"
            )
        return found

    def _features_at(self, name: str, slots: Sequence[Slot]) -> Tensor | None:
        """The features of one tap, which these consumers read; None if none of them was run."""
        calls: list[Tensor] = []
        shapes = []
        for slot in slots:
            inputs = self._inputs.get(id(slot.module), ())
            own = [_per_unit(feature, slot, name) for feature in inputs]
            calls += [call for call in own if not any(torch.equal(call, other) for other in calls)]
            shapes += [(slot.name, tuple(feature.shape)) for feature in inputs]
        if not calls:
            return None
        if len({call.shape[1:] for call in calls}) > 1:
            names = list(dict.fromkeys(repr(consumer) for consumer, _ in shapes))
            who, read = ("consumer", "reads") if len(names) == 1 else ("consumers", "read")
            raise ValueError(
                f"{' and '.join(names)}, {who} of group {name!r}, {read} a different shape in each call: "
                f"{', '.join(str(shape) for _, shape in shapes)}"
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
