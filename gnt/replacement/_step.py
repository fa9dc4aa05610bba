"""EngineCore: one step of generate and test over unit groups.

All groups are evaluated before any running average changes; then units are selected and replaced
(_unit_replacement.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from gnt._utils.generators import new_generator
from gnt._utils.no_grad import no_grad
from gnt.distributed.process_group import Processes, is_initialized
from gnt.importance import (
    FeatureBatch,
    FeatureBuffer,
    Measure,
    RunningImportance,
    Signals,
    WeightMeans,
    find_measure,
)
from gnt.replacement._config import EngineSettings
from gnt.replacement._cumulative_averages import warn_of_cumulative_averages
from gnt.replacement._followers import Followers
from gnt.replacement._setting_changes import check_changes_of_settings
from gnt.replacement._unit_replacement import UnitReplacement
from gnt.replacement.idle_warning import WARN_AFTER, first_check, warn_if_idle, warn_if_late
from gnt.replacement.optimizer_state import OptimizerStateReset
from gnt.replacement.report import first_due
from gnt.units import StructureCheck, UnitGroup


@check_changes_of_settings
class EngineCore(UnitReplacement):
    """The groups of an engine with their states: update, then selection and replacement.

    The methods here are for the other packages of gnt; `GnT` has the public interface. The settings are attributes, and
    a new value is checked and takes effect at once.

    Args:
        groups: the unit groups; each gets a new `UnitState`.
        settings: the settings.
        optimizer_state: resets the optimizer's state of replaced units; None leaves all optimizer state alone.
        record: record features by hooks.

    Attributes:
        importance: the measure of utility, its running averages, and the recorded features.
        slot_inits: for each group and slot that is drawn, the initial distributions of new units.
        next_idle_check: number of the update after which `idle_warning` is asked; infinity after its warning.
        captured_absent: numbers of the groups that took no part in a captured step; None: none was captured.
        loads: number of times that a state was loaded.
        protection: what ``protect`` tells of the groups' units.
    """

    importance_type: ClassVar[type[RunningImportance]] = RunningImportance

    def __init__(
        self,
        groups: tuple[UnitGroup, ...],
        settings: EngineSettings,
        optimizer_state: OptimizerStateReset | None,
        *,
        record: bool,
    ) -> None:
        self.__dict__.update(vars(settings))
        self.groups = groups
        warn_of_cumulative_averages(groups)
        self.choose_inits(self.init, self.bias_init)
        measure = find_measure(self.utility)
        for group in groups:
            group.state = self.new_state(group, measure)
        self.protection = self.new_protection(self.protect, groups)
        self.protection.read()
        if settings.generator is None:
            vars(self)["generator"] = new_generator(groups[0].incoming[0].weight.device)
        on_host = self.generator.device.type == "cpu"
        self.host_generator = (
            self.generator if on_host else torch.Generator().manual_seed(self.generator.initial_seed())
        )
        self.optimizer_state = optimizer_state
        self._slowing = None
        self.importance = self.importance_type(
            groups,
            self.utility,
            self.generator,
            record=record,
            kernels=self.kernels,
            grad_scaler=settings.grad_scaler,
            measure_every=self.measure_every,
        )
        self._followers = Followers()
        self._structure: StructureCheck | None = StructureCheck(groups)
        self.updates = 0
        self.loaded, self.loads = False, 0
        self.replaced: list[Tensor] = []
        self.counted = 0
        self.next_idle_check: float = first_check(0)
        self.selected: list[Tensor] = []
        self.captured_absent: frozenset[int] | None = None
        self._processes: Processes | None = None

    @no_grad
    def step_with(self, features: FeatureBatch) -> list[Tensor]:
        """Update, select and replace -> indices of the replaced units for each group."""
        if self.importance.is_capturing:
            return self._capture_update(features)
        if self.updates == 0 and self.optimizer_state is not None:
            # the state exists now: report at once, not at the first replacement
            self.optimizer_state.check(self.groups)
        if self.protect is not None:
            self.read_protection()
        if not self.update_with(features):
            self.replaced = self.no_units()
            self.selected = []
            return self.replaced
        return self.select_and_replace()

    def _capture_update(self, features: FeatureBatch) -> list[Tensor]:
        """Capture the update in a CUDA graph; `after_replay` does the rest of the step."""
        if self.join_processes() is not None:
            raise RuntimeError(
                "a step over several processes cannot be captured in a CUDA graph: capture forward and backward, and "
                "step the engine outside of the graph"
            )
        if self.measure_every > 1:
            raise RuntimeError(
                f"measure_every must be 1 to capture a step in a CUDA graph, got {self.measure_every}: all replays do "
                "the same"
            )
        if self.updates == 0:
            raise RuntimeError("take a step outside of the capture before one is captured in a CUDA graph")
        if not features.empty:
            self.importance.evaluate(features)
            self.importance.evaluator.advance()
        self.captured_absent = features.absent if features.empty else self.importance.evaluator.absent
        self.replaced = self.no_units()
        return self.replaced

    def step_recorded(self) -> bool:
        """A step with what was recorded; False if that is nothing, in all processes. For an attached engine.

        `check_structure` must have been called before the optimizer's step.
        """
        if self.repeat_step():
            return True
        features = self.take(none_is_error=False)
        if features.recorded_nothing is not None and not self.has_other_processes:
            self.replaced = self.no_units()
            return False
        before = self.updates
        self.step_with(features)
        return self.updates != before or features.recorded_nothing is None

    def repeat_step(self) -> bool:
        """A step with what was recorded that is like the one before; False, and nothing is changed, if it is not.

        `check_structure` must have been called.
        """
        structure = self._structure
        if (
            self.loaded
            or self.protect is not None
            or structure is None
            or structure.frozen
            or (self.process_group is not False and is_initialized())
            or not self.importance.repeat_update()
        ):
            return False
        own = self.__dict__  # assigning attributes, whose names are checked, takes longer
        own["updates"] = updates = own["updates"] + 1
        if updates >= self.next_idle_check:
            self._check_idle()
        if not self._none_is_due():
            self.select_and_replace()
        return True

    def _none_is_due(self) -> bool:
        """Select no unit after an update of all groups; False, with nothing changed, if some may be due.

        It does the same as `select_and_replace` would.
        """
        if not self.accumulate or self.soft is not None or self.members > 1 or self.protection.top_units is not None:
            return False
        rate, states = self.replacement_rate, [group.state for group in self.groups]
        sums = []
        for state in states:
            total = state.accumulated + rate * state.counted_eligible
            if total >= 1.0 or state.updates >= state.next_maturity:
                return False
            sums.append(total)
        for state, total in zip(states, sums, strict=True):
            state.accumulated = total
        own = self.__dict__
        own["counted"], own["selected"] = own["updates"], []
        own["replaced"] = [state.no_units for state in states]
        return True

    def after_traced_update(self, absent: frozenset[int] = frozenset()) -> list[Tensor]:
        """The host's part of a step whose update was made by a compiled graph: count, select and replace.

        Args:
            absent: numbers of the groups that took no part.
        """
        for number, group in enumerate(self.groups):
            if number not in absent:
                group.state.updates += 1
        self.importance.after_update(absent)
        self.count_update()
        return self.select_and_replace()

    def update_with(self, features: FeatureBatch) -> bool:
        """Update ages and running averages of the groups that take part; False if none does, which is no update."""
        if not self.importance.update_with(features, self.join_processes()):
            return False
        self.count_update()
        return True

    @property
    def measure(self) -> Measure:
        """The measure of utility."""
        return self.importance.measure

    @property
    def feature_buffer(self) -> FeatureBuffer:
        """The features recorded since the last update."""
        return self.importance.feature_buffer

    @property
    def absent(self) -> frozenset[int]:
        """Numbers of the groups that took no part in the latest update."""
        return self.importance.absent

    def signals(self, features: FeatureBatch | None) -> list[Signals]:
        """What the measure may read, for each group; without features for a measure that only draws random numbers."""
        return self.importance.signals(features)

    def evaluate(self, features: FeatureBatch, shared_signals: Sequence[Signals] | None = None) -> None:
        """The first half of an update: compute mean features and utilities. Changes no unit's state."""
        self.importance.evaluate(features, shared_signals)

    def advance(self) -> None:
        """The second half of an update: ages increase, and the computed values enter the running averages."""
        self.importance.advance()
        self.count_update()

    def count_update(self) -> None:
        """Count an update on the host."""
        own = self.__dict__  # assigning attributes, whose names are checked, takes longer
        own["updates"] = updates = own["updates"] + 1
        own["loaded"] = False
        if updates >= own["next_idle_check"]:
            self._check_idle()

    def _check_idle(self) -> None:
        """Warn, once, if no unit is replaced; the first check is early."""
        if self.soft is not None:
            self.next_idle_check = math.inf
            return
        scheduled, self.next_idle_check = self.next_idle_check, WARN_AFTER
        if self.updates >= WARN_AFTER:
            self.next_idle_check = math.inf
            warn_if_idle(self.groups, self.replacement_rate, self.maturity_threshold, selects=self.counted > 0)
        elif (
            self.updates == scheduled
            and self.counted
            and warn_if_late(self.groups, self.first_due(), self.replacement_rate, self.maturity_threshold)
        ):
            self.next_idle_check = math.inf

    def first_due(self) -> int | None:
        """Number of updates, since the first one, after which the first unit is due; None: never, or one was replaced.

        Does not read the device.
        """
        if self.soft is not None:
            return None
        return first_due([group.state for group in self.groups], self.updates, self.replacement_rate)

    @property
    def weight_means(self) -> Mapping[int, WeightMeans]:
        """Where an optimizer can store the means of |w| that it computes in its step, by the id of the weight."""
        return self.importance.evaluator.weight_means

    def __repr__(self) -> str:
        num_units = sum(group.num_units for group in self.groups)
        return f"GnT({len(self.groups)} groups, {num_units} units, {self.describe()})"
