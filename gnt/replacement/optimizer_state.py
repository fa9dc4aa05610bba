"""Reset of the optimizer's state for replaced units.

An optimizer with a method ``reset_units(param, dim, index, groups)`` resets its own state. For others, the tables of
`gnt.replacement._optimizer_reset_table` list the per-element state of each optimizer with its initial value. Counts
shared by the whole tensor (``step``) are kept, since they belong to the other units too. An optimizer that is not
listed, or that keeps state without a part per unit, is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from torch import Tensor
from torch.optim import Optimizer

from gnt.replacement._optimizer_reset_table import (
    PARAMETER,
    REASONS_NOT_RESETTABLE,
    STATE_RESETS,
    THIRD_PARTY_STATE_RESETS,
    WRAPPERS,
    InitialValue,
)
from gnt.units import Slot, UnitGroup


class ResetsUnits(Protocol):
    """An optimizer that resets its own state, such as ``AdamGnT``."""

    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        """Reset the state of positions ``index`` along ``dim`` of ``param``."""


def register_state_reset(optimizer_class: type[Optimizer], resets: Mapping[str, InitialValue]) -> None:
    """Register how the per-element state of an optimizer is reset.

    Args:
        optimizer_class: the optimizer's class; the entry also holds for its subclasses.
        resets: for each state key with a tensor of the parameter's shape, its initial value: a number, or the name of
            an entry of ``param_groups`` such as ``"lr"``. Keys that a run does not use may be listed too.

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


class OptimizerStateReset:
    """Resets the state of one optimizer for replaced units.

    Raises:
        TypeError: not a torch optimizer, or one whose state cannot be reset per unit.
        ValueError: the optimizer does not hold a parameter of ``groups``, or has eps = 0.
    """

    def __init__(self, optimizer: Optimizer, groups: Sequence[UnitGroup]) -> None:
        optimizer = unwrap_optimizer(optimizer)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        if not hasattr(optimizer, "reset_units"):
            _resets_of(optimizer)  # an unknown optimizer is reported as such, whatever parameters it holds
        held = {id(p) for options in optimizer.param_groups for p in options["params"]}
        slices = [(name, param) for group in groups for name, param, _ in group.slices()]
        missing = dict.fromkeys(name for name, param in slices if param.requires_grad and id(param) not in held)
        if missing:
            raise ValueError(
                f"optimizer {type(optimizer).__name__} does not hold {', '.join(missing)}: give it the parameters of "
                "all the layers (a copied network has parameters of its own)"
            )
        self.check(groups)

    @property
    def _table(self) -> Mapping[str, InitialValue] | None:
        """State key -> initial value; None for an optimizer that resets its own state."""
        return None if hasattr(self.optimizer, "reset_units") else _resets_of(self.optimizer)

    def check(self, groups: Sequence[UnitGroup]) -> None:
        """Raise TypeError for state that cannot be reset, ValueError for eps = 0; nothing is changed."""
        table = self._table
        for options in self.optimizer.param_groups:
            eps = options.get("eps")
            if isinstance(eps, (int, float)) and eps == 0:
                raise ValueError(
                    f"{type(self.optimizer).__name__} has eps={eps!r}; it must be greater than 0: the state of a "
                    "replaced unit is 0, and without eps its first step is 0 / 0"
                )
        if table is None:
            for name, _, slot in (entry for group in groups for entry in group.slices()):
                if slot.dim > 1:
                    raise TypeError(
                        f"the units lie along dimension {slot.dim} of {name}, and reset_units of "
                        f"{type(self.optimizer).__name__} takes rows (0) and columns (1)"
                    )
            return
        for option in (initial for initial in table.values() if isinstance(initial, str)):
            for options in self.optimizer.param_groups:
                if not isinstance(options.get(option), (int, float, Tensor)):
                    raise TypeError(
                        f"{type(self.optimizer).__name__} has no number {option!r} in its param_groups, which its "
                        "entry in gnt.register_state_reset names as an initial value"
                    )
        for name, param, _ in (entry for group in groups for entry in group.slices()):
            for key, value in self.optimizer.state.get(param, {}).items():
                if not _is_resettable(key, value, table, param):
                    what = (
                        f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"({type(value).__name__})"
                    )
                    raise TypeError(
                        f"{type(self.optimizer).__name__} keeps state {key!r} {what} for {name}, which gnt does not "
                        f"know how to reset for a unit; {_WHAT_TO_DO}"
                    )

    def consumer_biases(self, groups: Sequence[UnitGroup]) -> list[tuple[Tensor, Tensor]]:
        """Consumers' biases, which the transfer changes, with copies; none if no state is an average of parameters."""
        if PARAMETER not in (self._table or {}).values():
            return []
        biases = {id(b): b for group in groups for slot in group.outgoing if (b := slot.bias) is not None}
        return [(bias, bias.detach().clone()) for bias in biases.values()]

    def follow_biases(self, biases: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Add the change of each bias to the averages of it that the optimizer keeps."""
        for bias, before in biases:
            state = self.optimizer.state.get(bias, {})
            for key, initial in (self._table or {}).items():
                value = state.get(key)
                if initial is PARAMETER and isinstance(value, Tensor) and value.shape == bias.shape:
                    value.add_((bias.detach() - before).to(value.dtype))

    def reset(self, group: UnitGroup, units: Tensor) -> None:
        """Reset the state of every slice that belongs to ``units``; all other state stays unchanged."""
        table = self._table
        for _, param, slot in group.slices():
            if table is None:
                groups = {"groups": slot.groups} if slot.groups > 1 else {}
                cast(ResetsUnits, self.optimizer).reset_units(param, slot.dim_of(param), slot.index(units), **groups)
            else:
                self._reset_by_table(table, param, slot, units)

    def _reset_by_table(self, table: Mapping[str, InitialValue], param: Tensor, slot: Slot, units: Tensor) -> None:
        state = self.optimizer.state.get(param, {})
        for key, initial in table.items():
            value = state.get(key)
            if not isinstance(value, Tensor) or value.shape != param.shape:
                continue
            if initial is PARAMETER:
                slot.copy_(value, param.detach(), units)
            else:
                slot.fill_(value, units, self._option(param, initial) if isinstance(initial, str) else initial)

    def _option(self, param: Tensor, name: str) -> float:
        group = next(g for g in self.optimizer.param_groups if any(p is param for p in g["params"]))
        return float(group[name])


def _is_resettable(key: str, value: Any, table: Mapping[str, InitialValue], param: Tensor) -> bool:
    """True for state shared by all elements, or listed in the table and shaped like the parameter."""
    if isinstance(value, Tensor):
        return value.ndim == 0 or (key in table and value.shape == param.shape)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return not any(isinstance(part, Tensor) for part in parts)


_WHAT_TO_DO = (
    "give it a method reset_units(param, dim, index), describe its state with gnt.register_state_reset, or pass "
    "optimizer=None to leave its state as it is"
)


def _resets_of(optimizer: Optimizer) -> Mapping[str, InitialValue]:
    resets = find_state_resets(optimizer)
    if resets is not None:
        return resets
    name = type(optimizer).__name__
    why = REASONS_NOT_RESETTABLE.get(name, "gnt does not know its state")
    raise TypeError(
        f"the state of {name} cannot be reset per unit: {why}. Known are AdamGnT, {', '.join(known_optimizers())}; or "
        f"{_WHAT_TO_DO}"
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
