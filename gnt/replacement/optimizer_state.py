"""Reset of the optimizer's state for replaced units.

An optimizer with a method ``reset_units(param, dim, index, groups)`` resets its own state. For others, the tables
(`_optimizer_reset_table`, `_third_party_reset_table`) list the per-element state of each optimizer with its initial
value. Counts shared by the whole tensor (``step``) are kept, since they belong to the other units too. An optimizer
that is not listed, or that keeps state without a part per unit, is refused by name. State is searched to any depth, and
may be shaped like the parameter, flattened, or several such tensors stacked; the state of an optimizer inside a
registered wrapper is reset by its own entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt.replacement._followers import Follower
from gnt.replacement._optimizer_checks import check_options, check_outside_state
from gnt.replacement._optimizer_parts import OptimizerPart, optimizer_parts
from gnt.replacement._optimizer_registry import (
    WHAT_TO_DO,
    find_state_resets,
    known_optimizers,
    register_state_reset,
    unwrap_optimizer,
    works_elementwise,
)
from gnt.replacement._optimizer_reset_table import PARAMETER, STATE_RESETS, InitialValue
from gnt.replacement._state_kinds import WritableKinds, is_plain
from gnt.replacement._state_structure import Path, path_name, walk_state
from gnt.units import Slot, UnitGroup

__all__ = [
    "STATE_RESETS",
    "OptimizerStateReset",
    "find_state_resets",
    "known_optimizers",
    "register_state_reset",
    "state_of_further_optimizer",
    "unwrap_optimizer",
    "works_elementwise",
]


class OptimizerStateReset:
    """Resets the state of one optimizer, and of optimizers that it wraps, for replaced units: a `FollowerAdapter`.

    Args:
        optimizer: the optimizer.
        groups: the groups whose units are replaced.
        beside: optimizers that hold parameters of the groups which this one does not hold, such as the biases beside
            Muon; each has an object of its own.

    Raises:
        TypeError: not a torch optimizer, or one whose state cannot be reset per unit.
        ValueError: neither the optimizer nor those beside it hold a parameter of ``groups``, or it has eps = 0.
    """

    def __init__(self, optimizer: Optimizer, groups: Sequence[UnitGroup], beside: Sequence[Optimizer] = ()) -> None:
        optimizer = unwrap_optimizer(optimizer)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self._kinds = WritableKinds()
        self._parts()  # an unknown optimizer is reported as such, whatever parameters it holds
        self.beside = tuple(beside)
        self._held_for: Sequence[UnitGroup] = ()
        self._held_sizes: list[list[int]] = []
        self.check(groups)

    def _sizes(self) -> list[list[int]]:
        """The number of parameters in each parameter group of all optimizers."""
        return [[len(group["params"]) for group in each.param_groups] for each in (self.optimizer, *self.beside)]

    def _check_held(self, groups: Sequence[UnitGroup]) -> None:
        """Check that the optimizers hold all parameters of the groups, unless they have passed this check."""
        sizes = self._sizes()
        if groups is self._held_for and sizes == self._held_sizes:
            return
        slices = [(name, param) for group in groups for name, param, _ in group.slices()]
        kinds, held = type(self.optimizer).__name__, _held_by(self.optimizer)
        if any(id(param) in held for _, param in slices):
            kinds = " and ".join([kinds, *(type(each).__name__ for each in self.beside)])
            held |= _held_by(*self.beside)
        missing = dict.fromkeys(name for name, param in slices if param.requires_grad and id(param) not in held)
        if missing:
            raise ValueError(
                f"optimizer {kinds} does not hold {', '.join(missing)}: give it the parameters of all the layers (a "
                "copied network has parameters of its own), or the optimizer that holds the others as follow=[OTHER]"
            )
        self._held_for, self._held_sizes = groups, sizes

    def _slices(self, groups: Sequence[UnitGroup]) -> list[tuple[str, Tensor, Slot]]:
        """The parameters of the groups that this optimizer holds; without others beside it all of them."""
        slices = [entry for group in groups for entry in group.slices()]
        if not self.beside:
            return slices
        held = _held_by(self.optimizer)
        return [entry for entry in slices if id(entry[1]) in held]

    @property
    def target(self) -> Optimizer:
        """The optimizer."""
        return self.optimizer

    def _parts(self) -> list[OptimizerPart]:
        return optimizer_parts(self.optimizer, "reset_units")

    def check(self, groups: Sequence[UnitGroup]) -> None:
        """Raise TypeError for state that cannot be reset, ValueError for eps = 0; nothing is changed."""
        self._check_held(groups)
        slices = self._slices(groups)
        for part in self._parts():
            for optimizer in part.optimizers:
                check_options(optimizer)
            if part.table is None:
                for name, param, slot in slices:
                    self._check_dimension(part, name, param, slot.dim_of(param))
                continue
            for optimizer in part.optimizers:
                check_outside_state(optimizer, slices)
            for name, param, slot in slices:
                self._check_state(part, name, param, slot)
            if PARAMETER in part.table.values():
                self._check_biases(part, groups)

    @staticmethod
    def _check_dimension(part: OptimizerPart, name: str, param: Tensor, dim: int) -> None:
        """Ask the optimizer, by a reset of no unit, whether it takes a dimension beyond rows (0) and columns (1)."""
        if dim > 1:
            try:
                no_units = torch.empty(0, dtype=torch.int64, device=param.device)
                cast(Follower, part.optimizers[0]).reset_units(param, dim, no_units)
            except Exception as error:
                raise TypeError(
                    f"the units lie along dimension {dim} of {name}, and reset_units of {part.name} does not take it: "
                    f"{error}"
                ) from error

    def _check_state(self, part: OptimizerPart, name: str, param: Tensor, slot: Slot) -> None:
        state = part.state.get(param)
        for path, value in walk_state(state):
            if not isinstance(value, Tensor):
                what = f"({type(value).__name__}), in which gnt cannot look for tensors,"
                raise TypeError(f"{part.name} keeps state {path_name(path)!r} {what} for {name}; {WHAT_TO_DO}")
            views = part.views(param, path, value)
            if views is None:
                what = f"{path_name(path)!r} of shape {tuple(value.shape)}"
                if len(path) > 1:
                    first = state[path[0]] if isinstance(state, Mapping) else getattr(state, str(path[0]), state)
                    what = f"{str(path[0])!r} ({type(first).__name__}) with a tensor {what}"
                raise TypeError(
                    f"{part.name} keeps state {what} for {name}, which gnt does not know how to reset for a unit; "
                    f"{WHAT_TO_DO}"
                )
            if not views or is_plain(views[0]):
                continue
            initial, unit = part.initial(param, path), torch.zeros(1, dtype=torch.int64, device=param.device)
            problem = self._kinds.problem(
                views[0],
                f"copy {slot.groups > 1}" if initial is PARAMETER else f"fill {slot.groups > 1}",
                partial(_write, slot, param=param, units=unit, initial=initial),
            )
            self._raise_if(problem, part, path, value, name)

    def _check_biases(self, part: OptimizerPart, groups: Sequence[UnitGroup]) -> None:
        for slot in (slot for group in groups for slot in group.outgoing):
            if slot.bias is None:
                continue
            for path, value in part.tensors(slot.bias):
                if part.initial(slot.bias, path) is PARAMETER:
                    bias = slot.bias.detach()
                    problem = self._kinds.problem(value, "add", partial(_add, change=bias - bias))
                    self._raise_if(problem, part, path, value, f"the bias of {slot.name}")

    @staticmethod
    def _raise_if(problem: str | None, part: OptimizerPart, path: Path, value: Tensor, name: str) -> None:
        if problem is not None:
            raise TypeError(
                f"{part.name} keeps state {path_name(path)!r} for {name} in a tensor ({type(value).__name__}, "
                f"{value.dtype}) that cannot be changed for a single unit: {problem}; {WHAT_TO_DO}"
            )

    @property
    def moves_bias(self) -> bool:
        """True if some of the state is an average of parameters."""
        return any(PARAMETER in (part.table or {}).values() for part in self._parts())

    def move_bias(self, slot: Slot, change: Tensor) -> None:
        """Add the change of a consumer's bias to the averages of it that the optimizer keeps."""
        bias = slot.bias
        assert bias is not None
        for part in self._parts():
            if part.table is not None:
                part.expand_copies(bias)
                for path, value in part.tensors(bias):
                    if part.initial(bias, path) is PARAMETER:
                        _add(value, change)

    def reset(self, group: UnitGroup, units: Tensor) -> None:
        """Reset the state of every slice that belongs to ``units``; all other state stays unchanged."""
        parts = self._parts()
        for _, param, slot in self._slices([group]):
            for part in parts:
                if part.table is None:
                    groups = {"groups": slot.groups} if slot.groups > 1 else {}
                    optimizer = cast(Follower, part.optimizers[0])
                    optimizer.reset_units(param, slot.dim_of(param), slot.index(units), **groups)
                else:
                    part.expand_copies(param)
                    for path, value in part.tensors(param):
                        _write(slot, value, param, units, part.initial(param, path))

    def check_options(self) -> None:
        """The part of `check` about options and parameters: raise ValueError for eps = 0, and for ones not held."""
        self._check_held(self._held_for)
        check_options(self.optimizer)

    def unit_state(self, param: Tensor, dim: int) -> list[tuple[Tensor, float | Tensor]] | None:
        """The tensors in which `reset` writes for units along a dimension of a parameter, with what it writes.

        Each is shaped like the parameter, or has one number for each position along the dimension. What is written is a
        number, or a tensor of one element. The state must have passed `check`, and consist of tensors and numbers.

        Returns:
            None if `reset` does more, or if it is not known what would change the result later.
        """
        part, *others = self._parts()
        if others or len(part.optimizers) > 1 or not all(map(_is_known, type(part.optimizers[0]).__mro__)):
            return None
        if part.table is None:
            own = getattr(part.optimizers[0], "unit_state", None)
            return None if own is None else cast("list[tuple[Tensor, float | Tensor]] | None", own(param, dim))
        if any(isinstance(each, str) for each in part.table.values()):  # initial values that are options may change
            return None
        state = part.state.get(param, {})
        if not isinstance(state, dict) or any(isinstance(each, (Mapping, Sequence)) for each in state.values()):
            return None
        found: list[tuple[Tensor, float | Tensor]] = []
        for path, value in part.tensors(param):
            initial = part.initial(param, path)
            if not isinstance(initial, (int, float)) or value.shape != param.shape:
                return None
            found.append((value, float(initial)))
        return found


