"""The engine of an ensemble: generate and test for all members at once, with each member's own selection and draws.

The number of eligible units, and so the number that is due, depends only on the number of updates. All members replace
equally many units in the same step, and one ``topk`` along each member's row selects them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt._utils.generators import MemberGenerators
from gnt._utils.other_names import explains_unknown_settings
from gnt.importance import FeatureBatch, RunningImportance, Signals
from gnt.initialization import Init
from gnt.learners.ensemble.report import EnsembleReport
from gnt.learners.ensemble.validation import refuse_protect
from gnt.names import Accumulate, BiasInit, Utility
from gnt.replacement import EngineSettings, GnT, SoftReplacement, UnitState, first_due, selection
from gnt.units import UnitGroup


class MemberSignals(Signals):
    """`Signals` of all members' units, with draws from each member's generator."""

    generator: MemberGenerators  # type: ignore[assignment]

    def uniform(self) -> Tensor:
        """A draw from [0, 1) for each unit, member by member."""
        generators = self.generator.generators
        size = self.num_units // len(generators)
        return torch.cat([torch.rand(size, generator=each, device=each.device) for each in generators])


class MemberImportance(RunningImportance):
    """`RunningImportance` of the units of all members; the error for values that are not finite names their seeds.

    Attributes:
        seeds: the members' seeds; set by the engine.
    """

    signals_type = MemberSignals
    seeds: Sequence[int] = ()

    @torch.no_grad()
    def evaluate(self, features: FeatureBatch, shared_signals: Sequence[Signals] | None = None) -> None:
        """Evaluate all groups."""
        try:
            super().evaluate(features, shared_signals)
        except FloatingPointError as error:
            state = self.generator.get_state()
            values = [each.mean.abs().sum(0) + self.measure.function(each) for each in self.signals(features)]
            self.generator.set_state(state)
            nonfinite = [~torch.isfinite(each).view(len(self.seeds), -1).all(1).cpu() for each in values]
            seeds = format_seeds(self.seeds, torch.stack(nonfinite).any(0))
            raise FloatingPointError(f"{error} ({seeds})") from None


class EnsembleGnT(GnT):
    """`GnT` for the groups of a `StackedNet`, with the same settings; each member has its own draws.

    Attributes:
        seeds: the members' seeds.
        members: number of members.
        generators: a generator for each member.
    """

    importance: MemberImportance
    importance_type = MemberImportance

    @explains_unknown_settings
    def __init__(
        self,
        groups: Sequence[UnitGroup],
        optimizer: Optimizer,
        *,
        seeds: Sequence[int],
        generators: Sequence[torch.Generator],
        replacement_rate: float = EngineSettings.replacement_rate,
        maturity_threshold: int = EngineSettings.maturity_threshold,
        decay_rate: float = EngineSettings.decay_rate,
        utility: Utility = EngineSettings.utility,
        init: Init = EngineSettings.init,
        accumulate: Accumulate = EngineSettings.accumulate,
        bias_transfer: bool = EngineSettings.bias_transfer,
        bias_init: BiasInit = EngineSettings.bias_init,
        measure_every: int = EngineSettings.measure_every,
        soft: SoftReplacement | bool | None = EngineSettings.soft,
    ) -> None:
        self.seeds, self.members, self.generators = list(seeds), len(seeds), list(generators)
        super().__init__(
            groups,
            optimizer,
            replacement_rate=replacement_rate,
            maturity_threshold=maturity_threshold,
            decay_rate=decay_rate,
            utility=utility,
            init=init,
            accumulate=accumulate,
            bias_transfer=bias_transfer,
            generator=generators[0],
            record=False,
            process_group=False,
            bias_init=bias_init,
            measure_every=measure_every,
            soft=soft,
        )
        vars(self)["generator"] = self.host_generator = MemberGenerators(self.generators)  # type: ignore[assignment]
        self.importance.generator, self.importance.seeds = self.host_generator, self.seeds
        # the index of each member's first unit in each group: (members, 1)
        self._first_units = {
            group.name: torch.arange(self.members, device="cpu").mul_(group.num_units // self.members)[:, None]
            for group in self.groups
        }

    def check_protect(self, protect: Any) -> None:
        """Refused, unless nothing is to be protected."""
        refuse_protect(protect)

    def rebind(self, layers: Any) -> EnsembleGnT:
        """Refused: the layers of all members are stacked when the ensemble is built."""
        raise RuntimeError("the engine of an ensemble cannot be bound to other layers: build a new Ensemble")

    def by_member(self, units: Sequence[Tensor]) -> list[Tensor]:
        """The result of `step` as indices within each member's layer: (members, k) for each group."""
        return [
            chosen.view(self.members, -1) - self._first_units[group.name].to(chosen.device)
            if len(chosen)
            else chosen.new_empty(self.members, 0)
            for group, chosen in zip(self.groups, units, strict=True)
        ]

    def replace(self, units: Sequence[Tensor], incoming: Sequence[Tensor | None] | None = None) -> None:
        """Replace the units returned by `select`.

        Raises:
            ValueError: other units: members whose units differ in age could not be selected from together.
        """
        if not self.is_selection(units):
            raise ValueError("the engine of an ensemble replaces what its select() returned, and nothing else")
        super().replace(units, incoming)

    def report(self, *, skipped: bool = False) -> EnsembleReport:
        """As `GnT.report`, with dead units by member. Members are lists of layers, of which none is skipped."""
        return EnsembleReport.read(self.groups, self.updates, self.replacement_rate, self.members, self.slot_inits)

    def first_due(self) -> int | None:
        """As `GnT.first_due`; the share of a member's units that is due is that of all units of one member."""
        if self.soft is not None:
            return None
        return first_due([group.state for group in self.groups], self.updates, self.replacement_rate / self.members)

    def select_in(self, group: UnitGroup) -> Tensor:
        """Indices of the units of one group that are due, the same number for every member."""
        state: UnitState = group.state
        eligible = state.eligible // self.members
        if not eligible:
            return state.no_units
        count = self.count_due(state, eligible)
        if not count:
            return state.no_units
        return selection.lowest_of_each(state.corrected_utility, state.mature, count, self.members)

    def draw_generators(self) -> Sequence[torch.Generator]:
        """The members' generators: an equal number of units is drawn from each, as in a single run."""
        return self.generators


def format_seeds(seeds: Sequence[int], selected: Tensor) -> str:
    """The seeds of the selected members, for an error message."""
    chosen = [str(seed) for seed, is_selected in zip(seeds, selected.tolist(), strict=True) if is_selected]
    return f"seed {chosen[0]}" if len(chosen) == 1 else f"seeds {', '.join(chosen)}"
