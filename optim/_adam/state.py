"""What Adam keeps of each parameter, and where of a DTensor it lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt.distributed import dtensor
from gnt.optim._adam.step_counts import START_KEYS

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

State = dict[str, Any]
Group = dict[str, Any]  # the options of a parameter group


def host_step(step: Tensor | float) -> Tensor:
    """A step count as AdamGnT keeps it: a 0-d tensor on the host, where reading it waits for nothing.

    float64, because torch's own float32 stands still at 2^24 = 16.8 million steps, after which a restarted
    count could never grow. torch's functions take either, and give the same bits.
    """
    return torch.tensor(float(step), dtype=torch.float64)


def new_state(param: Tensor, amsgrad: bool) -> State:
    """The state of a parameter before its first step."""
    moments = MOMENTS if amsgrad else MOMENTS[:2]
    zeros = {key: torch.zeros_like(param, memory_format=torch.preserve_format) for key in moments}
    return {"step": host_step(0.0), **zeros}


def counted_together(states: Sequence[State]) -> Tensor:
    """The step counts of several parameters in one tensor; each state's own count is an element of it from now on."""
    counts = torch.tensor([float(state["step"]) for state in states], dtype=torch.float64)
    for state, count in zip(states, counts.unbind(), strict=True):
        state["step"] = count
    return counts


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is nothing but a tensor: no subclass with ways of its own."""
    return type(tensor) is nn.Parameter or type(tensor) is Tensor


def parts_here(param: Tensor, grad: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """Parameter, gradient and state as they are; of a DTensor the parts on this process. Adam works on each element."""
    if not dtensor.is_dtensor(param):
        return param, grad, state
    whole: Any = grad
    if whole.placements != param.placements:  # type: ignore[attr-defined]
        whole = whole.redistribute(placements=param.placements)  # type: ignore[attr-defined]
    local = {key: dtensor.local_part(value) if key in MOMENTS else value for key, value in state.items()}
    for dim, key in enumerate(START_KEYS):
        if key in state and dtensor.local_part(param).shape[dim] != param.shape[dim]:
            local[key] = state[key].narrow(0, *dtensor.local_range(param, dim))
    return dtensor.local_part(param), dtensor.local_part(whole), local
