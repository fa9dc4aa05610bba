"""What the consumers of groups read in one forward: (samples, units, positions), for each value that they read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt.metrics import _validation as checks
from gnt.units import CONV_LAYERS, Slot, UnitGroup


class Taps:
    """Hooks on the first consumer of each value of each group, that hang while one forward is listened to."""

    def __init__(self, groups: Mapping[str, UnitGroup]) -> None:
        self._groups = groups
        self._heard: dict[int, list[Tensor]] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hear what consumers read in the forward within."""
        self._heard = {}
        modules = {id(slot.module): slot.module for group in self._groups.values() for slot in group.taps}
        handles = [module.register_forward_pre_hook(self._hear, with_kwargs=True) for module in modules.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        feature = args[0] if args else kwargs["input"]
        # a copy: what comes later in the forward may write into it
        self._heard.setdefault(id(module), []).append(checks.whole(feature.detach()).clone())

    def take(self, name: str) -> list[Tensor]:
        """What was heard of a group: for each value that its consumers read (samples, units, positions), in float32 or
        wider.

        Raises:
            RuntimeError: the forward did not come by its consumer.
            ValueError: a shape that its consumer would not read, or another shape at each of several calls.
            FloatingPointError: not finite.
        """
        return [self._reading(name, slot) for slot in self._groups[name].taps]

    def _reading(self, name: str, slot: Slot) -> Tensor:
        heard = self._heard.get(id(slot.module))
        if not heard:
            raise RuntimeError(
                f"no features of group {name!r}: in evaluation mode the model's forward does not come by its consumer "
                f"{slot.name!r}"
            )
        parts = [_arrange(feature, slot, name) for feature in heard]
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = ", ".join(str(tuple(feature.shape)) for feature in heard)
            raise ValueError(f"{slot.name!r}, consumer of group {name!r}, reads other shapes at each call: {shapes}")
        reading = checks.widened(torch.cat(parts) if len(parts) > 1 else parts[0])
        return checks.finite(f"features of group {name!r}", reading)

    def forget(self) -> None:
        """Keep nothing of it."""
        self._heard = {}


def _arrange(feature: Tensor, slot: Slot, name: str) -> Tensor:
    """What one call of a consumer reads of the units: (samples, units, positions)."""
    if isinstance(slot.module, CONV_LAYERS):
        spatial = slot.weight.ndim - 2
        channels = feature.ndim - spatial - 1
        fits = channels in (0, 1) and feature.shape[channels] == slot.width
        shape: Sequence[int] = (-1, slot.width, feature.shape[-spatial:].numel())
    else:
        fits = feature.ndim >= 1 and feature.shape[-1] == slot.width
        shape = (-1, slot.width)
    if not fits or not feature.is_floating_point() or not feature.numel():
        raise ValueError(
            f"{slot.name!r}, consumer of group {name!r}, must read real numbers of {slot.width} inputs for at least "
            f"one sample, got {feature.dtype} of shape {tuple(feature.shape)}"
        )
    return slot.of_units(feature.reshape(shape), 1).flatten(2)
