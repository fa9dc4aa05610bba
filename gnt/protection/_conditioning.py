"""`Conditioning`: what happens to the weights, or their gradients, around each optimizer step of one task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle, unserializable_hook

from gnt.names import Form
from gnt.protection._coverage import CoveredParameter
from gnt.protection._frozen_entries import FrozenEntries, RestoredParameters
from gnt.protection._rates import Hyperbolic, Rates
from gnt.protection._slowed_step import SlowedStep

_PIECE = 1 << 16  # elements that are moved at a time


class ConditionedParameter:
    """One parameter whose rates are not all 1.

    Args:
        covered: the parameter.
        measure: what its rates depend on, broadcastable to it.
        group: the number of its group, or numbers broadcastable to it.
    """

    def __init__(self, covered: CoveredParameter, measure: Tensor, group: Tensor | int) -> None:
        self.name, self.covered, self.parameter = covered.name, covered, covered.parameter
        self.owner = covered.module._parameters
        self.measure, self.group = measure.to(self.parameter.device), group

    def factor(self, factors: Tensor | None, by_group: Sequence[Tensor] | None = None) -> Tensor | None:
        """The entry of ``factors`` that belongs to the parameter; ``by_group``: all entries, taken out at once."""
        if factors is None:
            return None
        return by_group[self.group] if by_group and isinstance(self.group, int) else factors[self.group]


class Conditioning:
    """Holds weights in the update form or the gradient form.

    In the update form a weight moves by rate * (the optimizer's change); in the gradient form its gradient is
    multiplied by the rate before it is accumulated. Weights whose rate is 0 get their values back after each step.

    Args:
        parameters: those whose rates are not all 1.
        rates: the rule.
        form: "update" or "gradient".
        factors: returns the factors of this step, see `Rates.factors`.
        generator: for random rates.
    """

    def __init__(
        self,
        parameters: Sequence[ConditionedParameter],
        rates: Rates,
        form: Form,
        factors: Callable[[], Tensor | None],
        generator: torch.Generator | None,
    ) -> None:
        self.parameters = [each for each in parameters if each.parameter.requires_grad]
        self._not_trained = [each for each in parameters if not each.parameter.requires_grad]
        self._rates, self._form = rates, form
        self._factors, self._generator = factors, generator
        self._current: list[Tensor] | None = None
        self._before: list[Tensor] = []
        self._frozen: list[FrozenEntries] | None = None
        self._restored: RestoredParameters | None = None
        self._slowed: SlowedStep | None = None
        self._stepped = False
        self._handles: list[RemovableHandle] = []
        for number in range(len(self.parameters)):
            self._hang_gradient_hook(number)

    def _hang_gradient_hook(self, number: int) -> None:
        if self._form == "gradient":
            hook: Any = unserializable_hook(self._gradient_hook(number))
            register: Callable[..., RemovableHandle] = self.parameters[number].parameter.register_hook
            self._handles.append(register(hook))

    def _gradient_hook(self, number: int) -> Callable[[Tensor], Tensor]:
        return lambda gradient: gradient * self.current()[number]

    @contextlib.contextmanager
    def unconditioned_gradients(self) -> Iterator[None]:
        """Inside, ``.grad`` is what it was before the rates of this step multiplied it."""
        held = []
        if self._form == "gradient":
            for each, rate in zip(self.parameters, self.current(), strict=True):
                if each.parameter.grad is not None:
                    held.append((each.parameter, each.parameter.grad))
                    gradient = each.parameter.grad
                    each.parameter.grad = torch.where(rate > 0, gradient / rate, gradient)
        try:
            yield
        finally:
            for parameter, gradient in held:
                parameter.grad = gradient

    @torch.no_grad()
    def current(self) -> list[Tensor]:
        """The rates of this step, for each parameter, in its dtype."""
        if self._current is None:
            factors = self._factors()
            self._current = [
                self._rates.rate(each.measure, each.factor(factors), self._generator).to(each.parameter.dtype)
                for each in self.parameters
            ]
        return self._current

    def next_step(self) -> None:
        """Forget the rates of the step that was made, if they change."""
        if self._rates.changes:
            self._current = None

    @torch.no_grad()
    def hold(self) -> None:
        """Copy the values of frozen weights, unless there is a copy of this dtype and device."""
        if self._rates.freezes:
            known: Sequence[FrozenEntries | None] = self._frozen or [None] * len(self.parameters)
            self._frozen = [
                frozen
                if frozen is not None and frozen.fits(each.parameter)
                else FrozenEntries(each.parameter.detach(), each.measure.to(each.parameter.device) == 1)
                for frozen, each in zip(known, self.parameters, strict=True)
            ]
            self._restored = None

    @torch.no_grad()
    def _add_trained(self) -> None:
        """Add parameters that the task trains from now on: ``requires_grad`` was False until after the last step."""
        for each in [each for each in self._not_trained if each.parameter.requires_grad]:
            self._not_trained.remove(each)
            self.parameters.append(each)
            self._current, self._before, self._restored = None, [], None
            if self._frozen is not None:
                self._frozen.append(FrozenEntries(each.parameter.detach(), each.measure == 1))
            self._hang_gradient_hook(len(self.parameters) - 1)
            if self._form == "gradient" and each.parameter.grad is not None:
                each.parameter.grad.mul_(self.current()[-1])

    def before_step(self) -> None:
        """Keep what the step must not change.

        Raises:
            RuntimeError: a parameter of the network has been replaced.
        """
        for each in self.parameters:
            if each.owner.get(each.covered.key) is not each.parameter:
                raise RuntimeError(
                    f"parameter {each.name} is another tensor than when the task began: end the task before the "
                    "network is changed"
                )
        if self._not_trained:
            self._add_trained()
        if self._rates.freezes:
            if self._frozen is None or not self._stepped:
                self.hold()
            self._stepped = True
        elif self._form == "update" and self.parameters:
            self._copy_values()

    @torch.no_grad()
    def _copy_values(self) -> None:
        """Copy all values, from which the step is measured."""
        values: list[Tensor] = [each.parameter for each in self.parameters]
        if self._before and self._before[0].device != values[0].device:
            self._before = []
        if not self._before:
            self._before = [torch.empty_like(value) for value in values]
            pairs = zip(self.parameters, self._before, strict=True)
            self._slowed = SlowedStep([(each.parameter, old, each.measure, each.group) for each, old in pairs])
        torch._foreach_copy_(self._before, values)

    def after_step(self) -> None:
        """Move each weight by its share of the optimizer's change, or give it its value back."""
        if self._rates.freezes:
            self.restore()
        elif self._form == "update":
            self._move()

    @torch.no_grad()
    def _move(self) -> None:
        """Move each weight by its share of the optimizer's change."""
        factors = self._factors() if self._rates.changes else None
        done = self._moved_by_kernel(factors)
        if all(done):
            return
        by_group = None if factors is None else factors.unbind()
        for number, (each, before) in enumerate(zip(self.parameters, self._before, strict=True)):
            if done[number]:
                continue
            value, factor = each.parameter.detach(), each.factor(factors, by_group)
            if factor is None or not self._move_in_pieces(number, value, before, factor):
                torch.lerp(before, value, self.current()[number].expand_as(value), out=value)

    def _moved_by_kernel(self, factors: Tensor | None) -> list[bool]:
        """Move all parameters that a kernel can move -> which it has moved."""
        rule = type(self._rates)
        hyperbolic = rule.rate is Hyperbolic.rate and rule.rate_into is Hyperbolic.rate_into
        if factors is None or self._slowed is None or not hyperbolic:
            return [False] * len(self.parameters)
        return self._slowed.move(factors)

    def _move_in_pieces(self, number: int, value: Tensor, before: Tensor, factor: Tensor) -> bool:
        """Move a parameter in pieces that fit into the cache; False if that is not possible."""
        measure = self.parameters[number].measure
        if measure.dtype != value.dtype or factor.ndim or measure.device != value.device:
            return False
        if measure.numel() < value.numel() or value.ndim < 2:
            rate = torch.empty_like(measure)
            if not self._rates.rate_into(rate, measure, factor):
                return False
            torch.lerp(before, value, rate.expand_as(value), out=value)
            return True
        rows = max(1, _PIECE // value[0].numel())
        buffer = torch.empty_like(measure[:rows])
        for start in range(0, len(value), rows):
            part, old, needed = value[start : start + rows], before[start : start + rows], measure[start : start + rows]
            rate = buffer[: len(part)]
            if not self._rates.rate_into(rate, needed, factor):
                return False
            torch.lerp(old, part, rate, out=part)
        return True

    def restore(self) -> None:
        """Give frozen weights their values back."""
        if self._frozen is not None:
            if self._restored is None:
                self._restored = RestoredParameters([each.parameter for each in self.parameters], self._frozen)
            self._restored.restore()

    def mean_rate(self, parameter: Tensor) -> float:
        """The mean rate of a parameter in this step."""
        for number, each in enumerate(self.parameters):
            if each.parameter is parameter:
                return float(self.current()[number].double().mean())
        return 1.0

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def conditioned(
    covered: Sequence[CoveredParameter], measures: Sequence[Tensor | None], groups: Sequence[Tensor | int]
) -> list[ConditionedParameter]:
    """The parameters whose rates are not all 1.

    Args:
        covered: all parameters.
        measures: for each what its rates depend on; None: rate 1.
        groups: for each its group, see `Coverage.group_numbers`.
    """
    found = zip(covered, measures, groups, strict=True)
    return [ConditionedParameter(each, measure, group) for each, measure, group in found if measure is not None]
