"""Checks of a saved state before an optimizer loads it: options of the groups, and entries of the parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gnt.optim._options import CheckOptions


def check_saved_options(
    optimizer: Optimizer, state_dict: Mapping[str, Any], required: Collection[str], check: CheckOptions
) -> None:
    """Raise ValueError for saved groups without one of the ``required`` options, or with options that are not valid."""
    for i, group in enumerate(state_dict["param_groups"]):
        missing = [name for name in required if name not in group]
        if missing:
            raise ValueError(
                f"the loaded state_dict is not one of {_base_name(optimizer)}: its parameter group {i} lacks "
                f"{', '.join(missing)}; it has {', '.join(name for name in group if name != 'params')}"
            )
        try:
            check({**optimizer.defaults, **group})
        except (TypeError, ValueError) as error:
            raise type(error)(f"parameter group {i} of the loaded state_dict: {error}") from None


def saved_entries(
    optimizer: Optimizer, state_dict: Mapping[str, Any]
) -> Iterator[tuple[Tensor, dict[str, Any], Mapping[str, Any]]]:
    """Each parameter with its saved state, if there is one, and its saved group.

    Nothing if the saved groups are of other sizes, which torch reports.
    """
    saved_groups = state_dict["param_groups"]
    if [len(group["params"]) for group in optimizer.param_groups] != [len(group["params"]) for group in saved_groups]:
        return
    for group, saved_group in zip(optimizer.param_groups, saved_groups, strict=True):
        for param, saved_id in zip(group["params"], saved_group["params"], strict=True):
            saved = state_dict["state"].get(saved_id)
            if saved:
                yield param, saved, saved_group


def check_entries(
    optimizer: Optimizer,
    param: Tensor,
    saved: Mapping[str, Any],
    tensors: Collection[str],
    others: Collection[str] = (),
    *,
    required: bool = True,
) -> None:
    """Raise ValueError unless a saved state has the entries that the optimizer keeps for a parameter.

    Args:
        optimizer: the optimizer.
        param: the parameter.
        saved: its saved state.
        tensors: the entries with the shape of the parameter.
        others: further entries that are allowed.
        required: the state must have all of ``tensors``.
    """
    kind, shape = _base_name(optimizer), tuple(param.shape)
    unknown = [str(key) for key in saved if key not in tensors and key not in others]
    missing = [key for key in tensors if key not in saved] if required else []
    if unknown or missing:
        what = f"has {', '.join(unknown)}, which {kind} does not keep" if unknown else f"lacks {', '.join(missing)}"
        raise ValueError(
            f"the loaded state of a parameter of shape {shape} {what}: the state_dict is of another optimizer, or of "
            f"one with other options; {kind} keeps {', '.join((*tensors, *others))}"
        )
    for key in tensors:
        value = saved.get(key)
        if isinstance(value, Tensor) and value.shape == param.shape:
            continue
        if value is not None or required:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the loaded state's {key} must have the shape {shape} of its parameter, got {got}")


def _base_name(optimizer: Optimizer) -> str:
    """The name of the class that keeps the state: AdamGnT or SGD, also for the optimizers with an engine."""
    return next(
        (kind.__name__ for kind in type(optimizer).__mro__ if kind.__name__ in ("AdamGnT", "SGD")),
        type(optimizer).__name__,
    )
