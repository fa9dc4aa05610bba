"""Which implementation steps each parameter of a group, decided once and reused between steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import is_
from typing import Any, Protocol

from torch import Tensor

from gnt.distributed import dtensor
from gnt.importance import WeightMeans
from gnt.optim._adam.kernel import KernelStep, kernel_can_step
from gnt.optim._adam.per_unit_step import PerUnitStep, ShardedPerUnitStep
from gnt.optim._adam.state import Group, State, complete_state, is_plain_tensor
from gnt.optim._adam.step_counts import START_KEYS
from gnt.optim._adam.torch_step import TorchStep
from gnt.optim._adam.triton_step import TritonStep, triton_can_step
from gnt.optim._gradient_checks import GradientChecks


class Stepper(Protocol):
    """Steps some parameters of a group by one implementation."""

    def is_valid(self) -> bool:
        """True if the addresses and layouts that were looked up still hold."""

    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """Take one step on each parameter. The gradients are in the same order."""


class StepPlan:
    """Cached execution plan of one parameter group: its parameters with gradients, their state, and their steppers.

    Making a plan takes about as long as a step of torch's Adam. It stays valid as long as the same parameters have
    gradients and their state consists of the same tensors. Loading a state_dict, the first reset of a parameter's units
    and freezing a parameter make it invalid.

    Args:
        params: the parameters that have gradients.
        group: the options.
        state_of: the optimizer state; missing entries are created.
        weight_means: where the kernel writes means of |w|, by the parameter's id.
        kernels: step by the C kernel what it can step.
        triton: step by Triton kernels what they can step; on a GPU parameters of which units were reset.
        capturable: keep the step counts on the devices.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        group: Group,
        state_of: Mapping[Tensor, State],
        weight_means: Mapping[int, WeightMeans],
        *,
        kernels: bool,
        triton: bool = False,
        capturable: bool = False,
    ) -> None:
        self._weight_means = weight_means
        self._amsgrad, self._fused, self._foreach = bool(group["amsgrad"]), group["fused"], group["foreach"]
        states = [state_of[param] for param in params]
        for param, state in zip(params, states, strict=True):
            complete_state(param, state, self._amsgrad, capturable=capturable)
        batches: dict[tuple[Any, ...], list[int]] = {}
        for i, (param, state) in enumerate(zip(params, states, strict=True)):
            batches.setdefault(_stepper_key(param, state, kernels, triton, capturable), []).append(i)
        self._steppers: list[tuple[Stepper, list[int] | None]] = []
        for (make, *_), chosen in batches.items():
            stepper = make([params[i] for i in chosen], [states[i] for i in chosen], group)
            if isinstance(stepper, KernelStep):
                stepper.write_weight_means(weight_means)
            self._steppers.append((stepper, chosen if len(batches) > 1 else None))
        # after the steppers were made, because they replace the step counts in the states by views
        self._params, self._states, self._sizes = list(params), states, [*map(len, states)]
        entries = [(state, key) for state in states for key in state]
        self._holders, self._keys = [state for state, _ in entries], [key for _, key in entries]
        self._tensors = [state[key] for state, key in entries]
        self._all_params, self._all_states = [*state_of], [*state_of.values()]
        self._gradients = GradientChecks(params)
        self.on_cuda = any(param.is_cuda for param in params)

    def is_valid(
        self,
        params: Sequence[Tensor],
        group: Group,
        state_of: Mapping[Tensor, State],
        weight_means: Mapping[int, WeightMeans],
    ) -> bool:
        """True if the plan was made for these parameters and this state."""
        if not (
            len(params) == len(self._params)
            and all(map(is_, params, self._params))
            and bool(group["amsgrad"]) is self._amsgrad
            and group["fused"] is self._fused
            and group["foreach"] is self._foreach
            and weight_means is self._weight_means
            # entries that were added later are behind these; a look-up would call Tensor.__hash__, in Python
            and len(state_of) >= len(self._all_states)
            and all(map(is_, state_of, self._all_params))
            and all(map(is_, state_of.values(), self._all_states))
            and [*map(len, self._states)] == self._sizes
            and all(map(is_, map(dict.get, self._holders, self._keys), self._tensors))
        ):
            return False
        for stepper, _ in self._steppers:  # noqa: SIM110  # a generator takes longer
            if not stepper.is_valid():
                return False
        return True

    def checked_gradients(self, grads: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients in the dtypes of their parameters. To be called before any step.

        Raises RuntimeError for a gradient that does not fit its parameter.
        """
        return self._gradients.checked(grads)

    def step(self, grads: Sequence[Tensor], group: Group) -> None:
        """Take one step on each parameter. The gradients are in the same order."""
        for stepper, chosen in self._steppers:
            stepper.step(grads if chosen is None else [grads[i] for i in chosen], group)


def _stepper_key(param: Tensor, state: State, kernels: bool, triton: bool, capturable: bool) -> tuple[Any, ...]:
    """What makes the stepper for a parameter, then what all parameters of one stepper have in common."""
    never_reset = all(key not in state for key in START_KEYS)
    if triton and not (never_reset and param.is_cuda) and triton_can_step(param, state):
        return _CAPTURABLE_TRITON_STEP if capturable else _TRITON_STEP, param.device, param.dtype
    if kernels and not capturable and kernel_can_step(param, state):
        return KernelStep, param.dtype
    if never_reset:
        return TorchStep, is_plain_tensor(param), param.device, param.dtype
    if dtensor.is_dtensor(param):
        return (ShardedPerUnitStep,)
    return _CAPTURABLE_PER_UNIT_STEP if capturable else PerUnitStep, param.device, param.dtype


_TRITON_STEP, _CAPTURABLE_TRITON_STEP = (partial(TritonStep, capturable=capturable) for capturable in (False, True))
_CAPTURABLE_PER_UNIT_STEP = partial(PerUnitStep, capturable=True)
