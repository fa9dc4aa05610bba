"""Selection and replacement of units on a GPU by the Triton kernels of ``gnt/_triton/replacement.py``.

Selection is one launch for all groups, and so is each of the two kernels that replace units, besides the draws of new
weights, which are those of torch. The equivalent in torch operations is `UnitReplacement`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from gnt._triton import is_capturing, on_device, upload
from gnt.importance import SharedState
from gnt.initialization import SlotInit, draws_biases, fill_biases, fill_weights
from gnt.replacement._replacement_tasks import GroupTasks, Unsupported
from gnt.replacement._triton_plan import Plan, make_plan
from gnt.replacement.optimizer_state import OptimizerStateReset
from gnt.units import UnitGroup

_MOST_SELECTED = 32  # units of a group; the kernel takes time proportional to their number
_MOST_PLANS = 32


class TritonReplacement:
    """Replaces units of groups whose states share tensors on a GPU.

    Args:
        groups: all groups of the engine.
        shared: the tensors of their states, in the same order.
    """

    def __init__(self, groups: tuple[UnitGroup, ...], shared: SharedState) -> None:
        from gnt._triton import replacement, unit_statistics

        self._kernels: Any = replacement
        self.groups, self._shared = groups, shared
        self._dtype, self._device = shared.averages.dtype, shared.averages.device
        first, limits = groups[0].state, torch.finfo(self._dtype)
        decay = first.measured_decay
        self._ages = (first.measure_every, decay, math.log(decay) if decay else 0.0, limits.tiny)
        self._of_selection = (*self._ages, first.corrected, limits.max)
        self._scalar = unit_statistics.scalar_type(self._dtype)
        self._reset: OptimizerStateReset | None = None
        self._tasks: dict[int, GroupTasks | None] = {}  # by the number of the group; None: it is not supported
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._selections: dict[tuple[int, ...], Tensor] = {}
        self._selected: tuple[list[Tensor], Tensor] = [], shared.born  # by group, and all of them

    def select(self, counts: Sequence[int], maturity_threshold: int) -> list[Tensor] | None:
        """Indices of the eligible units of lowest utility, lowest first, as `selection.lowest` finds them.

        Args:
            counts: for each group how many; not more than are eligible.
            maturity_threshold: the threshold; no unit is protected.

        Returns:
            None, if this is left to torch operations because there are many.
        """
        if max(counts) > _MOST_SELECTED or is_capturing(self._device):
            return None
        kernels, shared, key = self._kernels, self._shared, tuple(counts)
        tasks = self._selections.get(key)
        if tasks is None:
            rows, place = [], 0
            for number, (group, count) in enumerate(zip(self.groups, counts, strict=True)):
                if count:
                    rows.append([int(group.state.born.storage_offset()), group.num_units, number, count, place])
                    place += count
            tasks = _keep(self._selections, key, upload(torch.tensor(rows, device="cpu"), self._device))
        shared.follow_host()
        assert shared.updates_on_device is not None
        chosen = torch.empty(sum(counts), dtype=torch.int64, device=self._device)
        with on_device(self._device):
            kernels.select_lowest[(len(tasks),)](
                tasks, shared.averages, shared.born, shared.updates_on_device, shared.num_features, maturity_threshold,
                chosen, *self._of_selection, self._scalar, kernels.SELECT_FIELDS, kernels.SELECT_BLOCK,
            )  # fmt: skip
        parts = iter(torch.split(chosen, [count for count in counts if count]))
        selected = [
            next(parts) if count else group.state.no_units for group, count in zip(self.groups, counts, strict=True)
        ]
        self._selected = [each for each in selected if len(each)], chosen
        return selected

    def prepare(
        self, units: Sequence[Tensor], inits: Sequence[Sequence[SlotInit]], reset: OptimizerStateReset | None
    ) -> PreparedPlan | None:
        """The replacement of units; None if torch operations must do it. Changes nothing.

        Args:
            units: indices for each group.
            inits: for each group the initial distributions of each slot that is drawn.
            reset: resets the optimizer's state; None: it is left alone.

        Raises:
            TypeError, ValueError: the state of the optimizer cannot be reset.
        """
        plan = self._plan(units, inits, reset)
        return None if plan is None else PreparedPlan(self, plan, units, inits)

    def _plan(
        self, units: Sequence[Tensor], inits: Sequence[Sequence[SlotInit]], reset: OptimizerStateReset | None
    ) -> Plan | None:
        """The tables for these units, as `prepare`."""
        if is_capturing(self._device):
            return None
        if reset is not self._reset:  # the engine was given another optimizer
            self._reset = reset
            self._tasks.clear()
            self._plans.clear()
        numbers = tuple(number for number, each in enumerate(units) if len(each))
        tasks = self._current_tasks(numbers, reset)
        if tasks is None:
            return None
        counts = tuple(len(units[number]) for number in numbers)
        drawn = tuple(tuple(map(draws_biases, self.groups[number].drawn, inits[number])) for number in numbers)
        steps = {float(step) for each in tasks for step in each.steps}
        resets_optimizer = len(steps) < 2 and all(each.optimizer_writes is not None for each in tasks)
        key = numbers, counts, drawn, resets_optimizer
        plan = self._plans.get(key)
        if plan is None:
            groups = [(number, self.groups[number], each) for number, each in zip(numbers, tasks, strict=True)]
            try:
                new = make_plan(self._kernels, groups, counts, drawn, resets_optimizer=resets_optimizer)
                plan = _keep(self._plans, key, new)
            except Unsupported:
                return None
        if plan.resets_optimizer and reset is not None:
            reset.check_options()
        return plan._replace(step=int(steps.pop())) if resets_optimizer and steps else plan

    def _current_tasks(self, numbers: Sequence[int], reset: OptimizerStateReset | None) -> list[GroupTasks] | None:
        """The tasks of these groups, made again if they are not current; None if a group is not supported."""
        found, checked = [], False
        for number in numbers:
            tasks = self._tasks.get(number)
            if tasks is None or not tasks.is_current(reset):
                if tasks is None and number in self._tasks:
                    return None
                if reset is not None and not checked:
                    reset.check(self.groups)
                    checked = True
                self._plans.clear()
                try:
                    tasks = self._tasks[number] = GroupTasks(self.groups[number], number, reset)
                except Unsupported:
                    self._tasks[number] = None
                    return None
            found.append(tasks)
        return found

    def draw(
        self,
        plan: Plan,
        units: Sequence[Tensor],
        inits: Sequence[Sequence[SlotInit]],
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """New weights and biases, the same as `draw_weights` and `draw_biases` return, in one tensor."""
        fresh = torch.empty(plan.num_fresh, dtype=self._dtype, device=generators[0].device)
        at = 0
        for number in plan.numbers:
            group, count = self.groups[number], len(units[number])
            pairs = list(zip(group.drawn, inits[number], strict=True))
            for slot, init in pairs:
                shape = (1, count * slot.block, *slot.rest)
                size = math.prod(shape)
                fill_weights(fresh.narrow(0, at, size).view(shape), slot, init, generators)
                at += size
            for slot, init in pairs:
                if draws_biases(slot, init):
                    size = count * slot.block
                    fill_biases(fresh.narrow(0, at, size).view(1, size), slot, init, generators)
                    at += size
        return fresh.to(self._device, non_blocking=True)

    def replace(self, plan: Plan, units: Sequence[Tensor], fresh: Tensor, *, transfer: bool) -> None:
        """Write all that changes when units are replaced, but counters on the host.

        Args:
            plan: the plan.
            units: indices for each group.
            fresh: what `draw` returned.
            transfer: move mean contributions into the consumers' biases.
        """
        kernels, shared, scalar = self._kernels, self._shared, self._scalar
        shared.follow_host()
        updates = shared.updates_on_device
        chosen = self._joined([units[number] for number in plan.numbers])
        with on_device(self._device):
            for table, grid in plan.moves:
                kernels.move_contributions[grid](
                    table, chosen, shared.averages, shared.born, updates, transfer, *self._ages, scalar,
                    kernels.MOVE_FIELDS, kernels.MOVE_OUTPUTS, kernels.MOVE_INNER,
                )  # fmt: skip
            for table, grid in plan.writes:
                kernels.write_slices[grid](
                    table, chosen, fresh, updates, plan.step, scalar, kernels.WRITE_FIELDS, kernels.WRITE_BLOCK
                )
        increment_version(plan.params)

    def _joined(self, units: Sequence[Tensor]) -> Tensor:
        """Indices of several groups in one tensor."""
        if len(units) == 1:
            return units[0].contiguous()
        selected, joined = self._selected
        if len(units) == len(selected) and all(a is b for a, b in zip(units, selected, strict=True)):
            return joined
        return torch.cat(list(units))


class PreparedPlan:
    """The replacement of certain units. Nothing is changed before `write`.

    Args:
        kernels: what replaces them.
        plan: the plan for them.
        units: indices for each group.
        inits: for each group the initial distributions of each slot that is drawn.

    Attributes:
        resets_optimizer: the state of the optimizer is among what is written.
    """

    def __init__(
        self,
        kernels: TritonReplacement,
        plan: Plan,
        units: Sequence[Tensor],
        inits: Sequence[Sequence[SlotInit]],
    ) -> None:
        self._kernels, self._plan, self._units, self._inits = kernels, plan, units, inits
        self.resets_optimizer = plan.resets_optimizer

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Draw the new weights and biases."""
        self._fresh = self._kernels.draw(self._plan, self._units, self._inits, generators)

    def write(self, *, transfer: bool) -> None:
        """Write all that changes, but counters on the host.

        Args:
            transfer: move mean contributions into the consumers' biases.
        """
        self._kernels.replace(self._plan, self._units, self._fresh, transfer=transfer)


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> Any:
    """Keep a value; the oldest of many is dropped."""
    if len(kept) >= _MOST_PLANS:
        kept.pop(next(iter(kept)))
    kept[key] = value
    return value
