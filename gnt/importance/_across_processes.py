"""Means over the samples, and the shards, of several processes.

What an engine averages over samples is summed over all processes, so that all of them, and one process with the joined
batch, compute the same utilities.

Cost of an update: one all-reduce of (2 * positions + taps) numbers of the state's dtype, positions being the units
(times their block) of all taps: 4 KB for a hidden layer of 500. Measures that read no magnitudes send half of that.
Measures that subtract the mean feature need the mean over all processes first; they take a second all-reduce, of
(positions + taps) numbers.

A replacement adds none, except for consumers that are sharded along their inputs.

Whether a group takes part in the update is decided by its samples in all processes. Only a process that has none of
them reads their number from the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gnt.distributed import dtensor
from gnt.distributed.process_group import Processes
from gnt.importance._signals import Signals
from gnt.units import UnitGroup


def check_shards(groups: Sequence[UnitGroup], num_processes: int) -> None:
    """Raise an error for sharded weights whose units cannot be evaluated; nothing is changed."""
    for slot in (slot for group in groups for slot in (*group.incoming, *group.outgoing)):
        if dtensor.is_split(slot.weight):
            slot.check_sharding(slot.weight)
            size = dtensor.mesh_size(slot.weight)
            if num_processes < size:
                raise ValueError(
                    f"{slot.name}.weight lies in shards on {size} processes, and the engine has {num_processes} of "
                    "them: give it a process_group of all that train this network (None: the default group)"
                )


def average_over_processes(signals: Sequence[Signals], processes: Processes) -> bool:
    """Replace the means in ``signals`` by those over the samples (and shards) of all processes.

    Sets which taps have samples in any process, the same on all of them. Returns False if none has.
    """
    has_samples = _average(signals, processes, {"means": "", "magnitudes": "magnitude"}, ("incoming", "outgoing"))
    centered = [each for each in signals if "deviation" in each.reads]
    if centered:
        _average(centered, processes, {"deviations": ""}, ())
    return has_samples


def _average(
    signals: Sequence[Signals], processes: Processes, means: Mapping[str, str], weights: Sequence[str]
) -> bool:
    """Average the named means; ``means`` maps each name to the signal that needs it, "" if it is always needed."""
    sums: list[tuple[list[Tensor], int, Tensor]] = []  # list and index of each mean, and this process's part of the sum
    sizes: list[Tensor] = []
    for each in signals:
        sizes.append(torch.tensor([statistics.size for statistics in each.batch], dtype=torch.float64))
        for values in _selected(each, means):
            pairs = enumerate(zip(values, each.batch, strict=True))
            sums += [(values, tap, value * statistics.size) for tap, (value, statistics) in pairs]
        for side in weights:
            slots = getattr(each.group, side)
            if side in each.reads and any(dtensor.is_dtensor(slot.weight) for slot in slots):
                values = getattr(each, f"{side}_magnitudes")
                # the local shares of each mesh sum up to the mean, and there may be several meshes
                sharded = {i: slot.weight for i, slot in enumerate(slots) if dtensor.is_dtensor(slot.weight)}
                sums += [(values, i, values[i] * (dtensor.mesh_size(w) / processes.size)) for i, w in sharded.items()]
    first = sums[0][2]
    dtype = torch.promote_types(first.dtype, max((s.dtype for *_, s in sums), key=lambda d: d.itemsize))
    flat = torch.cat([*(s.reshape(-1).to(dtype) for *_, s in sums), torch.cat(sizes).to(first.device, dtype)])
    processes.all_reduce(flat)
    pieces = list(torch.split(flat, [s.numel() for *_, s in sums] + [len(size) for size in sizes]))
    totals = pieces[len(sums) :]
    _set_present(signals, torch.cat(totals), torch.cat(sizes))
    for (values, place, mine), piece in zip(sums, pieces, strict=False):
        values[place] = piece.view_as(mine).to(mine.dtype)
    for each, total in zip(signals, totals, strict=True):
        each.shared = True
        for values in _selected(each, means):
            values[:] = [value / n.clamp_min(1).to(value.dtype) for value, n in zip(values, total, strict=True)]
    return any(each.takes_part for each in signals)


def _set_present(signals: Sequence[Signals], totals: Tensor, mine: Tensor) -> None:
    """Set which taps have samples, from the number of samples in all processes and in this one."""
    known = totals.device.type != "cpu" and bool(mine.all())  # without reading the device
    counts = iter(mine.tolist() if known else totals.tolist())
    for each in signals:
        each.present = [next(counts) > 0 for _ in each.batch]


def _selected(signals: Signals, means: Mapping[str, str]) -> list[list[Tensor]]:
    return [getattr(signals, name) for name, needed_by in means.items() if not needed_by or needed_by in signals.reads]
