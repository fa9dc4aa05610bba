"""Registration and lookup of how an optimizer's state is reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from gnt.replacement._optimizer_reset_table import (
    PARAMETER,
    REASONS_NOT_RESETTABLE,
    STATE_RESETS,
    THIRD_PARTY_STATE_RESETS,
    WRAPPERS,
    InitialValue,
)

WHAT_TO_DO = (
    "give it a method reset_units(param, dim, index), describe its state with gnt.register_state_reset, or pass "
    "optimizer=None to leave its state as it is"
)


def register_state_reset(optimizer_class: type[Optimizer], resets: Mapping[str, InitialValue]) -> None:
    """Register how the per-element state of an optimizer is reset.

    Args:
        optimizer_class: the optimizer's class; the entry also holds for its subclasses.
        resets: for each state key with a tensor of the parameter's shape, its initial value: a number, or the name of
            an entry of ``param_groups`` such as ``"lr"``. Keys that a run does not use may be listed too. In nested
            state, keys, attributes and positions are joined by dots, with ``*`` for any position: ``"blocks.*.m"``;
            a shorter name (``"blocks"``) holds for all tensors below it.

    Raises:
        TypeError: not a subclass of torch.optim.Optimizer, or a value that is neither a number nor a name.

    >>> import torch, gnt
    >>> class Signum(torch.optim.SGD): ...
    >>> gnt.register_state_reset(Signum, {"momentum_buffer": 0.0})
    """
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
        raise TypeError(f"optimizer_class must be a subclass of torch.optim.Optimizer, got {optimizer_class!r}")
    if not isinstance(resets, Mapping):
        raise TypeError(f"resets must be a mapping of state keys to initial values, got {type(resets).__name__}")
    for key, value in resets.items():
        if not isinstance(value, (int, float, str)) and value is not PARAMETER:
            raise TypeError(f"the initial value of {key!r} must be a number or the name of an option, got {value!r}")
    STATE_RESETS[optimizer_class] = dict(resets)


def resets_of(optimizer: Optimizer) -> Mapping[str, InitialValue]:
    """The table entry of an optimizer; TypeError if there is none."""
    resets = find_state_resets(optimizer)
    if resets is not None:
        return resets
    name = type(optimizer).__name__
    why = REASONS_NOT_RESETTABLE.get(name, "gnt does not know its state")
    raise TypeError(
        f"the state of {name} cannot be reset per unit: {why}. Known are AdamGnT, {', '.join(known_optimizers())}; or "
        f"{WHAT_TO_DO}"
    )


def unwrap_optimizer(optimizer: Any) -> Any:
    """The optimizer inside the wrappers of accelerate and Lightning."""
    while isinstance(inner := getattr(optimizer, WRAPPERS.get(_package(type(optimizer)), ""), None), Optimizer):
        optimizer = inner
    return optimizer


def find_state_resets(optimizer: Optimizer) -> Mapping[str, InitialValue] | None:
    """The table entry of an optimizer, or of the nearest base class that has one; None if there is none."""
    for kind in type(optimizer).__mro__:
        resets = STATE_RESETS.get(kind, THIRD_PARTY_STATE_RESETS.get((_package(kind), kind.__name__)))
        if resets is not None:
            return resets
    return None


def known_optimizers() -> list[str]:
    """The names of all optimizers in the tables."""
    return sorted({kind.__name__ for kind in STATE_RESETS} | {name for _, name in THIRD_PARTY_STATE_RESETS})


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]
