"""What an engine keeps of its units when it is bound to a changed network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gnt.distributed import dtensor
from gnt.replacement.eligibility import UnitState
from gnt.units import Slot, UnitGroup

WeightOf = Callable[[nn.Module], Tensor | None]


class Kept(NamedTuple):
    """The units of a new group that are units of an old one.

    Attributes:
        group: the old group.
        new, old: their indices in both.
        all: the groups have the same producers and sizes, so that all units stay.
    """

    group: UnitGroup
    new: Tensor
    old: Tensor
    all: bool


def find_kept(group: UnitGroup, earlier: Sequence[UnitGroup], weight_before: WeightOf) -> Kept | None:
    """The units of ``group`` that are units of an earlier one; None if all are new.

    They all stay if the producers are the same modules with the same number of units. Otherwise a unit stays if its
    incoming weights are those of a unit before, in the group of the same name or, if there is none, in any other.

    Args:
        group: the new group.
        earlier: the groups before.
        weight_before: the weight that a module of an earlier group had when it was looked at last.
    """
    every = torch.arange(group.num_units, device="cpu")
    for other in earlier:
        if other.num_units == group.num_units and _same_producers(group, other):
            return Kept(other, every, every, True)
    rows = _rows(group.incoming, lambda module: module._parameters.get("weight"))
    for other in sorted(earlier, key=lambda each: each.name != group.name):
        known = {row: number for number, row in enumerate(_rows(other.incoming, weight_before))}
        pairs = [(number, known[row]) for number, row in enumerate(rows) if row in known]
        if pairs:
            new, old = torch.tensor(pairs, device="cpu").unbind(1)
            return Kept(other, new, old, False)
    return None


@torch.no_grad()
def carry_state(state: UnitState, kept: Kept, group: UnitGroup) -> None:
    """Copy ages, averages and counters of the units that stay into a new state; the others start at age 0.

    Args:
        state: the new state.
        kept: the units that stay.
        group: the new group.
    """
    before: UnitState = kept.group.state
    new, old = kept.new.to(state.born.device), kept.old.to(before.born.device)
    state.start_at(before.updates)
    for name in ("utility", "born", "last_active"):
        getattr(state, name)[new] = getattr(before, name)[old].to(state.born.device, getattr(state, name).dtype)
    for tap, earlier in enumerate(earlier_taps(group, kept)):
        values, missed = before.mean_features[earlier][old], None
        if before.missed is not None:
            missed = before.missed[earlier][old]
            if state.missed is None:  # the only tap now: it counts all updates, with the same corrected mean
                age = before.measured_age[old]
                values = values * (before.correction(age) / before.correction(age - missed))
            else:
                state.missed[tap, new] = missed.to(state.missed)
        state.mean_features[tap, new] = values.to(state.mean_features)
    state.nonfinite.copy_(before.nonfinite)
    state.replaced, state.accumulated = before.replaced, before.accumulated
    if state.long_term is not None and before.long_term is not None:
        state.long_term.carry(before.long_term, new, old)
        held = torch.zeros_like(before.born).index_fill_(0, before.held, 1)
        state.held = new[held[old].to(new.device) == 1].sort().values
    state.recount_eligible()


def earlier_taps(group: UnitGroup, kept: Kept) -> list[int]:
    """For each tap of a new group, in their order, the tap of the old group whose averages it goes on with.

    It is the one through which one of its consumers has read the units before. A tap of new consumers starts with the
    averages of the first one.
    """
    numbers, earlier = kept.group.tap_numbers, []
    for tap in group.tap_numbers:
        before = (_earlier_slot(slot, group, kept) for slot in group.outgoing if slot.tap == tap)
        earlier.append(next((numbers.index(slot.tap) for slot in before if slot is not None), 0))
    return earlier


def _earlier_slot(slot: Slot, group: UnitGroup, kept: Kept) -> Slot | None:
    """Where the consumer of a new group has read the same value of the units before; None if it has not.

    It is the same module, or one of the same name that was replaced by it.
    """
    before, modules = kept.group.outgoing, {id(each.module) for each in group.outgoing}
    same = [each for each in before if each.module is slot.module] or [
        each for each in before if each.name == slot.name and id(each.module) not in modules
    ]
    if kept.all:
        for each in same:
            if slot.index(kept.new).equal(each.index(kept.old)):
                return each
    # a module that reads the units at several places reads them in the same order as before
    places = sorted((each for each in group.outgoing if each.module is slot.module), key=_first_position)
    same.sort(key=_first_position)
    return same[places.index(slot)] if len(same) == len(places) else None


def _first_position(slot: Slot) -> int:
    return int(slot.index(torch.arange(slot.num_units, device="cpu")).min())


def _same_producers(group: UnitGroup, other: UnitGroup) -> bool:
    units = torch.arange(group.num_units, device="cpu")
    return len(group.incoming) == len(other.incoming) and all(
        mine.module is theirs.module and mine.index(units).equal(theirs.index(units))
        for mine, theirs in zip(group.incoming, other.incoming, strict=True)
    )


def _rows(slots: Sequence[Slot], weight_of: WeightOf) -> list[bytes]:
    """The incoming weights of each unit; none if they cannot be read."""
    parts = []
    for slot in slots:
        weight, index = weight_of(slot.module), slot.index(torch.arange(slot.num_units, device="cpu"))
        if weight is None or dtensor.is_dtensor(weight) or int(index.max()) >= weight.shape[slot.dim]:
            return []
        rows = weight.detach().movedim(slot.dim, 0)[index.to(weight.device)]
        parts.append(rows.reshape(slot.num_units, -1).double().cpu())
    return [row.numpy().tobytes() for row in torch.cat(parts, 1)]
