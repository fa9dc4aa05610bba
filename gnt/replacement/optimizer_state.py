"""The optimizer's memory of a replaced unit, reset: a table, state key -> value at birth.

An optimizer that has ``reset_units(param, dim, index, groups)`` is asked. Any other goes by `STATE_RESETS`, which lists
for each optimizer of torch.optim its per-element state. Counts that the whole tensor shares (``step``) stay: they
belong to the other units too. An optimizer that is not listed, or keeps state that has no per-unit part, is refused by
name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from torch import Tensor
from torch.optim import Optimizer

from gnt.replacement._reset_rules import PARAMETER, STATE_RESETS, WHY_NOT, Fresh, known, row_of, unwrap_optimizer
from gnt.units import Slot, UnitGroup


class ResetsUnits(Protocol):
    """An optimizer that resets its own state: ``AdamGnT``, or one of your own."""

    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        """Reset the state of positions ``index`` along ``dim`` of ``param``."""


def register_state_reset(optimizer_class: type[Optimizer], resets: Mapping[str, Fresh]) -> None:
    """Tell gnt how to reset an optimizer's per-element state.

    Args:
        optimizer_class: the optimizer's class; subclasses inherit the entry.
        resets: for each state key that holds a tensor of the parameter's shape, its value at birth: a number, or the
            name of an entry of ``param_groups`` such as ``"lr"``. Keys that a run does not use may be listed too.

    Raises:
        TypeError: not a subclass of torch.optim.Optimizer, or values that are neither numbers nor names.

    >>> import torch, gnt
    >>> class Signum(torch.optim.SGD): ...
    >>> gnt.register_state_reset(Signum, {"momentum_buffer": 0.0})
    """
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
        raise TypeError(f"optimizer_class must be a subclass of torch.optim.Optimizer, got {optimizer_class!r}")
    if not isinstance(resets, Mapping):
        raise TypeError(f"resets must be a mapping of state keys to values at birth, got {type(resets).__name__}")
    for key, value in resets.items():
        if not isinstance(value, (int, float, str)) and value is not PARAMETER:
            raise TypeError(f"the value at birth of {key!r} must be a number or the name of an option, got {value!r}")
    STATE_RESETS[optimizer_class] = dict(resets)


class StateReset:
    """Resets the state of one optimizer for replaced units.

    Raises:
        TypeError: not a torch optimizer, or one whose state cannot be reset per unit.
        ValueError: the optimizer does not hold a parameter of ``groups``.
    """

    def __init__(self, optimizer: Optimizer, groups: Sequence[UnitGroup]) -> None:
        optimizer = unwrap_optimizer(optimizer)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        if not hasattr(optimizer, "reset_units"):
            _resets_of(optimizer)  # an optimizer that is not known is refused as that, whatever it holds
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
    def _table(self) -> Mapping[str, Fresh] | None:
        """State key -> value at birth; None for an optimizer that resets its own."""
        return None if hasattr(self.optimizer, "reset_units") else _resets_of(self.optimizer)

    def check(self, groups: Sequence[UnitGroup]) -> None:
        """Refuse state that the table does not know, before anything is changed."""
        table = self._table
        if table is None:
            for name, _, slot in (entry for group in groups for entry in group.slices()):
                if slot.dim > 1:
                    raise TypeError(
                        f"the units lie along dimension {slot.dim} of {name}, and reset_units of "
                        f"{type(self.optimizer).__name__} takes rows (0) and columns (1)"
                    )
            return
        for option in (fresh for fresh in table.values() if isinstance(fresh, str)):
            for options in self.optimizer.param_groups:
                if not isinstance(options.get(option), (int, float, Tensor)):
                    raise TypeError(
                        f"{type(self.optimizer).__name__} has no number {option!r} in its param_groups, which its "
                        "entry in gnt.register_state_reset names as a value at birth"
                    )
        for name, param, _ in (entry for group in groups for entry in group.slices()):
            for key, value in self.optimizer.state.get(param, {}).items():
                if not _understood(key, value, table, param):
                    what = (
                        f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"({type(value).__name__})"
                    )
                    raise TypeError(
                        f"{type(self.optimizer).__name__} keeps state {key!r} {what} for {name}, which gnt does not "
                        f"know how to reset for a unit; {_WHAT_TO_DO}"
                    )

    def consumer_biases(self, groups: Sequence[UnitGroup]) -> list[tuple[Tensor, Tensor]]:
        """The consumers' biases, which a transfer moves, with copies; none where no state is made of parameters."""
        if PARAMETER not in (self._table or {}).values():
            return []
        biases = {id(b): b for group in groups for slot in group.outgoing if (b := slot.bias) is not None}
        return [(bias, bias.detach().clone()) for bias in biases.values()]

    def follow(self, biases: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Move averages of parameters along with the biases: they stand for the same function, at other points."""
        for bias, before in biases:
            state = self.optimizer.state.get(bias, {})
            for key, fresh in (self._table or {}).items():
                value = state.get(key)
                if fresh is PARAMETER and isinstance(value, Tensor) and value.shape == bias.shape:
                    value.add_((bias.detach() - before).to(value.dtype))

    def reset(self, group: UnitGroup, units: Tensor) -> None:
        """Reset the state of every slice that ``units`` own. Nothing else changes by a bit."""
        table = self._table
        for _, param, slot in group.slices():
            if table is None:
                groups = {"groups": slot.groups} if slot.groups > 1 else {}
                cast(ResetsUnits, self.optimizer).reset_units(param, slot.dim_of(param), slot.index(units), **groups)
            else:
                self._reset_by_table(table, param, slot, units)

    def _reset_by_table(self, table: Mapping[str, Fresh], param: Tensor, slot: Slot, units: Tensor) -> None:
        state = self.optimizer.state.get(param, {})
        for key, fresh in table.items():
            value = state.get(key)
            if not isinstance(value, Tensor) or value.shape != param.shape:
                continue
            if fresh is PARAMETER:
                slot.copy_(value, param.detach(), units)
            else:
                slot.fill_(value, units, self._option(param, fresh) if isinstance(fresh, str) else fresh)

    def _option(self, param: Tensor, name: str) -> float:
        holder = next(g for g in self.optimizer.param_groups if any(p is param for p in g["params"]))
        return float(holder[name])


def _understood(key: str, value: Any, table: Mapping[str, Fresh], param: Tensor) -> bool:
    """Whether a piece of state is shared by all elements, or is the table's and shaped like the parameter."""
    if isinstance(value, Tensor):
        return value.ndim == 0 or (key in table and value.shape == param.shape)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return not any(isinstance(part, Tensor) for part in parts)


_WHAT_TO_DO = (
    "give it a method reset_units(param, dim, index), describe its state with gnt.register_state_reset, or pass "
    "optimizer=None to leave its state as it is"
)


def _resets_of(optimizer: Optimizer) -> Mapping[str, Fresh]:
    row = row_of(optimizer)
    if row is not None:
        return row
    name = type(optimizer).__name__
    why = WHY_NOT.get(name, "gnt does not know its state")
    raise TypeError(
        f"the state of {name} cannot be reset per unit: {why}. Known are AdamGnT, {', '.join(known())}; or "
        f"{_WHAT_TO_DO}"
    )
