"""Generate and test for all members at once: the same arithmetic, with a selection and draws for each member.

How many units are due is the same function of time for all members, as their ages are counted by the same updates; so
all of them replace in the same step, equally many, and one `topk` along each row finds whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt.importance._intake import Prepared
from gnt.importance._running import UnitState
from gnt.importance._signals import Signals
from gnt.learners.ensemble.report import EnsembleReport
from gnt.replacement import reinitialization as reinit
from gnt.replacement import selection
from gnt.replacement.engine import GnT
from gnt.units import UnitGroup


class MemberGenerators:
    """The members' generators as one whose state can be told and set, such as an engine has."""

    def __init__(self, own: Sequence[torch.Generator]) -> None:
        self.own = list(own)
        self.device = self.own[0].device

    def get_state(self) -> Tensor:
        """The states, one in each row."""
        return torch.stack([each.get_state() for each in self.own])

    def set_state(self, state: Tensor) -> None:
        """Take back what `get_state` gave; RuntimeError where it is of another number of members."""
        if state.ndim != 2 or len(state) != len(self.own):
            raise RuntimeError(f"{len(self.own)} generators cannot take a state of shape {tuple(state.shape)}")
        for each, own in zip(self.own, state, strict=True):
            each.set_state(own.clone())  # torch reads a view of a larger tensor from the wrong place, and crashes


class MemberSignals(Signals):
    """`Signals` of all members' units, whose draws are the members' own."""

    generator: MemberGenerators  # type: ignore[assignment]

    def uniform(self) -> Tensor:
        """A draw from [0, 1) for each unit, member by member."""
        own = self.generator.own
        size = self.num_units // len(own)
        return torch.cat([torch.rand(size, generator=each, device=each.device) for each in own])


class EnsembleGnT(GnT):
    """`GnT` over the groups of a `gnt.ensemble.stacked.StackedNet`; settings as there, all draws the members' own.

    Attributes:
        members: number of members.
        generators: one for each member.
    """

    def __init__(
        self,
        groups: Sequence[UnitGroup],
        optimizer: Optimizer,
        *,
        seeds: Sequence[int],
        generators: Sequence[torch.Generator],
        **settings: Any,
    ) -> None:
        super().__init__(groups, optimizer, generator=generators[0], record=False, process_group=False, **settings)
        self.seeds, self.members, self.generators = list(seeds), len(seeds), list(generators)
        self.generator = self.host_generator = MemberGenerators(self.generators)  # type: ignore[assignment]
        self._first = {}  # of each group, where the members' units begin: (members, 1)
        for group in self.groups:
            self._first[group.name] = torch.arange(self.members).mul_(group.num_units // self.members)[:, None]

    def by_member(self, units: Sequence[Tensor]) -> list[Tensor]:
        """What `step` returns, as each member counts its own units: (members, k) for each group."""
        pairs = zip(self.groups, units, strict=True)
        return [
            chosen.view(self.members, -1) - self._first[group.name].to(chosen.device)
            if len(chosen)
            else chosen.new_empty(self.members, 0)
            for group, chosen in pairs
        ]

    def replace(self, units: Sequence[Tensor], incoming: Sequence[Tensor | None] | None = None) -> None:
        """Only what `select` gave: members whose units differ in age could not be selected from together."""
        if len(units) != len(self.selected) or any(a is not b for a, b in zip(units, self.selected, strict=True)):
            raise ValueError("the engine of an ensemble replaces what its select() returned, and nothing else")
        super().replace(units, incoming)

    def report(self) -> EnsembleReport:
        """As `GnT.report`, with dead units by member."""
        return EnsembleReport.read(self.groups, self.updates, self.replacement_rate, self.members)

    def signals(self, batches: Prepared) -> list[Signals]:
        """Signals of every group, whose random draws are made member by member."""
        reads = self.measure.reads
        pairs = zip(self.groups, batches, strict=True)
        return [MemberSignals(group, batch, self.generator, reads) for group, batch in pairs]

    @torch.no_grad()
    def evaluate(self, signals: Sequence[Signals]) -> None:
        """Evaluate all groups; an error for values that are not finite names the seeds of the members concerned."""
        try:
            super().evaluate(signals)
        except FloatingPointError as error:
            drawn = self.generator.get_state()
            seen = [each.mean.abs().sum(0) + self.measure.function(each) for each in signals]
            self.generator.set_state(drawn)
            broken = [~torch.isfinite(each).view(self.members, -1).all(1).cpu() for each in seen]
            raise FloatingPointError(f"{error} ({named(self.seeds, torch.stack(broken).any(0))})") from None

    def select_in(self, state: UnitState) -> Tensor:
        """Indices of the units of one group that are due, the same number in every member."""
        eligible = state.eligible // self.members
        if not eligible:
            return state.nobody
        count = self.count_due(state, eligible)
        if not count:
            return state.nobody
        return selection.lowest_of_each(state.corrected_utility, state.mature, count, self.members)

    def replace_units(self, chosen: list[Tensor], fresh: list[list[Tensor] | None], *, selected: bool) -> None:
        """Replace the chosen units, with fresh weights drawn from the generator of each member."""
        drawn = [
            self._draw(group, len(units) // self.members, limits) if weights is None and len(units) else weights
            for group, units, weights, limits in zip(self.groups, chosen, fresh, self.bounds, strict=True)
        ]
        super().replace_units(chosen, drawn, selected=selected)

    def _draw(self, group: UnitGroup, count: int, limits: Sequence[float]) -> list[Tensor]:
        """Fresh weights for ``count`` units of each member, slot by slot as a run alone draws them."""
        return [
            reinit.fresh_weights(slot, count, limit, *self.generators)
            for slot, limit in zip(group.drawn, limits, strict=True)
        ]


def named(seeds: Sequence[int], which: Tensor) -> str:
    """The seeds of those members, for an error's text."""
    bad = [str(seed) for seed, one in zip(seeds, which.tolist(), strict=True) if one]
    return f"seed {bad[0]}" if len(bad) == 1 else f"seeds {', '.join(bad)}"
