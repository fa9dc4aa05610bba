"""Registration and lookup of how an optimizer's state is reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from gnt.replacement._optimizer_reset_table import PARAMETER, STATE_RESETS, InitialValue
from gnt.replacement._third_party_reset_table import (
    ELEMENTWISE,
    REASONS_NOT_RESETTABLE,
    THIRD_PARTY_STATE_RESETS,
    WITHOUT_EPS,
    WRAPPERS,
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
        TypeError: not a subclass of torch.optim.Optimizer, a key that is no name, or a value that is neither a number
            nor a name.
        ValueError: an initial value that is NaN. Nothing is registered.

    >>> import torch, gnt
    >>> class Signum(torch.optim.SGD): ...
    >>> gnt.register_state_reset(Signum, {"momentum_buffer": 0.0})
    """
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
        given = type(optimizer_class).__name__ if isinstance(optimizer_class, Optimizer) else f"{optimizer_class!r:.80}"
        instance = ", an optimizer; pass its class" if isinstance(optimizer_class, Optimizer) else ""
        raise TypeError(f"optimizer_class must be a subclass of torch.optim.Optimizer, got {given}{instance}")
    if not isinstance(resets, Mapping):
        raise TypeError(f"resets must be a mapping of state keys to initial values, got {type(resets).__name__}")
    for key, value in resets.items():
        if not isinstance(key, str):
            raise TypeError(f"the keys of resets must be names of state keys, got {key!r}")
        if not isinstance(value, (int, float, str)) and value is not PARAMETER:
            raise TypeError(f"the initial value of {key!r} must be a number or the name of an option, got {value!r}")
        if value != value:
            raise ValueError(f"the initial value of {key!r} must be a number or the name of an option, got {value!r}")
    STATE_RESETS[optimizer_class] = dict(resets)


def resets_of(optimizer: Optimizer) -> Mapping[str, InitialValue]:
    """The table entry of an optimizer; TypeError if there is none."""
    resets = find_state_resets(optimizer)
    if resets is not None:
        return resets
    names = sorted({"AdamGnT", *(kind.__name__ for kind in STATE_RESETS)})
    packages = sorted({package for package, _ in THIRD_PARTY_STATE_RESETS})
    raise TypeError(
        f"the state of {type(optimizer).__name__} cannot be reset per unit: {_why_not(optimizer)}. Known are "
        f"{', '.join(names)}, and optimizers of {', '.join(packages)} "
        f"(gnt.replacement.known_optimizers() lists them); or {WHAT_TO_DO}"
    )


def _why_not(optimizer: Optimizer) -> str:
    """The reason why an optimizer, or the nearest base class that has one, cannot be reset."""
    for kind in type(optimizer).__mro__:
        package, name = _package(kind), kind.__name__
        for key in ((package, name), ("*", name)):
            if key in REASONS_NOT_RESETTABLE:
                return REASONS_NOT_RESETTABLE[key]
    kind = type(optimizer)
    same = sorted(package for package, name in THIRD_PARTY_STATE_RESETS if name == kind.__name__)
    if same:
        return (
            f"gnt does not know its state, but that of {kind.__name__} of {', '.join(same)}; this is {kind.__module__}"
        )
    return "gnt does not know its state"


def unwrap_optimizer(optimizer: Any) -> Any:
    """The optimizer inside the wrappers of accelerate and Lightning."""
    while isinstance(inner := getattr(optimizer, WRAPPERS.get(_package(type(optimizer)), ""), None), Optimizer):
        optimizer = inner
    return optimizer


def find_state_resets(optimizer: Optimizer) -> Mapping[str, InitialValue] | None:
    """The table entry of an optimizer, or of the nearest base class that has one; None if there is none."""
    for kind in type(optimizer).__mro__:
        key = (_package(kind), kind.__name__)
        if kind in STATE_RESETS:
            return STATE_RESETS[kind]
        if key in THIRD_PARTY_STATE_RESETS:
            return THIRD_PARTY_STATE_RESETS[key]
        if key in REASONS_NOT_RESETTABLE:
            return None
    return None


def known_optimizers(package: str | None = None) -> list[str]:
    """The names of the optimizers in the tables.

    Args:
        package: only those of this package, such as ``"timm"``; None: all.

    >>> import gnt.replacement
    >>> gnt.replacement.known_optimizers("schedulefree")[-1]
    'SGDScheduleFreeClosure'
    """
    own = {kind.__name__ for kind in STATE_RESETS if package in (None, _package(kind))}
    return sorted(own | {name for of, name in THIRD_PARTY_STATE_RESETS if package in (None, of)})


def takes_eps_zero(optimizer: Optimizer) -> bool:
    """True if the optimizer divides by no state that is 0 after a reset, whatever its eps."""
    return any((_package(kind), kind.__name__) in WITHOUT_EPS for kind in type(optimizer).__mro__)


def works_elementwise(optimizer: Optimizer) -> bool:
    """True if the nearest entry of an optimizer is not that of one that mixes the elements of a parameter.

    Optimizers of torch and registered ones count as elementwise here.
    """
    for kind in type(optimizer).__mro__:
        if kind in STATE_RESETS:
            return True
        key = (_package(kind), kind.__name__)
        if key in THIRD_PARTY_STATE_RESETS:
            return key in ELEMENTWISE
    return False


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]
