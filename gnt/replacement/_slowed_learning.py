"""Slower learning of held units, beside any optimizer: after its step they go back a part of the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.dynamo import not_compiled
from gnt.replacement._protection import Protection
from gnt.units import UnitGroup, read_slices, write_slices


@dataclass(frozen=True, eq=False)
class _Slice:
    """Part of a parameter that belongs to held units."""

    module: nn.Module
    name: str
    dim: int
    positions: Tensor
    groups: int

    @property
    def parameter(self) -> Tensor | None:
        parameter = self.module._parameters.get(self.name)
        return parameter if parameter is not None and parameter.requires_grad else None


class SlowedLearning:
    """Hooks of one engine on its optimizer: ``w <- w_before + slow * (w - w_before)`` for what held units own.

    What a unit owns here: its rows of the producers' weights and biases, its entries in norms, and its columns in the
    consumers, as far as the setting ``outgoing`` includes them.

    Args:
        optimizer: the optimizer.
        protection: with the factor ``slow``.
        groups: the engine's groups, whose states tell which units are held.

    Attributes:
        optimizer: the optimizer.
    """

    def __init__(self, optimizer: Optimizer, protection: Protection, groups: Sequence[UnitGroup]) -> None:
        self.optimizer = optimizer
        self.bind(protection, groups)
        before, after = self._before_step, self._after_step
        self._handles = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
        # before engines that replace units, and methods that look at the step
        hooks = optimizer._optimizer_step_post_hooks
        for number in [each for each in hooks if each != self._handles[1].id]:
            hooks[number] = hooks.pop(number)

    def bind(self, protection: Protection, groups: Sequence[UnitGroup]) -> None:
        """Go on with other groups, or another factor."""
        self._protection, self._groups = protection, groups
        self._held: list[Tensor] = []
        self._slices: list[_Slice] = []
        self._before: list[tuple[_Slice, Tensor, Tensor]] = []

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    @not_compiled
    @torch.no_grad()
    def _before_step(self, *arguments: Any) -> None:
        held = [group.state.held for group in self._groups]
        if len(held) != len(self._held) or any(a is not b for a, b in zip(held, self._held, strict=True)):
            top_units = self._protection.top_units
            every = top_units is not None and top_units.outgoing == "all"
            self._slices, self._held = list(_slices(self._groups, every)), held
        pairs = [(each, parameter) for each in self._slices if (parameter := each.parameter) is not None]
        self._before = [(each, parameter, _read(each, parameter)) for each, parameter in pairs]

    @not_compiled
    @torch.no_grad()
    def _after_step(self, *arguments: Any) -> None:
        work, self._before = self._before, []
        top_units = self._protection.top_units
        if not work or top_units is None:
            return
        values = [before for *_, before in work]
        if top_units.slow:
            after = [_read(each, parameter) for each, parameter, _ in work]
            torch._foreach_lerp_(values, after, top_units.slow)
        for (each, parameter, _), value in zip(work, values, strict=True):
            write_slices(parameter.detach(), value, each.dim, each.positions, each.groups)


def _read(part: _Slice, parameter: Tensor) -> Tensor:
    return read_slices(parameter.detach(), part.dim, part.positions, part.groups)


def _slices(groups: Sequence[UnitGroup], every_consumer: bool) -> Iterator[_Slice]:
    """What the held units of the groups own; their columns in all consumers, or in those that compute no units."""
    producers = {slot.module for group in groups for slot in group.incoming}
    for group in groups:
        held: Tensor = group.state.held
        if not len(held):
            continue
        for slot in (*group.incoming, *group.scales):
            for name, parameter in slot.module._parameters.items():
                if parameter is not None and name in (slot.values or ("weight", "bias")):
                    yield _Slice(slot.module, name, slot.dim_of(parameter), slot.index(held), 1)
        for slot in group.outgoing:
            if every_consumer or slot.module not in producers:
                yield _Slice(slot.module, "weight", slot.dim, slot.index(held), slot.groups)
