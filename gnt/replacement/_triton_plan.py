"""Plans of replacements by Triton kernels: the kernels' tables for certain numbers of units in each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gnt._triton import upload
from gnt.replacement._replacement_tasks import FRESH, GroupTasks, Unsupported, Write
from gnt.units import UnitGroup

_MOST_ELEMENTS = (1 << 31) - (1 << 16)


class Launch(NamedTuple):
    """The tables of the two kernels for groups that do not interfere, with the sizes of their grids."""

    moves: Tensor
    move_grid: tuple[int, int]
    writes: Tensor
    write_grid: tuple[int, int]


class Plan(NamedTuple):
    """The launches that replace certain numbers of units in each group.

    Attributes:
        numbers: the groups with units to be replaced.
        launches: one after the other.
        num_fresh: number of new weights and biases.
        params: the parameters that are changed.
        resets_optimizer: the state of the optimizer is among what is written.
        step: the number that the kernels take as an argument.
    """

    numbers: tuple[int, ...]
    launches: tuple[Launch, ...]
    num_fresh: int
    params: tuple[Tensor, ...]
    resets_optimizer: bool
    step: int


def make_plan(
    kernels: Any,
    groups: Sequence[tuple[int, UnitGroup, GroupTasks]],
    counts: Sequence[int],
    drawn: Sequence[Sequence[bool]],
    *,
    resets_optimizer: bool,
) -> Plan:
    """Make the tables, and upload them.

    Args:
        kernels: the module of the kernels.
        groups: the groups with units to be replaced: number, group and tasks.
        counts: for each how many.
        drawn: for each, and each slot that is drawn, whether biases are drawn, too.
        resets_optimizer: write into the state of the optimizer, too.

    Raises:
        Unsupported: tensors too large for the kernels.
    """
    device = groups[0][1].state.born.device
    launches: list[Launch] = []
    rows = _Rows()
    place = 0  # of the next group's units
    for (number, group, tasks), count, biases in zip(groups, counts, drawn, strict=True):
        if rows.interfere(tasks):
            launches.append(rows.launch(kernels, device))
            rows = _Rows(rows.num_fresh)
        rows.add(tasks, group, number, place, count, biases, optimizer=resets_optimizer)
        place += count
    launches.append(rows.launch(kernels, device))
    params = {id(param): param for *_, tasks in groups for param in tasks.params}
    numbers = tuple(number for number, *_ in groups)
    return Plan(numbers, tuple(launches), rows.num_fresh, tuple(params.values()), resets_optimizer, 0)


class _Rows:
    """The rows of the kernels' tables for one launch.

    Args:
        num_fresh: number of new weights and biases of launches before.
    """

    def __init__(self, num_fresh: int = 0) -> None:
        self.moves: list[list[int]] = []
        self.writes: list[list[int]] = []
        self.num_fresh = num_fresh
        self.most_outputs = self.most_written = 0
        self._outgoing: set[int] = set()
        self._drawn: set[int] = set()

    def interfere(self, tasks: GroupTasks) -> bool:
        """True if a group must be replaced after those here, as one launch does everything at once.

        It is so if they change the same parameters, except that consumers of these groups may be its producers: their
        biases are moved before its new weights are written.
        """
        earlier = self._outgoing | self._drawn
        return not (tasks.outgoing.isdisjoint(earlier) and tasks.drawn.isdisjoint(self._drawn))

    def add(
        self,
        tasks: GroupTasks,
        group: UnitGroup,
        number: int,
        place: int,
        count: int,
        biases: Sequence[bool],
        *,
        optimizer: bool,
    ) -> None:
        """Add the tasks of one group.

        Args:
            tasks, group, number: the group.
            place: of its first unit among all units.
            count: number of its units.
            biases: for each slot that is drawn whether biases are drawn, too.
            optimizer: write into the state of the optimizer.
        """
        state = group.state
        mean_at, born_at = int(state.mean_features.storage_offset()), int(state.born.storage_offset())
        for move in tasks.moves:
            self.moves.append([*move.fields, place, count, mean_at, born_at, number])
            self.most_outputs = max(self.most_outputs, move.num_outputs)
        for weight, _ in tasks.new:
            self._add_fresh(weight, place, count)
        for (_, bias), drawn in zip(tasks.new, biases, strict=True):
            if bias is not None and drawn:
                self._add_fresh(bias, place, count)
            elif bias is not None:
                self._add(bias, place, count)
        for write in (*tasks.writes, *((tasks.optimizer_writes or ()) if optimizer else ())):
            self._add(write, place, count)
        self._outgoing |= tasks.outgoing
        self._drawn |= tasks.drawn

    def _add_fresh(self, write: Write, place: int, count: int) -> None:
        self._add(write._replace(source=FRESH, value=self.num_fresh), place, count)
        self.num_fresh += count * write.size

    def _add(self, write: Write, place: int, count: int) -> None:
        self.writes.append([*write.fields, write.source, write.value, place, count])
        self.most_written = max(self.most_written, count * write.size)

    def launch(self, kernels: Any, device: torch.device) -> Launch:
        """The tables on the device."""
        if self.most_written > _MOST_ELEMENTS:
            raise Unsupported
        moves, writes = (upload(torch.tensor(each, device="cpu"), device) for each in (self.moves, self.writes))
        return Launch(
            moves,
            (-(-self.most_outputs // kernels.MOVE_OUTPUTS), len(self.moves)),
            writes,
            (-(-self.most_written // kernels.WRITE_BLOCK), len(self.writes)),
        )
