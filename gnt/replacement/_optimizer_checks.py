"""Checks of an optimizer's options and of tensors that it keeps outside its state of each parameter."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from gnt.replacement._optimizer_registry import WHAT_TO_DO, resets_of, takes_eps_zero
from gnt.replacement._state_structure import inner_optimizers, tensors_outside_state, walk_state
from gnt.units import Slot


def check_options(optimizer: Optimizer) -> None:
    """Raise ValueError for eps = 0, TypeError for an initial value that names no option."""
    name = type(optimizer).__name__
    for options in optimizer.param_groups:
        eps = options.get("eps")
        if isinstance(eps, (int, float)) and eps == 0 and not takes_eps_zero(optimizer):
            raise ValueError(
                f"{name} has eps={eps!r}; it must be greater than 0: the state of a replaced unit is 0, and without "
                "eps its first step is 0 / 0"
            )
    if hasattr(optimizer, "reset_units"):
        return
    for option in (initial for initial in resets_of(optimizer).values() if isinstance(initial, str)):
        for options in optimizer.param_groups:
            if not isinstance(options.get(option), (int, float, Tensor)):
                raise TypeError(
                    f"{name} has no number {option!r} in its param_groups, which its entry in "
                    "gnt.register_state_reset names as an initial value"
                )


def check_outside_state(optimizer: Optimizer, slices: Sequence[tuple[str, Tensor, Slot]]) -> None:
    """Raise TypeError for tensors shaped like a parameter that are not in the parameter's own state."""
    names = {param.shape: name for name, param, _ in slices}
    held: set[int] = set()
    for where, value in tensors_outside_state(optimizer):
        if value.numel() <= 1 or value.shape not in names:
            continue
        held = held or _held_tensors(optimizer)
        if id(value) not in held:
            raise TypeError(
                f"{type(optimizer).__name__} keeps a tensor of shape {tuple(value.shape)}, that of "
                f"{names[value.shape]}, in its {where} and not in its state of a parameter, so gnt cannot reset it "
                f"for a unit; {WHAT_TO_DO}"
            )


def _held_tensors(optimizer: Optimizer) -> set[int]:
    """Ids of an optimizer's parameters and of the tensors of their state, there and in optimizers inside it."""
    parameters = {id(p) for options in optimizer.param_groups for p in options["params"]}
    states = [each.state for each in (optimizer, *inner_optimizers(optimizer))]
    entries = (entry for state in states for key, entry in state.items() if isinstance(key, Tensor))
    return parameters | {id(value) for entry in entries for _, value in walk_state(entry) if isinstance(value, Tensor)}
