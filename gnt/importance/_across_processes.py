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

# lists of means, with the signal that needs each ("": always)
_MEANS = {
    "means": "",
    "magnitudes": "magnitude",
    "gradients": "feature_gradient",
    "gradient_squares": "feature_gradient_square",
    "products": "feature_times_gradient",
}
_CENTERED = {"deviations": "deviation", "centered_products": "centered_times_gradient"}
# means of weights, with the signal that needs each and the side that has them
_WEIGHTS = {
    "incoming_magnitudes": ("incoming", "incoming"),
    "outgoing_magnitudes": ("outgoing", "outgoing"),
    "incoming_gradients": ("incoming_gradient", "incoming"),
    "incoming_gradient_squares": ("incoming_gradient_square", "incoming"),
    "outgoing_gradients": ("outgoing_gradient", "outgoing"),
    "outgoing_gradient_squares": ("outgoing_gradient_square", "outgoing"),
}
# the loss of all processes is the mean of their losses, so its gradient in one process is 1 / size of that of its own
_GRADIENT_POWERS = {"gradients": 1, "gradient_squares": 2, "products": 1, "centered_products": 1}


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
    has_samples = _average(signals, processes, _MEANS, _WEIGHTS)
    centered = [each for each in signals if each.reads & set(_CENTERED.values())]
    if centered:
        _average(centered, processes, _CENTERED, {})
    return has_samples


def _average(
    signals: Sequence[Signals],
    processes: Processes,
    means: Mapping[str, str],
    weights: Mapping[str, tuple[str, str]],
) -> bool:
    """Average the named means; ``means`` maps each name to the signal that needs it, "" if it is always needed."""
    sums: list[tuple[list[Tensor], int, Tensor]] = []  # list and index of each mean, and this process's part of the sum
    sizes: list[Tensor] = []
    for each in signals:
        sizes.append(torch.tensor([statistics.size for statistics in each.batch], dtype=torch.float64, device="cpu"))
        for name, values in _selected(each, means):
            share = processes.size ** -_GRADIENT_POWERS.get(name, 0)
            pairs = enumerate(zip(values, each.batch, strict=True))
            sums += [(values, tap, value * (statistics.size * share)) for tap, (value, statistics) in pairs]
        for name, (signal, side) in weights.items():
            slots = getattr(each.group, side)
            if signal in each.reads and any(dtensor.is_dtensor(slot.weight) for slot in slots):
                values = getattr(each, name)
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
        each.shared, each.samples = True, total.unbind()
        for _, values in _selected(each, means):
            values[:] = [value / n.clamp_min(1).to(value.dtype) for value, n in zip(values, total, strict=True)]
    return any(each.takes_part for each in signals)


def _set_present(signals: Sequence[Signals], totals: Tensor, mine: Tensor) -> None:
    """Set which taps have samples, from the number of samples in all processes and in this one."""
    known = totals.device.type != "cpu" and bool(mine.all())  # without reading the device
    counts = iter(mine.tolist() if known else totals.tolist())
    for each in signals:
        each.present = [next(counts) > 0 for _ in each.batch]


def _selected(signals: Signals, means: Mapping[str, str]) -> list[tuple[str, list[Tensor]]]:
    names = [name for name, needed_by in means.items() if not needed_by or needed_by in signals.reads]
    return [(name, getattr(signals, name)) for name in names]
