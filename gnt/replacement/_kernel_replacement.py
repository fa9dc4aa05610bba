"""Replacement of single units on the CPU by the C kernel ``gnt/_kernels/replace_unit.c``.

At the usual replacement rates one unit of a group is replaced at a time. The kernel does it with one call. From the
same averages the result is the same to the last bit as by torch operations (`UnitReplacement`). These replace several
units of a group at once, and units of layers that the kernel does not know.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from gnt._kernels import load
from gnt.initialization import SlotInit, draw_weights, draws_biases
from gnt.replacement._replacement_tasks import CONSTANT, FRESH, STEP, UPDATES, GroupTasks, Move, Unsupported, Write
from gnt.replacement.optimizer_state import OptimizerStateReset
from gnt.units import UnitGroup

_WRITE, _VALUE = 7, 6  # number of integers in the kernel's record of a tensor that is written, and index of the value
_SCALAR, _INT64 = 0, 3  # of `GroupTasks`


class KernelTasks:
    """What the kernel does for one group.

    Args:
        tasks: the tasks.
        dtype: that of the group's weights and state.

    Attributes:
        tasks: the tasks.

    Raises:
        Unsupported: the kernel cannot replace units of this group with the same result as torch operations.
    """

    def __init__(self, tasks: GroupTasks, dtype: torch.dtype) -> None:
        self.tasks = tasks
        self._moves = array("q", [number for move in tasks.moves for number in _move_record(move)])
        new = [*(weight for weight, _ in tasks.new), *(bias for _, bias in tasks.new if bias is not None)]
        own = [*new, *tasks.writes]
        of_optimizer = tasks.optimizer_writes or []
        self._writes = array("q", [number for write in (*own, *of_optimizer) for number in _write_record(write)])
        self._counts = len(own), len(own) + len(of_optimizer)
        self._kernel = load("replace_unit", dtype)

    @property
    def resets_optimizer(self) -> bool:
        """True if the kernel can write the state of the optimizer: all parameters have made equally many steps."""
        return self.tasks.optimizer_writes is not None and len({float(step) for step in self.tasks.steps}) < 2

    def replace(
        self, unit: int, fresh: Sequence[Tensor], mean: float | None, updates: int, *, resets_optimizer: bool
    ) -> None:
        """Write all that changes when the unit is replaced, but counters on the host.

        Args:
            unit: its index.
            fresh: new weights for each slot that is drawn.
            mean: its mean feature; None: the mean contribution is not moved.
            updates: the number of updates of its group.
            resets_optimizer: write into the state of the optimizer, too.
        """
        self._call(unit, mean, len(self.tasks.moves), self._new(fresh, resets_optimizer), updates, resets_optimizer)

    def disconnect(self, unit: int, mean: float | None) -> None:
        """The first half of `replace`, as `reinitialization.disconnect`."""
        self._call(unit, mean, len(self.tasks.moves), 0, 0, resets_optimizer=False)

    def renew(self, unit: int, fresh: Sequence[Tensor], updates: int, *, resets_optimizer: bool) -> None:
        """The second half of `replace`, as `reinitialization.renew`."""
        self._call(unit, None, 0, self._new(fresh, resets_optimizer), updates, resets_optimizer)

    def _new(self, fresh: Sequence[Tensor], resets_optimizer: bool) -> int:
        """Let the kernel write these new weights. Returns the number of tensors to be written."""
        for number, weights in enumerate(fresh):
            self._writes[number * _WRITE + _VALUE] = weights.data_ptr()
        return self._counts[resets_optimizer]

    def _call(
        self, unit: int, mean: float | None, moves: int, writes: int, updates: int, resets_optimizer: bool
    ) -> None:
        step = int(self.tasks.steps[0]) if resets_optimizer and self.tasks.steps else 0
        self._kernel(
            self._moves.buffer_info()[0], moves, self._writes.buffer_info()[0], writes, unit, mean or 0.0,
            mean is not None, updates, step,
        )  # fmt: skip
        increment_version(self.tasks.params)


class PreparedUnits:
    """The replacement of one unit in each of some groups. Nothing is changed before `write`.

    Args:
        due: the groups, each with the index of its unit and the initial distributions of each slot that is drawn.
        tasks: for each group.

    Attributes:
        resets_optimizer: the state of the optimizer is among what is written.
    """

    def __init__(
        self, due: Sequence[tuple[UnitGroup, Tensor, Sequence[SlotInit]]], tasks: Sequence[KernelTasks]
    ) -> None:
        self._due, self._tasks = due, tasks
        self._drawn: list[list[Tensor]] = []
        self.resets_optimizer = all(each.resets_optimizer for each in tasks)

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Draw the new weights."""
        self._drawn = [
            [draw_weights(slot, init, [1], generators) for slot, init in zip(group.drawn, inits, strict=True)]
            for group, _, inits in self._due
        ]

    def write(self, *, transfer: bool) -> None:
        """Write all that changes, but counters on the host.

        Args:
            transfer: move mean contributions into the consumers' biases.
        """
        units = [int(unit) for _, unit, _ in self._due]
        states = [group.state for group, *_ in self._due]
        means = [
            state.corrected_mean_features.index_select(1, unit).item() if transfer else None
            for state, (_, unit, _) in zip(states, self._due, strict=True)
        ]
        work = list(zip(self._tasks, units, self._drawn, means, states, strict=True))
        resets = self.resets_optimizer
        if self._in_one_pass:
            for tasks, unit, weights, mean, state in work:
                tasks.replace(unit, weights, mean, state.updates, resets_optimizer=resets)
            return
        for tasks, unit, _, mean, _ in work:
            tasks.disconnect(unit, mean)
        for tasks, unit, weights, _, state in work:
            tasks.renew(unit, weights, state.updates, resets_optimizer=resets)

    @property
    def _in_one_pass(self) -> bool:
        """True if no group moves contributions into a layer whose new weights are written before."""
        written: set[int] = set()
        for each in self._tasks:
            if not each.tasks.outgoing.isdisjoint(written):
                return False
            written |= each.tasks.drawn
        return True


