"""The optimizer state of a parameter: its entries, and the part of it on this process for sharded parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt.distributed import dtensor
from gnt.optim._adam.step_counts import START_KEYS, count_elements, row_dim, zero_starts

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # the third with amsgrad only

State = dict[str, Any]
Group = dict[str, Any]  # the options of a parameter group


def moment_keys(amsgrad: bool) -> tuple[str, ...]:
    """The keys of the moments that a step updates."""
    return MOMENTS if amsgrad else MOMENTS[:2]


def moment_lists(states: Sequence[State], amsgrad: bool) -> list[list[Tensor]]:
    """One list per moment (2, or 3 with amsgrad), with the tensor of each state."""
    return [[state[key] for state in states] for key in moment_keys(amsgrad)]


def host_step_count(step: Tensor | float) -> Tensor:
    """A step count in the form AdamGnT keeps it: a 0-d float64 tensor on the host, which is read without synchronizing.

    torch uses float32, which stops at 2^24 = 16.8 million steps: a count that restarts later could never grow. torch's
    functions accept both and return the same bits.
    """
    return torch.tensor(float(step), dtype=torch.float64, device="cpu")


def complete_state(param: Tensor, state: State, amsgrad: bool, *, capturable: bool = False) -> None:
    """Add the entries that a state lacks: all before the first step; the maximum of v if amsgrad is set later.

    With ``capturable``, the step count is on the parameter's device, and the starts of rows and columns exist from the
    first step on, so that a later reset adds no entry.
    """
    if not state:
        state["step"] = host_step_count(0.0)
    if capturable:
        state["step"] = state["step"].to(param.device)
        if all(key not in state for key in START_KEYS):
            state.update(zero_starts(param))
        count_elements(state, param.shape)
    for key in moment_keys(amsgrad):
        if key not in state:
            state[key] = torch.zeros_like(param, memory_format=torch.preserve_format)


def share_step_counts(states: Sequence[State]) -> Tensor:
    """Put the step counts of several states in one tensor, and make each state's count a view of it."""
    counts = torch.tensor([float(state["step"]) for state in states], dtype=torch.float64, device="cpu")
    for state, count in zip(states, counts.unbind(), strict=True):
        state["step"] = count
    return counts


def step_counts_on_device(states: Sequence[State], device: torch.device) -> Tensor:
    """`share_step_counts` for counts that are on a device, without reading them."""
    counts = torch.stack([state["step"].to(device, torch.float64) for state in states])
    for state, count in zip(states, counts.unbind(), strict=True):
        state["step"] = count
    return counts


def clear_slices(value: Tensor, dim: int, units: Tensor, groups: int) -> None:
    """Set these rows (dim 0) or columns (dim 1) to zero, in place. ``groups``: that of a grouped convolution."""
    if dim != 1 or groups == 1:
        local, index, _ = dtensor.locate_local(value, dim, units)
        local.index_fill_(dim, index, 0)
        return
    per_group = value.shape[1]
    # a view (groups, channels per group, outputs, *kernel), so that the assignment writes into value
    by_channel = torch.unflatten(value, 0, (groups, -1)).transpose(1, 2)
    by_channel[units // per_group, units % per_group] = 0


def is_plain_tensor(tensor: Tensor) -> bool:
    """True if a tensor is not of a subclass such as DTensor, which may override operations."""
    return type(tensor) is nn.Parameter or type(tensor) is Tensor


def local_parts(param: Tensor, grad: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """Parameter, gradient and state; for a DTensor the parts on this process, with the state in a new dict."""
    if not dtensor.is_dtensor(param):
        return param, grad, state
    whole: Any = grad
    if whole.placements != param.placements:  # type: ignore[attr-defined]
        whole = whole.redistribute(placements=param.placements)  # type: ignore[attr-defined]
    local = {key: dtensor.local_part(value) if key in MOMENTS else value for key, value in state.items()}
    for number, key in enumerate(START_KEYS):
        dim = number or (row_dim(param.shape, state[key]) if key in state else 0)
        if key in state and dtensor.local_part(param).shape[dim] != param.shape[dim]:
            local[key] = state[key].narrow(0, *dtensor.local_range(param, dim))
    return dtensor.local_part(param), dtensor.local_part(whole), local
