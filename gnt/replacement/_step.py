"""EngineCore: the arithmetic of generate and test over unit groups, step by step.

Here it is decided in which order things happen: features are tested in all groups before anybody's averages move, all
groups are selected from before any is regenerated, and the optimizer's state is reset when the network is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gnt._utils.generators import new_generator
from gnt.distributed._process_group import Ranks
from gnt.importance._evaluate.evaluator import Tester
from gnt.importance._evaluate.layout import WeightPlace
from gnt.importance._intake import Prepared
from gnt.importance._running import UnitState
from gnt.importance._signals import Signals, find
from gnt.replacement import reinitialization as reinit
from gnt.replacement import selection
from gnt.replacement.optimizer_state import StateReset
from gnt.replacement.report import warn_if_idle
from gnt.units import UnitGroup

WARN_AFTER = 10_000
_SHOWN = ["replacement_rate", "maturity_threshold", "decay_rate", "utility", "init", "accumulate", "bias_transfer"]


class EngineCore:
    """Groups with their states, and one update, selection and replacement of their units. Settings as of `GnT`."""

    def __init__(
        self,
        groups: tuple[UnitGroup, ...],
        *,
        replacement_rate: float,
        maturity_threshold: int,
        decay_rate: float,
        utility: str,
        init: str,
        accumulate: bool | str,
        bias_transfer: bool,
        generator: torch.Generator | None,
        process_group: Any,
        kernels: bool,
    ) -> None:
        self.measure = find(utility)
        self.replacement_rate = float(replacement_rate)
        self.maturity_threshold = int(maturity_threshold)
        self.decay_rate = float(decay_rate)
        self.utility = utility
        self.init = init
        self.accumulate = accumulate
        self.bias_transfer = bias_transfer
        self.groups = groups
        self.bounds = [[reinit.bound(group, init, slot) for slot in group.drawn] for group in groups]
        for group in groups:
            group.state = UnitState(
                group.num_units,
                decay_rate=self.decay_rate,
                maturity_threshold=self.maturity_threshold,
                averaged=self.measure.averaged,
                like=group.incoming[0].weight,
                taps=len(group.taps),
                corrected=self.measure.corrected,
                exceeding=accumulate == "one",
            )
        self.compile = compile
        self._tester = Tester(groups, self._measure, utility, compile=compile)
        self.generator = generator if generator is not None else new_generator(groups[0].incoming[0].weight.device)
        # counts are drawn on the host, so that no draw asks the device
        on_host = self.generator.device.type == "cpu"
        self.host_generator = (
            self.generator if on_host else torch.Generator().manual_seed(self.generator.initial_seed())
        )
        self.process_group = process_group
        self._ranks: Ranks | None = None
        self._optimizer_state: StateReset | None = None
        self.updates = 0
        self.loaded = False
        self.replaced: list[Tensor] = []
        self.counted = 0
        self.selected: list[Tensor] = []

    @torch.no_grad()
    def step_with(self, batches: Prepared) -> list[Tensor]:
        if self.updates == 0 and self._optimizer_state is not None:
            self._optimizer_state.check(self.groups)  # it is filled by now: tell at once, not at the first replacement
        learned = self.update_with(batches)
        self.replaced = self.select_due() if learned else [group.state.nobody for group in self.groups]
        self.replace_units(self.replaced, [None] * len(self.groups), selected=True)
        return self.replaced

    def _goes_on(self) -> bool:
        """Whether the step before tells what this one needs: nothing was loaded or copied since, and no other process
        learns.
        """
        return not self.loaded and self.evaluator.holds and Ranks.group_of(self.process_group) is None

    def _finish(self) -> list[Tensor]:
        """The rest of a step whose groups have been tested."""
        self.advance()
        self.replaced = due = self.select_due()
        if any(units is not group.state.nobody for units, group in zip(due, self.groups, strict=True)):
            with torch.no_grad():
                self.replace_units(due, [None] * len(due), selected=True)
        return due

    def update_with(self, batches: Prepared) -> bool:
        """Returns False for an empty remainder batch: nothing was learned, so nobody ages."""
        signals, ranks = self.signals(batches), self.join_processes()
        if batches.empty if ranks is None else not ranks.share(signals):
            return False
        self.evaluate(signals)
        self.advance()
        return True

    def signals(self, batches: Prepared) -> list[Signals]:
        reads = self.measure.reads
        pairs = zip(self.groups, batches, strict=True)
        return [Signals(group, batch, self.generator, reads) for group, batch in pairs]

    def join_processes(self) -> Ranks | None:
        """The processes that train this network together, all about to do the same; None where there is but one."""
        process_group = Ranks.group_of(self.process_group)
        if self.updates == 0 or self.loaded:
            Ranks.check_shards(self.groups, process_group)
        if process_group is None:
            return None
        if self._ranks is None or self._ranks.process_group is not process_group:
            self._ranks = Ranks(process_group)
        self._ranks.join(self.groups, repr(self), (self.generator, self.host_generator))
        return self._ranks

    def evaluate(self, signals: Sequence[Signals]) -> None:
        """The first half of `update`: what features and weights say of the units. Changes no unit's state."""
        self.evaluator.assess(signals)

    def advance(self) -> None:
        """The second half of `update`: everybody one older, what was tested enters the running averages."""
        self.evaluator.advance()
        self.count_update()

    def count_update(self) -> None:
        """One more update, on the host."""
        self.updates += 1
        self.loaded = False
        if self.updates == WARN_AFTER:
            warn_if_idle(self.groups, self.replacement_rate, self.maturity_threshold, selects=self.counted > 0)

    def follow_network(self) -> None:
        """State goes where the network went."""
        moved = [group for group in self.groups if not group.state.lies_with(group.incoming[0].weight)]
        if moved or not self.evaluator.holds:
            for group in moved:
                group.state.follow(group.incoming[0].weight)
            self.evaluator.settle(self.groups)
            self._moved()

    def _moved(self) -> None:
        """Called when the state has followed the network."""

    def select_due(self) -> list[Tensor]:
        """Who is due, once for each update."""
        fresh, self.counted = self.counted != self.updates, self.updates
        self.selected = [self.select_in(group.state) if fresh else group.state.nobody for group in self.groups]
        return list(self.selected)

    def select_in(self, state: UnitState) -> Tensor:
        if not state.eligible:
            return state.nobody
        count = self.count_due(state, state.eligible)
        return selection.lowest(state.corrected_utility, state.mature, count) if count else state.nobody

    def count_due(self, state: UnitState, eligible: int) -> int:
        """How many of the eligible units are due; moves the accumulator."""
        if not self.accumulate:
            return selection.draw_count(self.replacement_rate, eligible, self._uniform)
        rule = selection.accumulate_one if self.accumulate == "one" else selection.accumulate
        count, state.accumulated = rule(state.accumulated, self.replacement_rate, eligible)
        return count

    def replace_units(self, chosen: list[Tensor], fresh: list[list[Tensor] | None], *, selected: bool) -> None:
        """``fresh`` weights for each group, or None: drawn. ``selected``: the units are the latest selection's."""
        self.selected = []
        work = [item for item in zip(self.groups, chosen, fresh, self.bounds, strict=True) if len(item[1])]
        if not work:
            return
        self.follow_network()
        if self._optimizer_state is not None:
            self._optimizer_state.check(self.groups)
            biases = self._optimizer_state.consumer_biases([group for group, *_ in work])
        for group, indices, weights, limits in work:
            if weights is None:
                weights = [
                    reinit.fresh_weights(slot, len(indices), limit, self.generator)
                    for slot, limit in zip(group.drawn, limits, strict=True)
                ]
            mean_features = group.state.corrected_mean_features.index_select(1, indices) if self.bias_transfer else None
            reinit.regenerate(group, indices, weights, mean_features)
            group.state.rebirth(indices, all_eligible=selected)
        if self._optimizer_state is not None:
            self._optimizer_state.follow(biases)
            for group, indices, _, _ in work:
                self._optimizer_state.reset(group, indices)

    @property
    def weight_means(self) -> Mapping[int, WeightPlace]:
        """The means of |w| that an optimizer can compute while it steps, by the id of the weight matrix."""
        return self.evaluator.weights

    def after_traced_update(self) -> list[Tensor]:
        """The host's part of an update that a compiled graph has made: count, select and replace what is due."""
        for group in self.groups:
            group.state.tick()
        self.count_update()
        self.replaced = self.select_due()
        if any(map(len, self.replaced)):
            self.replace_units(self.replaced, [None] * len(self.groups), selected=True)
        else:
            self.selected = []
        return self.replaced

    def _uniform(self) -> float:
        return torch.rand((), dtype=torch.float64, generator=self.host_generator).item()

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in _SHOWN)
        return f"GnT({len(self.groups)} groups, {sum(g.num_units for g in self.groups)} units, {settings})"
