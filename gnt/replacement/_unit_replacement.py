"""UnitReplacement: which units of an engine's groups are due, and their replacement by new ones.

Units are selected in all groups before any is replaced. All weights are drawn before the network is changed, and the
optimizer's state is reset after that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from gnt._utils.no_grad import no_grad
from gnt.importance import restore_generators_on_error
from gnt.initialization import SlotInit, draw_biases, draw_weights
from gnt.replacement import reinitialization as reinit
from gnt.replacement import selection
from gnt.replacement._bound_groups import BoundGroups
from gnt.replacement._followers import Followers
from gnt.replacement._kernel_replacement import KernelReplacement
from gnt.replacement._soft_replacement import check_not_sharded, move_incoming, move_outgoing, soft_shares
from gnt.replacement._triton_replacement import TritonReplacement
from gnt.replacement.eligibility import UnitState
from gnt.units import UnitGroup, check_scales_fit


class UnitReplacement(BoundGroups):
    """Selection and replacement of units, at once or softly.

    Attributes:
        members: number of networks whose units a group holds one after the other; 1 except in an ensemble.
        host_generator: for draws of counts, on the host so that no draw waits for the device.
        counted: number of the update for which units were selected last.
        selected: units selected last, until they are replaced.
    """

    members = 1
    host_generator: torch.Generator
    counted: int
    _followers: Followers

    def select_and_replace(self) -> list[Tensor]:
        """Replace the units that are due, or move all units softly -> indices of the replaced units of each group.

        If an error is raised before any unit is replaced, the accumulators are as before: what was due stays due.
        """
        return self.replace_due(self.find_due())

    def find_due(self) -> list[float]:
        """The first half of `select_and_replace`: select the units that are due, which ``replaced`` then names.

        Returns:
            The accumulators before, for the second half.
        """
        own = self.__dict__  # assigning attributes, whose names are checked, takes longer
        accumulated = [group.state.accumulated for group in self.groups]
        if self.soft is None:
            own["replaced"] = self.select_due()
        else:
            own["selected"], own["replaced"] = [], self.no_units()
        return accumulated

    def replace_due(self, accumulated: Sequence[float]) -> list[Tensor]:
        """The second half of `select_and_replace`, which changes the network.

        Args:
            accumulated: what `find_due` has returned.
        """
        own = self.__dict__
        replaced: list[Tensor] = own["replaced"]
        if self.soft is not None:
            if self.updates % self.soft.period == 0:
                self._move_towards_new()
            return replaced
        if not any(map(Tensor.numel, replaced)):
            own["selected"] = []
            return replaced
        try:
            self.replace_units(replaced, [None] * len(self.groups), selected=True)
        except BaseException:
            if self.selected:  # nothing was replaced
                self.leave_due(accumulated)
            raise
        return replaced

    def leave_due(self, accumulated: Sequence[float]) -> None:
        """Replace none of the units that `find_due` has found: what was due stays due.

        Args:
            accumulated: what `find_due` has returned.
        """
        for group, before in zip(self.groups, accumulated, strict=True):
            group.state.accumulated = before
        self.selected, self.replaced = [], self.no_units()

    def select_due(self) -> list[Tensor]:
        """Indices of the units that are due, at most once for each update.

        None in groups that took no part in the update, or with a frozen weight.
        """
        own = self.__dict__  # assigning attributes, whose names are checked, takes longer
        updates, selected = own["updates"], []
        new, own["counted"] = own["counted"] != updates, updates
        left_out = self.frozen | self.importance.absent
        if new and self.protection.top_units is not None:
            self.protection.after_update(left_out)
        triton = self._triton() if new else None
        if triton is not None:
            self.selected = self._select_by(triton, left_out)
            return [*self.selected]
        for number, group in enumerate(self.groups):
            selected.append(self.select_in(group) if new and number not in left_out else group.state.no_units)
        own["selected"] = selected
        return [*selected]

    def select_in(self, group: UnitGroup) -> Tensor:
        """Indices of the units of one group that are due."""
        count = self._count_due_in(group)
        return self._lowest(group, count) if count else group.state.no_units

    def _count_due_in(self, group: UnitGroup) -> int:
        """Number of units of one group that are due; updates the accumulator."""
        state: UnitState = group.state
        eligible = state.counted_eligible if state.updates < state.next_maturity else state.eligible
        return self.count_due(state, eligible) if eligible else 0

    def _select_by(self, triton: TritonReplacement, left_out: Collection[int]) -> list[Tensor]:
        """Indices of the units of all groups that are due, when no object protects units."""
        counts = [0 if number in left_out else self._count_due_in(group) for number, group in enumerate(self.groups)]
        if not any(counts):
            return self.no_units()
        selected = triton.select(counts, self.maturity_threshold)
        if selected is not None:
            return selected
        return [
            self._lowest(group, count) if count else group.state.no_units
            for group, count in zip(self.groups, counts, strict=True)
        ]

    def _lowest(self, group: UnitGroup, count: int) -> Tensor:
        """Indices of ``count`` eligible units of lowest utility, or of as many as may be replaced at present."""
        state: UnitState = group.state
        mature, available = state.mature, self.protection.available(group)
        if available is not None:
            mature = mature & available
            count = min(count, int(mature.sum()))
        return selection.lowest(state.ranked_utility, mature, count) if count else state.no_units

    def count_due(self, state: UnitState, eligible: int) -> int:
        """Number of units that are due among the eligible ones; updates the accumulator."""
        if not self.accumulate:
            return selection.draw_count(self.replacement_rate, eligible, self._uniform)
        rule = selection.accumulate_one if self.accumulate == "one" else selection.accumulate
        count, state.accumulated = rule(state.accumulated, self.replacement_rate, eligible)
        return count

    @no_grad
    def replace_units(self, units: list[Tensor], fresh: list[list[Tensor] | None], *, selected: bool) -> None:
        """Replace units in the network and reset what is kept of them.

        Args:
            units: indices for each group.
            fresh: incoming weights for each group and slot that is drawn; None: draw them.
            selected: the units are those of the last selection.
        """
        work = [item for item in zip(self.groups, units, fresh, self.slot_inits, strict=True) if len(item[1])]
        if not work:
            self.selected = []
            return
        if scales := [slot for group, *_ in work for slot in group.scales]:
            check_scales_fit(scales)
        self.follow_network()
        kernels = self._kernels() if all(each is None for each in fresh) else None
        prepared = None if kernels is None else kernels.prepare(units, self.slot_inits, self.optimizer_state)
        followers = self._followers if prepared is not None and prepared.resets_optimizer else self._all_followers()
        followers.check(self.groups)
        movable = self.protection.movable_biases([item[0] for item in work]) if self.bias_transfer else {}
        # a function that fails has changed nothing: all is drawn before any unit is replaced
        own_function = () if isinstance(self.init, str) else (self.generator,)
        drawn: list[tuple[list[Tensor], list[Tensor | None]]] = []
        with restore_generators_on_error(own_function):
            if prepared is not None:
                prepared.draw(self.draw_generators())
            else:
                drawn += [
                    self._draw(group, self.counts_by_member(group, indices), given, inits)
                    for group, indices, given, inits in work
                ]
        replaced = [(group, indices) for group, indices, *_ in work]
        biases_before = followers.consumer_biases(replaced) if self.bias_transfer else []
        self.selected = []  # from here on the network changes
        if prepared is not None:
            prepared.write(transfer=self.bias_transfer)
        else:
            for group, indices in replaced:
                means = group.state.corrected_mean_features.index_select(1, indices) if self.bias_transfer else None
                reinit.disconnect(group, indices, means, movable)
            for (group, indices), (weights, biases) in zip(replaced, drawn, strict=True):
                reinit.renew(group, indices, weights, biases)
        for group, indices in replaced:
            group.state.replace(indices, all_eligible=selected, restarted=prepared is not None)
        followers.follow(replaced, biases_before)

    @no_grad
    def _move_towards_new(self) -> None:
        """Soft replacement: move the units of all groups that took part in the update, and are not frozen."""
        self.follow_network()
        left_out = self.frozen | self.importance.absent
        work = [
            (group, inits)
            for number, (group, inits) in enumerate(zip(self.groups, self.slot_inits, strict=True))
            if number not in left_out
        ]
        check_not_sharded([group for group, _ in work])
        check_scales_fit([slot for group, _ in work for slot in group.scales])
        movable = self.protection.movable_biases([group for group, _ in work]) if self.bias_transfer else None
        shares = [
            soft_shares(self.soft, group.state, self.members, self.protection.available(group)) for group, _ in work
        ]
        own_function = () if isinstance(self.init, str) else (self.generator,)
        with restore_generators_on_error(own_function):
            drawn = [
                self._draw(group, [group.num_units // self.members] * self.members, None, inits)
                for group, inits in work
            ]
        for (group, _), alpha in zip(work, shares, strict=True):
            move_outgoing(group, alpha, movable)
        for (group, _), alpha, (weights, biases) in zip(work, shares, drawn, strict=True):
            move_incoming(group, alpha, weights, biases, self.members)

    def _kernels(self) -> KernelReplacement | TritonReplacement | None:
        """What replaces units by kernels, in C on the CPU or in Triton on a GPU; None: only torch operations do."""
        evaluator = self.importance.evaluator
        shared = evaluator.triton_state
        usable = evaluator.uses_kernels if shared is None else shared.is_shared
        if not usable or self.members > 1 or self.protect is not None:
            return None
        if evaluator.prepared is None:
            evaluator.prepared = (
                KernelReplacement(self.groups) if shared is None else TritonReplacement(self.groups, shared)
            )
        found: KernelReplacement | TritonReplacement = evaluator.prepared
        return found

    def _triton(self) -> TritonReplacement | None:
        """What selects units by a Triton kernel; None: torch operations do."""
        kernels = None if self.importance.evaluator.triton_state is None else self._kernels()
        return kernels if isinstance(kernels, TritonReplacement) else None

    def _all_followers(self) -> Followers:
        """What is told of a replacement: the optimizer's state, then the followers."""
        if self.optimizer_state is None:
            return self._followers
        return Followers((self.optimizer_state, *self._followers.adapters))

    def restart_units(self, group: UnitGroup, units: Tensor) -> None:
        """Set ages and averages of units to those of new units: another engine, which this one follows, replaced them.

        If features of the next update were recorded before, these units begin after that update.
        """
        self.importance.restart_units(group, units)
        self.selected = []

    def without_replaced_by_others(self, units: Sequence[Tensor]) -> list[Tensor]:
        """Those of the units of each group that no other engine has replaced since their features were recorded.

        To be called once for these features, if no update is made with them.
        """
        return self.importance.without_replaced_by_others(units)

    def _draw(
        self, group: UnitGroup, counts: Sequence[int], given: list[Tensor] | None, inits: Sequence[SlotInit]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """New weights (those given, if any) and biases of so many units of each member, for each slot that is drawn."""
        pairs = list(zip(group.drawn, inits, strict=True))
        generators = self.draw_generators()
        weights = [draw_weights(slot, init, counts, generators) for slot, init in pairs] if given is None else given
        return weights, [draw_biases(slot, init, counts, generators) for slot, init in pairs]

    def counts_by_member(self, group: UnitGroup, units: Tensor) -> Sequence[int]:
        """How many of these units each member has: equally many, unless a subclass says otherwise."""
        return [len(units) // self.members] * self.members

    def draw_generators(self) -> Sequence[torch.Generator]:
        """The generators of new weights, one for each member."""
        return (self.generator,)

    def _uniform(self) -> float:
        return torch.rand((), dtype=torch.float64, generator=self.host_generator, device="cpu").item()
