"""`Gates`: the gates of one network, hung on its modules.

The gates of all units are computed once per optimizer step and split into the parts that the places need. Every forward
and backward of the step uses these tensors, recomputations of checkpoints included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gnt.protection._gate_function import select
from gnt.protection._gate_places import GatePlace
from gnt.protection._unit_layout import UnitLayout

InForce = Callable[[], Sequence[Tensor] | None]


class Gates:
    """Multiplies values of a network by the gates of its units, at their places.

    Args:
        places: where.
        layout: the units.
        in_force: returns in each forward the gate of each place, as `split` does; None: no gates.

    Attributes:
        values: the gates of all units in the present step of a task.
        parts: those of each place.
        penalty: the sparsity penalty, if it was computed with them.
    """

    values: Tensor
    parts: list[Tensor]
    penalty: Tensor | None

    def __init__(self, places: Sequence[GatePlace], layout: UnitLayout, in_force: InForce) -> None:
        self._places, self._layout = places, layout
        self._handles: list[RemovableHandle] = []
        for place in places:
            check_not_gated(place)
        for number, place in enumerate(places):
            if place.output:
                self._handles.append(place.module.register_forward_hook(_OutputGate(in_force, number), prepend=True))
            else:
                hook = _InputGate(in_force, number, place.dimension_1)
                register: Callable[..., RemovableHandle] = place.module.register_forward_pre_hook
                self._handles.append(register(hook, prepend=True, with_kwargs=True))

    def set_values(self, values: Tensor) -> None:
        """Set the gates of the present step."""
        self.set_all(values, None, self.split(values))

    def set_all(self, values: Tensor, penalty: Tensor | None, parts: list[Tensor]) -> None:
        """Set them together with what was computed from them."""
        self.values, self.penalty, self.parts = values, penalty, parts

    def split(self, values: Tensor) -> list[Tensor]:
        """The gates of each place, shaped to be multiplied with its value, from the gates of all units."""
        parts = torch.split(values, self._layout.sizes)
        return [self._at(place, values, parts) for place in self._places]

    def _at(self, place: GatePlace, values: Tensor, parts: Sequence[Tensor]) -> Tensor:
        if place.whole is None:
            place.index = place.index.to(values.device)
            gate = select(values, place.index)
        else:
            gate = parts[place.whole]
            if place.block > 1:
                gate = gate.unsqueeze(1).expand(-1, place.block).reshape(-1)
        return gate.view(-1, *(1,) * place.trailing) if place.trailing > 0 else gate

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


class _GateHook:
    """Base class of the hooks; a copy without its network's masks does nothing."""

    def __init__(self, in_force: InForce | None = None, number: int = 0, dimension_1: bool = False) -> None:
        self.in_force, self._number, self._dimension_1 = in_force, number, dimension_1

    def _apply(self, value: Any) -> Tensor | None:
        gates = None if self.in_force is None else self.in_force()
        if gates is None:
            return None
        gate = gates[self._number]
        if self._dimension_1 and value.ndim > 2:
            gate = gate.view(-1, *(1,) * (value.ndim - 2))
        if gate.dtype != value.dtype:
            gate = gate.to(value.dtype)
        gated: Tensor = value * gate
        return gated

    def __deepcopy__(self, memo: Any) -> Any:
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class _InputGate(_GateHook):
    """A forward pre-hook that multiplies the first input."""

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if args:
            gated = self._apply(args[0])
            return None if gated is None else ((gated, *args[1:]), kwargs)
        name, value = next(iter(kwargs.items()))
        gated = self._apply(value)
        return None if gated is None else (args, {**kwargs, name: gated})


class _OutputGate(_GateHook):
    """A forward hook that multiplies the output."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        return self._apply(output)


def check_not_gated(place: GatePlace) -> None:
    """Raise ValueError if there are gates at a place."""
    hooks = place.module._forward_hooks if place.output else place.module._forward_pre_hooks
    if any(isinstance(hook, _GateHook) and hook.in_force is not None for hook in hooks.values()):
        raise ValueError(f"what {place.name!r} reads is gated by another HAT: close() that one first")