class KernelReplacement:
    """The kernel's tasks for the groups of an engine.

    Args:
        groups: all groups of the engine.
    """

    def __init__(self, groups: tuple[UnitGroup, ...]) -> None:
        self._groups = groups
        self._reset: OptimizerStateReset | None = None
        self._tasks: dict[int, KernelTasks | None] = {}  # by the id of the group; None: it is not supported

    def prepare(
        self, units: Sequence[Tensor], inits: Sequence[Sequence[SlotInit]], reset: OptimizerStateReset | None
    ) -> PreparedUnits | None:
        """The replacement of units; None if torch operations must do it. Changes nothing.

        Args:
            units: indices for each group.
            inits: for each group the initial distributions of each slot that is drawn.
            reset: resets the optimizer's state; None: it is left alone.

        Raises:
            TypeError, ValueError: the state of the optimizer cannot be reset.
        """
        due = [each for each in zip(self._groups, units, inits, strict=True) if len(each[1])]
        if any(len(indices) > 1 for _, indices, _ in due):
            return None
        tasks = self._current_tasks([(group, inits) for group, _, inits in due], reset)
        if tasks is None:
            return None
        prepared = PreparedUnits(due, tasks)
        if prepared.resets_optimizer and reset is not None:
            reset.check_options()
        return prepared

    def _current_tasks(
        self, groups: Sequence[tuple[UnitGroup, Sequence[SlotInit]]], reset: OptimizerStateReset | None
    ) -> list[KernelTasks] | None:
        """The tasks of groups, made again if they are not current; None if one of them is not supported."""
        if reset is not self._reset:  # the engine was given another optimizer
            self._reset, self._tasks = reset, {}
        found = []
        for group, inits in groups:
            known = self._tasks.get(id(group))
            if known is None and id(group) in self._tasks:
                return None
            if known is None or not known.tasks.is_current(reset):
                if reset is not None:
                    reset.check(self._groups)
                known = self._tasks[id(group)] = _new_tasks(group, reset)
            if known is None or any(map(draws_biases, group.drawn, inits)):
                return None
            found.append(known)
        return found


def _new_tasks(group: UnitGroup, reset: OptimizerStateReset | None) -> KernelTasks | None:
    try:
        return KernelTasks(GroupTasks(group, 0, reset), group.state.utility.dtype)
    except Unsupported:
        return None


def _move_record(move: Move) -> list[int]:
    weight, kind, outputs, output_distance, unit_distance, inner, _, bias, bias_kind = move.fields
    if inner != 1 or kind != _SCALAR or bias_kind != _SCALAR:  # the order of a sum of several products is torch's
        raise Unsupported
    return [weight, outputs, output_distance, unit_distance, bias]


def _write_record(write: Write) -> list[int]:
    address, kind, runs, distance, length, _ = write.fields
    if kind not in (_SCALAR, _INT64) or write.source not in (CONSTANT, FRESH, UPDATES, STEP):
        raise Unsupported
    if write.source == FRESH and runs != 1:  # weights that are stored as (in, out)
        raise Unsupported
    return [address, int(kind == _INT64), runs, distance, length, write.source, write.value]
