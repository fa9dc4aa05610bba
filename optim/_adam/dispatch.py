"""Which implementation steps each parameter of a group, decided once and reused between steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from gnt.distributed import dtensor
from gnt.importance import WeightMeans
from gnt.optim._adam.kernel import KernelStep, kernel_can_step
from gnt.optim._adam.per_unit_step import PerUnitStep, ShardedPerUnitStep
from gnt.optim._adam.state import MOMENTS, Group, State, complete_state, is_plain_tensor
from gnt.optim._adam.step_counts import START_KEYS
from gnt.optim._adam.torch_step import TorchStep
from gnt.optim._adam.triton_step import TritonStep, triton_can_step
from gnt.optim._gradient_checks import GradientChecks

_EXP_AVG, _EXP_AVG_SQ = MOMENTS[:2]


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
        self._entries = [
            (param, state, state["step"], state[_EXP_AVG], state[_EXP_AVG_SQ], len(state))
            for param, state in zip(params, states, strict=True)
        ]
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
        if len(params) != len(self._entries) or bool(group["amsgrad"]) is not self._amsgrad:
            return False
        if group["fused"] is not self._fused or group["foreach"] is not self._foreach:
            return False
        if weight_means is not self._weight_means:
            return False
        for param, (planned, planned_state, step, exp_avg, exp_avg_sq, size) in zip(params, self._entries, strict=True):
            if param is not planned:
                return False
            state = state_of[param]
            if state is not planned_state or len(state) != size:
                return False
            if state["step"] is not step or state[_EXP_AVG] is not exp_avg or state[_EXP_AVG_SQ] is not exp_avg_sq:
                return False
        return all(stepper.is_valid() for stepper, _ in self._steppers)

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
