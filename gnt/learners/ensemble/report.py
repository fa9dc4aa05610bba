"""What an ensemble's engine tells about its members: as a lone engine's report, but for dead units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gnt.importance._running import UnitState
from gnt.replacement.report import GroupReport, Report
from gnt.units import UnitGroup


@dataclass(frozen=True)
class EnsembleReport(Report):
    """A member's figures, and ``dead_by_member``: for each group each member's dead units; a group's ``dead`` and
    ``nonfinite`` are the sums over all members. Everything else is the same for all.
    """

    members: int = 1
    dead_by_member: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def read(cls, groups: Sequence[UnitGroup], updates: int, replacement_rate: float, members: int) -> EnsembleReport:
        """Read the groups' states."""
        reports, dead = [], []
        for group in groups:
            state = group.state
            alone = state_of(state, 0, members)
            dead.append(tuple(state.dead.view(members, -1).sum(1).tolist()))
            reports.append(
                GroupReport(
                    name=group.name,
                    units=group.num_units // members,
                    eligible=alone.eligible,
                    replaced=alone.replaced,
                    next_due=alone.next_due(replacement_rate),
                    dead=sum(dead[-1]),
                    nonfinite=int(state.nonfinite),
                )
            )
        return cls(updates, tuple(reports), (), members, tuple(dead))

    def __str__(self) -> str:
        note = "dead: the sum over all; the rest: each member's"
        return super().__str__().replace(" updates\n", f" updates, {self.members} members ({note})\n", 1)


def state_of(state: UnitState, number: int, members: int) -> UnitState:
    """A copy of what is remembered of one member's units."""
    units = state.num_units // members
    taps = len(state.mean_features)
    alone = UnitState(
        units,
        decay_rate=state.decay_rate,
        maturity_threshold=state.maturity_threshold,
        averaged=state.averaged,
        like=state.utility,
        taps=taps,
        corrected=state.corrected,
        exceeding=state.exceeding,
    )
    saved: dict[str, Any] = {
        key: _part(value, number, members) if isinstance(value, Tensor) and value.ndim else value
        for key, value in state.state_dict().items()
    }
    alone.load_state_dict({**saved, "replaced": state.replaced // members})
    return alone


def _part(value: Tensor, number: int, members: int) -> Tensor:
    return torch.unflatten(value, -1, (members, -1)).select(-2, number)
