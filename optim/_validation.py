"""What AdamGnT takes, and the errors for everything else: raised before anything is changed."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from gnt.optim._adam.step_counts import START_KEYS


def check_options(options: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for options of a parameter group that Adam is not defined for."""
    lr, betas = options["lr"], options["betas"]
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"lr as a tensor must have one element, got shape {tuple(lr.shape)}")
        if options["foreach"]:
            raise ValueError("lr as a tensor does not go with foreach=True; give a number, or leave foreach out")
    elif not isinstance(lr, Real):
        raise TypeError(f"lr must be a number or a tensor of one element, got {lr!r}")
    if not isinstance(betas, Sequence) or len(betas) != 2 or not all(isinstance(beta, Real) for beta in betas):
        raise TypeError(f"betas must be two numbers, got {betas!r}")
    for beta in betas:
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"betas must be in [0, 1), got {betas!r}")
    for name in ("lr", "eps", "weight_decay"):
        value = options[name]
        if name != "lr" and not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not value >= 0.0:  # so that nan is refused too
            raise ValueError(f"{name} must not be negative, got {value!r}")
    if options["foreach"] and options["fused"]:
        raise ValueError("foreach=True and fused=True exclude each other")


def check_flag(name: str, value: Any) -> None:
    """Raise TypeError for anything but True and False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_gradients(params: Sequence[Sequence[Tensor]], grads: Sequence[Sequence[Tensor]]) -> None:
    """Raise RuntimeError for gradients that are not dense; both by parameter groups."""
    for i, group in enumerate(grads):
        for j, grad in enumerate(group):
            if grad.layout is not torch.strided:
                raise RuntimeError(
                    f"AdamGnT takes dense gradients, got one of layout {grad.layout} "
                    f"for a parameter of shape {tuple(params[i][j].shape)}"
                )


def checked_size(param: Tensor, dim: int, groups: int, state: dict[str, Any]) -> int:
    """The number of rows (dim 0) or columns (dim 1) of a parameter.

    Raises TypeError or ValueError for a dim or a number of groups that it does not have.
    """
    shape = tuple(param.shape)
    for name, value in (("dim", dim), ("groups", groups)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r}")
    if dim not in range(min(param.dim(), 2)):
        allowed = {0: "none: it has no units", 1: "0 (rows)"}.get(param.dim(), "0 (rows) or 1 (columns)")
        raise ValueError(f"dim={dim} for a parameter of shape {shape}; allowed: {allowed}")
    if dim == 0:
        return shape[0]
    if groups < 1 or shape[0] % groups:
        raise ValueError(f"groups must be at least 1 and divide the {shape[0]} rows of shape {shape}, got {groups}")
    columns = shape[1] * groups
    known = state.get("column_start")
    if known is not None and known.numel() != columns:
        raise ValueError(
            f"groups={groups} for a parameter of shape {shape}, "
            f"but earlier calls had groups={known.numel() // shape[1]}"
        )
    return columns


def checked_units(index: Tensor | Sequence[int], size: int, device: torch.device) -> Tensor:
    """``index`` as an int64 tensor on the device.

    Raises TypeError or ValueError for anything but whole numbers in 0..size-1. The range is checked where the
    host can see the numbers; out of range on an accelerator, the device itself stops with its own assertion.
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
        numbers = _whole_numbers(index)
        units = torch.tensor(numbers, dtype=torch.int64)
    if numbers:
        low, high = min(numbers), max(numbers)
        if low < 0 or high >= size:
            raise ValueError(f"index must be in 0..{size - 1}, got {low if low < 0 else high}")
    return units.to(device, non_blocking=True)


def _whole_numbers(index: Sequence[int]) -> list[int]:
    try:
        numbers = [operator.index(i) for i in index]
    except TypeError:
        numbers = None
    if numbers is None or any(isinstance(i, bool) for i in index):
        raise TypeError(f"index must be a 1-d LongTensor or a list of ints, got {index!r}")
    return numbers


def checked_starts(param: Tensor, saved: dict[str, Any]) -> dict[str, Tensor]:
    """The counts of a saved state: int64 copies on the parameter's device, whatever dtype they were saved in.

    Raises ValueError where their number is not that of the parameter's rows or columns.
    """
    shape = tuple(param.shape)
    starts = {key: saved[key] for key in START_KEYS if key in saved}
    for key, start in starts.items():
        size = tuple(start.shape)
        if key == "row_start":
            fits = len(shape) > 0 and size == shape[:1]
        else:
            fits = len(shape) > 1 and len(size) == 1 and size[0] % shape[1] == 0
            fits = fits and size[0] > 0 and shape[0] % (size[0] // shape[1]) == 0
        if not fits:
            raise ValueError(f"the loaded state's {key} of shape {size} does not fit a parameter of shape {shape}")
    # all zeros: no unit was ever reset, and the parameter is stepped as if there were no counts
    starts = {key: start for key, start in starts.items() if start.any()}
    return {key: start.detach().to(device=param.device, dtype=torch.int64, copy=True) for key, start in starts.items()}