def _is_known(kind: type) -> bool:
    """True for a class of torch or gnt."""
    return kind is object or kind.__module__.partition(".")[0] in ("torch", "gnt")


def state_of_further_optimizer(
    optimizer: Optimizer, groups: Sequence[UnitGroup], own: Optimizer | None, beside: Sequence[Any] = ()
) -> OptimizerStateReset:
    """The state of an optimizer that follows an engine, besides the engine's ``own`` one.

    ``beside``: the followers of the engine, among them further optimizers.

    Raises:
        ValueError: it is the engine's own one, or does not hold a parameter of the groups.
        TypeError: its state cannot be reset per unit.
    """
    if optimizer is own:
        raise ValueError(f"this {type(own).__name__} is the engine's optimizer, whose state is reset in any case")
    others = (*([] if own is None else [own]), *optimizers_among(beside))
    return OptimizerStateReset(optimizer, groups, [each for each in others if each is not optimizer])


def optimizers_among(objects: Any) -> list[Optimizer]:
    """The optimizers in a list of followers; none if it is no list, which is refused elsewhere."""
    listed = objects if isinstance(objects, (list, tuple)) else ()
    return [unwrap_optimizer(each) for each in listed if isinstance(each, Optimizer)]


def _held_by(*optimizers: Optimizer) -> set[int]:
    """The ids of all parameters that some optimizers hold."""
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def _add(value: Tensor, change: Tensor) -> None:
    value.add_(change.to(value.dtype))


def _write(slot: Slot, value: Tensor, param: Tensor, units: Tensor, initial: InitialValue) -> None:
    """Set the units' part of ``value``, which is shaped like ``param``, to its initial value."""
    if initial is PARAMETER:
        slot.copy_(value, param.detach(), units)
    else:
        slot.fill_(value, units, initial)
