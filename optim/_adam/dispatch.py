"""Who is stepped, and how: the parameters of one group that have gradients, looked up once and kept between steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from gnt.distributed import dtensor
from gnt.optim._adam import kernel as compiled_adam
from gnt.optim._adam import state as adam_state
from gnt.optim._adam.kernel import Compiled
from gnt.optim._adam.per_unit_step import PerUnit, PerUnitSharded
from gnt.optim._adam.state import Group, State
from gnt.optim._adam.step_counts import START_KEYS
from gnt.optim._adam.torch_step import NeverReset

if TYPE_CHECKING:
    from gnt.importance import WeightMeans

Places = Mapping[int, "WeightMeans"]


class Stepper(Protocol):
    """Some of a group's parameters that are stepped in one way."""

    def fits(self) -> bool:
        """Whether what was looked up still holds."""

    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """One step on each of its parameters; the gradients in the same order."""


class Roster:
    """The parameters of a group that have gradients, their state, and what steps them.

    Making one takes about as long as a step of torch's Adam. It serves as long as the same parameters have gradients
    and their state is the same tensors (`fits`); so a load, a new reset or a parameter that was frozen makes a new one.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        group: Group,
        state_of: Mapping[Tensor, State],
        places: Places,
        *,
        compiled: bool,
    ) -> None:
        self._places = places
        self._amsgrad = bool(group["amsgrad"])
        states = [state_of[param] for param in params]
        for param, state in zip(params, states, strict=True):
            if not state:
                state.update(adam_state.new_state(param, self._amsgrad))
        ways: dict[tuple[Any, ...], list[int]] = {}
        for i, (param, state) in enumerate(zip(params, states, strict=True)):
            ways.setdefault(_way(param, state, compiled), []).append(i)
        self._steppers: list[tuple[Stepper, list[int] | None]] = [
            (way[0]([params[i] for i in chosen], [states[i] for i in chosen], group), chosen if len(ways) > 1 else None)
            for way, chosen in ways.items()
        ]
        for stepper, _ in self._steppers:
            if isinstance(stepper, Compiled):
                stepper.sum_into(places)
        # after the steppers, which keep the counts of several parameters in one tensor
        self._held = [
            (param, state, state["step"], state["exp_avg"], state["exp_avg_sq"], len(state))
            for param, state in zip(params, states, strict=True)
        ]
        self.on_cuda = any(param.is_cuda for param in params)

    def fits(self, params: Sequence[Tensor], group: Group, state_of: Mapping[Tensor, State], places: Places) -> bool:
        """Whether these are the parameters and this is the state that it was made of."""
        if len(params) != len(self._held) or bool(group["amsgrad"]) is not self._amsgrad:
            return False
        if places is not self._places:
            return False
        for param, (held, kept, step, exp_avg, exp_avg_sq, size) in zip(params, self._held, strict=True):
            if param is not held:
                return False
            state = state_of[param]
            if state is not kept or len(state) != size:
                return False
            if state["step"] is not step or state["exp_avg"] is not exp_avg or state["exp_avg_sq"] is not exp_avg_sq:
                return False
        return all(stepper.fits() for stepper, _ in self._steppers)

    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """One step on each parameter; the gradients in the same order."""
        for stepper, chosen in self._steppers:
            stepper.step(grads if chosen is None else [grads[i] for i in chosen], group)


Make = Callable[[Sequence[Tensor], Sequence[State], Group], Stepper]


def _way(param: Tensor, state: State, compiled: bool) -> tuple[Any, ...]:
    """What steps a parameter, and what the parameters that are stepped together have in common."""
    if compiled and compiled_adam.can_step(param, state):
        return Compiled, param.dtype
    if all(key not in state for key in START_KEYS):
        return NeverReset, adam_state.is_plain(param), param.device, param.dtype
    if dtensor.is_dtensor(param):
        return (PerUnitSharded,)
    return PerUnit, param.device, param.dtype
