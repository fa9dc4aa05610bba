"""Checks of gradients, parameters and the arguments of `reset_units`, made before an optimizer changes anything."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices as _fused_devices

from gnt.optim._adam.state import MOMENTS
from gnt.optim._adam.step_counts import START_KEYS, count_elements, row_dim, single_dim


def layout_error(params: Sequence[Sequence[Tensor]], grads: Sequence[Sequence[Tensor]]) -> RuntimeError:
    """The error for the first gradient that is not dense. Both arguments are by parameter group."""
    pairs = zip(chain.from_iterable(params), chain.from_iterable(grads), strict=True)
    param, grad = next((param, grad) for param, grad in pairs if grad.layout is not torch.strided)
    return RuntimeError(
        f"AdamGnT requires dense gradients, got layout {grad.layout} for a parameter of shape {tuple(param.shape)}"
    )


def check_parameters(params: Sequence[Tensor], group: Mapping[str, Any], state_of: Mapping[Tensor, Any]) -> None:
    """Check the parameters of a group with their states before a step is planned.

    Raises:
        RuntimeError: a state of another shape than its parameter's, or parameters that ``fused=True`` does not support.
    """
    for param in params:
        state, shape = state_of.get(param) or {}, tuple(param.shape)
        if state and not ("step" in state and all(key in state for key in MOMENTS[:2])):
            raise RuntimeError(
                f"the state of the parameter of shape {shape} has the entries {', '.join(map(str, state))}; AdamGnT "
                f"needs step, {' and '.join(MOMENTS[:2])}. Load the state of an AdamGnT, Adam or AdamW"
            )
        check_state_shapes(param, state, MOMENTS)
        check_starts(param, state)
        if group["fused"] and not (param.is_floating_point() and param.device.type in _fused_devices()):
            raise RuntimeError(
                f"fused=True requires parameters on one of the devices {', '.join(_fused_devices())}, got a parameter "
                f"of shape {shape} on {param.device.type} with dtype {param.dtype}: omit fused"
            )


def check_state_shapes(param: Tensor, state: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Raise RuntimeError if a tensor of a parameter's state, under one of these keys, has another shape than it."""
    for key in keys:
        if key in state and state[key].shape != param.shape:
            raise RuntimeError(
                f"the parameter has shape {tuple(param.shape)}, but its state {key!r} has shape "
                f"{tuple(state[key].shape)}: the parameter was changed after its first step. Delete its entry of "
                "optimizer.state, or build a new optimizer"
            )


def checked_size(param: Tensor, dim: int, groups: int, state: dict[str, Any]) -> int:
    """The number of rows (dim 0) or columns (dim 1) of a parameter, or its size along its `single_dim`.

    Raises TypeError or ValueError if the parameter does not have this dimension or number of groups.
    """
    shape = tuple(param.shape)
    for name, value in (("dim", dim), ("groups", groups)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r}")
    single = single_dim(shape)
    if dim not in range(min(param.dim(), 2)) and (single is None or dim != single):
        allowed = {0: "none (it has no units)", 1: "0 (rows)"}.get(param.dim(), "0 (rows) or 1 (columns)")
        allowed = f"0 (rows), 1 (columns) or {single} (elements)" if single is not None else allowed
        raise ValueError(f"dim={dim} for a parameter of shape {shape}; allowed: {allowed}")
    if dim != 1:
        return shape[dim]
    if groups < 1 or shape[0] % groups:
        raise ValueError(f"groups must be at least 1 and divide the {shape[0]} rows of shape {shape}, got {groups}")
    columns = shape[1] * groups
    start = state.get(START_KEYS[1])
    if start is not None and start.numel() != columns and start.any():  # zeros: no column was ever reset
        raise ValueError(
            f"groups={groups} for a parameter of shape {shape}, "
            f"but earlier calls had groups={start.numel() // shape[1]}"
        )
    return columns


def checked_units(index: Tensor | Sequence[int], size: int, device: torch.device) -> Tensor:
    """``index`` as an int64 tensor on the device.

    Raises TypeError or ValueError for anything but integers in 0..size-1. The range of an index on an accelerator is
    not checked here, because that would synchronize: the device raises its own assertion.
    """
    if isinstance(index, Tensor):
        if index.dtype != torch.int64 or index.dim() != 1:
            raise TypeError(
                "index must be a 1-d LongTensor or a list of ints, "
                f"got a {index.dtype} tensor of shape {tuple(index.shape)}"
            )
        units = index
        numbers = index.tolist() if index.is_cpu else []
    else:
        numbers = _integers(index)
        units = torch.tensor(numbers, dtype=torch.int64, device="cpu")
    if numbers:
        low, high = min(numbers), max(numbers)
        if low < 0 or high >= size:
            raise ValueError(f"index must be in 0..{size - 1}, got {low if low < 0 else high}")
    return units.to(device, non_blocking=True)


def _integers(index: Sequence[int]) -> list[int]:
    try:
        numbers = [operator.index(i) for i in index]
    except TypeError:
        numbers = None
    if numbers is None or any(isinstance(i, bool) for i in index):
        raise TypeError(f"index must be a 1-d LongTensor or a list of ints, got {index!r}")
    return numbers


_LARGEST_ROUNDING = 2.0**-8  # of bfloat16


def checked_starts(param: Tensor, saved: Mapping[str, Any], step: float) -> dict[str, Tensor]:
    """The ``START_KEYS`` of a saved state, as int64 copies on the parameter's device. All-zero entries are left out.

    Other optimizers round them to the parameter's dtype, so that they may exceed the step count a little; they are then
    set to the step count.

    Raises ValueError if their sizes do not fit the parameter's rows and columns, or they do not fit the step count.
    """
    check_starts(param, saved)
    for key in START_KEYS:
        if key in saved and saved[key].numel():
            low, high = (float(bound) for bound in saved[key].aminmax())
            if not 0 <= low <= high <= step * (1 + _LARGEST_ROUNDING):
                got = low if low < 0 else high
                raise ValueError(f"the loaded state's {key} must be in 0..{step:g}, its step count, got {got:g}")
            saved = {**saved, key: saved[key].to(torch.int64).clamp(max=int(step))}
    # if no unit was ever reset, the parameter is stepped by torch's Adam
    starts = {key: saved[key] for key in START_KEYS if key in saved and saved[key].any()}
    if START_KEYS[0] in starts and row_dim(param.shape, starts[START_KEYS[0]]):
        count_elements(starts, param.shape)
    return {key: start.detach().to(device=param.device, dtype=torch.int64, copy=True) for key, start in starts.items()}


def check_starts(param: Tensor, state: Mapping[str, Any]) -> None:
    """Raise ValueError if the ``START_KEYS`` of a state do not fit the parameter's rows and columns."""
    shape = tuple(param.shape)
    for key, start in ((key, state[key]) for key in START_KEYS if key in state):
        size = tuple(start.shape)
        if key == START_KEYS[0]:
            single = single_dim(shape)
            fits = len(shape) > 0 and (size == shape[:1] or (single is not None and size == (shape[single],)))
        else:
            fits = len(shape) > 1 and len(size) == 1 and size[0] % max(shape[1], 1) == 0
            fits = fits and (size[0] > 0 or not shape[1]) and shape[0] % max(size[0] // max(shape[1], 1), 1) == 0
        if not fits:
            raise ValueError(f"the loaded state's {key} of shape {size} does not fit a parameter of shape {shape}")
