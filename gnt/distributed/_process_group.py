"""Ranks: several processes that train one network together replace the same units by the same weights.

Every process has an engine of its own and sees its part of the batch. What the engines average over samples is summed
over the processes, so that all of them, and one process with the joined batch, come to the same utilities; everything
after that is the same arithmetic on the same numbers. The draws are the first rank's.

Cost of a step: one all-reduce of (2 * positions + taps) numbers of the state's dtype, positions being the units (times
their block) of all taps: 4 KB for a hidden layer of 500. Measures that read no magnitudes send half of that. Measures
that subtract the mean feature need the mean of all processes before they can begin, so they take a second all-reduce,
of (positions + taps) numbers. A replacement adds none, but for consumers that are sharded along their inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from gnt.distributed import _dtensor as shards

if TYPE_CHECKING:
    from gnt.importance._signals import Signals
    from gnt.units._group import UnitGroup

ProcessGroup = Any  # torch.distributed.ProcessGroup does not exist where torch was built without it


class Ranks:
    """The processes of one process group."""

    def __init__(self, process_group: ProcessGroup) -> None:
        self.process_group = process_group
        self._joined = False

    @staticmethod
    def group_of(process_group: ProcessGroup) -> ProcessGroup:
        """The group meant by the setting, or None where there is but one process."""
        if process_group is False or not dist.is_available() or not dist.is_initialized():
            return None
        group = dist.group.WORLD if process_group is None else process_group
        return group if dist.get_world_size(group) > 1 else None

    @staticmethod
    def check_shards(groups: Sequence[UnitGroup], process_group: ProcessGroup) -> None:
        """Refuse weights in shards that cannot be watched, before anything is changed."""
        processes = dist.get_world_size(process_group) if process_group is not None else 1
        for slot in (slot for group in groups for slot in (*group.incoming, *group.outgoing)):
            if shards.is_cut(slot.weight):
                slot.check_uncut(slot.weight)
                if processes < shards.processes(slot.weight):
                    raise ValueError(
                        f"{slot.name}.weight lies in shards on {shards.processes(slot.weight)} processes, and the "
                        f"engine has {processes} of them: give it a process_group of all that train this network "
                        "(None: the default group)"
                    )

    def join(self, groups: Sequence[UnitGroup], settings: str, generators: Sequence[torch.Generator]) -> None:
        """Before the first step: are all ranks about to do the same? From here on they draw the same numbers.

        Raises:
            ValueError: on all ranks, where groups, settings, states or networks differ between them.
        """
        if self._joined:
            return
        device = groups[0].incoming[0].weight.device
        said = {"groups": _structure(groups), "settings": settings, "ages": _ages(groups), "networks": _weights(groups)}
        mine = torch.cat([_digest(text) for text in said.values()]).to(device)
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(self.process_group))]
        dist.all_gather(everyone, mine, group=self.process_group)
        seen = torch.stack(everyone).cpu().view(len(everyone), len(said), -1)
        for number, what in enumerate(said):
            differ = [rank for rank, theirs in enumerate(seen[:, number]) if not torch.equal(theirs, seen[0, number])]
            if differ:
                raise ValueError(self._difference(what, differ, said[what]))
        for generator in generators:
            state = generator.get_state().to(device)
            dist.broadcast(state, group=self.process_group, group_src=0)
            generator.set_state(state.cpu())
        self._joined = True

    def _difference(self, what: str, differ: list[int], mine: str) -> str:
        texts: list[Any] = [None] * dist.get_world_size(self.process_group)
        dist.all_gather_object(texts, mine, group=self.process_group)
        advice = {
            "groups": "build the engine from the same layers, in the same order, on every rank",
            "settings": "give the engine the same settings on every rank",
            "ages": "load the same checkpoint on every rank",
            "networks": "wrap the network in DistributedDataParallel; where every process trains a network of its own, "
            "pass process_group=False",
        }[what]
        told = f": {texts[0]} on rank 0, {texts[differ[0]]} on rank {differ[0]}" if what != "networks" else ""
        ranks = ", ".join(map(str, differ))
        return f"the {what} of the engine's ranks differ from those of rank 0 on rank {ranks}{told}; {advice}"

    def share(self, signals: Sequence[Signals]) -> bool:
        """Put the means over all processes' samples (and shards) in the place of this process's own.

        Returns False where no process had any samples (on the CPU; other devices are not asked).
        """
        anything = self._average(signals, {"means": "", "magnitudes": "magnitude"}, ("incoming", "outgoing"))
        centred = [each for each in signals if "deviation" in each.reads]
        if centred:
            self._average(centred, {"deviations": ""}, ())
        return anything

    def _average(self, signals: Sequence[Signals], means: Mapping[str, str], weights: Sequence[str]) -> bool:
        sums: list[tuple[list[Tensor], int, Tensor]] = []  # where it belongs, and this process's part of the sum
        sizes: list[Tensor] = []
        ranks = dist.get_world_size(self.process_group)
        for each in signals:
            sizes.append(torch.tensor([reading.size for reading in each.batch], dtype=torch.float64))
            for values in _wanted(each, means):
                pairs = enumerate(zip(values, each.batch, strict=True))
                sums += [(values, tap, value * reading.size) for tap, (value, reading) in pairs]
            for side in weights:
                slots = getattr(each.group, side)
                if side in each.reads and any(shards.is_sharded(slot.weight) for slot in slots):
                    values = getattr(each, f"{side}_magnitudes")
                    # the shares of each mesh sum up to the mean, and there may be several meshes
                    parts = {i: slot.weight for i, slot in enumerate(slots) if shards.is_sharded(slot.weight)}
                    sums += [(values, i, values[i] * (shards.processes(w) / ranks)) for i, w in parts.items()]
        first = sums[0][2]
        dtype = torch.promote_types(first.dtype, max((s.dtype for *_, s in sums), key=lambda d: d.itemsize))
        flat = torch.cat([*(s.reshape(-1).to(dtype) for *_, s in sums), torch.cat(sizes).to(first.device, dtype)])
        dist.all_reduce(flat, group=self.process_group)
        pieces = list(torch.split(flat, [s.numel() for *_, s in sums] + [len(size) for size in sizes]))
        totals = pieces[len(sums) :]
        anything = flat.device.type != "cpu" or bool(torch.cat(totals).any())
        for (values, place, mine), part in zip(sums, pieces, strict=False):
            values[place] = part.view_as(mine).to(mine.dtype)
        for each, total in zip(signals, totals, strict=True):
            each.shared = True
            for values in _wanted(each, means):
                values[:] = [value / n.to(value.dtype) for value, n in zip(values, total, strict=True)]
        return anything


def _wanted(signals: Signals, means: Mapping[str, str]) -> list[list[Tensor]]:
    return [getattr(signals, name) for name, asked_by in means.items() if not asked_by or asked_by in signals.reads]


def _structure(groups: Sequence[UnitGroup]) -> str:
    return "; ".join(f"{group.name} ({group.num_units} units)" for group in groups)


def _ages(groups: Sequence[UnitGroup]) -> str:
    states = [group.state for group in groups]
    births = hashlib.sha256(b"".join(bytes(str(s.born.tolist()), "ascii") for s in states)).hexdigest()[:8]
    return f"{states[0].updates} updates, {[s.replaced for s in states]} units replaced, births {births}"


def _weights(groups: Sequence[UnitGroup]) -> str:
    weights = [slot.weight.detach() for group in groups for slot in (*group.incoming, *group.outgoing)]
    return str([w.double().sum().item() for w in weights if not shards.is_sharded(w)])


def _digest(text: str) -> Tensor:
    return torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8).clone()
