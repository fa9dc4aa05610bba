"""Reports of an ensemble's engine: the figures of one member, and dead units of all members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gnt.initialization import SlotInit
from gnt.replacement import GroupReport, Report, UnitState, describe_inits, first_due
from gnt.units import UnitGroup


@dataclass(frozen=True)
class EnsembleReport(Report):
    """The figures of each member, which are the same for all, except for dead units.

    Attributes:
        members: number of members.
        dead_by_member: for each group the number of dead units of each member. The ``dead`` and ``nonfinite`` of a
            group are sums over all members.
    """

    members: int = 1
    dead_by_member: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def read(
        cls,
        groups: Sequence[UnitGroup],
        updates: int,
        replacement_rate: float,
        members: int,
        slot_inits: Sequence[Sequence[SlotInit]],
    ) -> EnsembleReport:
        """Read the groups' states."""
        reports, dead, states = [], [], []
        for group, inits in zip(groups, slot_inits, strict=True):
            state = group.state
            one = member_state(state, 0, members)
            states.append(one)
            dead.append(tuple(state.dead.view(members, -1).sum(1).tolist()))
            reports.append(
                GroupReport(
                    name=group.name,
                    units=group.num_units // members,
                    eligible=one.eligible,
                    replaced=one.replaced,
                    next_due=one.next_due(replacement_rate),
                    dead=sum(dead[-1]),
                    nonfinite=int(state.nonfinite),
                    init=describe_inits(group, inits),
                )
            )
        return cls(
            updates,
            tuple(reports),
            (),
            replacement_rate,
            groups[0].state.maturity_threshold,
            first_due(states, updates, replacement_rate),
            members=members,
            dead_by_member=tuple(dead),
        )

    def __str__(self) -> str:
        note = "dead: the sum over all members; the rest: of each member"
        return super().__str__().replace(" updates\n", f" updates, {self.members} members ({note})\n", 1)


def member_state(state: UnitState, number: int, members: int) -> UnitState:
    """A copy of the state of one member's units."""
    units = state.num_units // members
    taps = len(state.mean_features)
    own = UnitState(
        units,
        decay_rate=state.decay_rate,
        maturity_threshold=state.maturity_threshold,
        averaged=state.averaged,
        like=state.utility,
        taps=taps,
        corrected=state.corrected,
        strict=state.strict,
        measure_every=state.measure_every,
    )
    saved: dict[str, Any] = {
        key: _member_part(value, number, members) if isinstance(value, Tensor) and value.ndim else value
        for key, value in state.state_dict().items()
    }
    own.load_state_dict({**saved, "replaced": state.replaced // members})
    return own


def _member_part(value: Tensor, number: int, members: int) -> Tensor:
    return torch.unflatten(value, -1, (members, -1)).select(-2, number)
