"""Plans of replacements by Triton kernels: the kernels' tables for certain numbers of units in each group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gnt._triton import upload
from gnt.replacement._replacement_tasks import FRESH, GroupTasks, Unsupported, Write
from gnt.units import UnitGroup

_MOST_ELEMENTS = (1 << 31) - (1 << 16)


class Launch(NamedTuple):
    """A table of a kernel for groups that do not interfere, with the size of its grid."""

    table: Tensor
    grid: tuple[int, int]


class Plan(NamedTuple):
    """The launches that replace certain numbers of units in each group.

    Attributes:
        numbers: the groups with units to be replaced.
        moves: launches that move mean contributions and set outgoing weights to 0, one after the other.
        writes: launches that write new weights and initial values, after all of the moves.
        num_fresh: number of new weights and biases.
        params: the parameters that are changed.
        resets_optimizer: the state of the optimizer is among what is written.
        step: the number that the kernels take as an argument.
    """

    numbers: tuple[int, ...]
    moves: tuple[Launch, ...]
    writes: tuple[Launch, ...]
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
    moves, writes = _Rows(), _Rows()
    place = num_fresh = 0  # of the next group's units, and of its new weights
    for (number, group, tasks), count, biases in zip(groups, counts, drawn, strict=True):
        moves.begin_group(tasks.outgoing)
        mean_at, born_at = (int(each.storage_offset()) for each in (group.state.mean_features, group.state.born))
        for move in tasks.moves:
            moves.add([*move.fields, place, count, mean_at, born_at, number], move.num_outputs)
        writes.begin_group(tasks.drawn)
        for write in _writes(tasks, biases, optimizer=resets_optimizer):
            if write.source == FRESH:
                write, num_fresh = write._replace(value=num_fresh), num_fresh + count * write.size
            writes.add([*write.fields, write.source, write.value, place, count], count * write.size)
        place += count
    if writes.most > _MOST_ELEMENTS:
        raise Unsupported
    device = groups[0][1].state.born.device
    launches = moves.launches(kernels.MOVE_OUTPUTS, device), writes.launches(kernels.WRITE_BLOCK, device)
    params = {id(param): param for *_, tasks in groups for param in tasks.params}
    numbers = tuple(number for number, *_ in groups)
    return Plan(numbers, *launches, num_fresh, tuple(params.values()), resets_optimizer, 0)


def _writes(tasks: GroupTasks, biases: Sequence[bool], *, optimizer: bool) -> Iterator[Write]:
    """All that is written for the units of a group.

    Args:
        tasks: of the group.
        biases: for each slot that is drawn whether biases are drawn, too.
        optimizer: write into the state of the optimizer.
    """
    yield from (weight for weight, _ in tasks.new)
    for (_, bias), drawn in zip(tasks.new, biases, strict=True):
        if bias is not None:
            yield bias._replace(source=FRESH) if drawn else bias
    yield from tasks.writes
    if optimizer:
        yield from tasks.optimizer_writes or ()


class _Rows:
    """The rows of a kernel's tables: one table for each launch."""

    def __init__(self) -> None:
        self._tables: list[list[list[int]]] = []
        self._sizes: list[int] = []
        self._params: set[int] = set()

    def begin_group(self, params: frozenset[int]) -> None:
        """Begin another launch if a group before changes the same parameters, as one does everything at once.

        Args:
            params: ids of the parameters that the rows of the group change.
        """
        if not self._tables or not params.isdisjoint(self._params):
            self._tables.append([])
            self._sizes.append(0)
            self._params = set()
        self._params |= params

    def add(self, row: list[int], size: int) -> None:
        """Add a row of the group."""
        self._tables[-1].append(row)
        self._sizes[-1] = max(self._sizes[-1], size)

    @property
    def most(self) -> int:
        """The largest size of a row, which is the number of elements that its programs share."""
        return max(self._sizes)

    def launches(self, block: int, device: torch.device) -> tuple[Launch, ...]:
        """The tables on the device; a program does ``block`` elements of a row."""
        return tuple(
            Launch(upload(torch.tensor(table, device="cpu"), device), (-(-size // block), len(table)))
            for table, size in zip(self._tables, self._sizes, strict=True)
        )
