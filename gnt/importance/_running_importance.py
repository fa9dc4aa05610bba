"""RunningImportance: a measure of the units of some groups, and its running averages in the groups' states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnt._kernels import in_use, use_kernels
from gnt.distributed.process_group import Processes
from gnt.importance._across_processes import average_over_processes
from gnt.importance._evaluate.evaluator import Evaluator
from gnt.importance._feature_batch import FeatureBatch, Features
from gnt.importance._feature_buffer import FeatureBuffer
from gnt.importance._measure_registry import Measure, find_measure
from gnt.importance._replaced_by_others import ReplacedByOthers
from gnt.importance._signals import Signals
from gnt.importance._statistics import GroupStatistics
from gnt.units import UnitGroup

_NO_GROUPS: frozenset[int] = frozenset()


class RunningImportance:
    """Features of unit groups, a measure of the units, and running averages of it: what `GnT` and `Importance` share.

    The running averages are in ``group.state``, which the owner sets before.

    Args:
        groups: the unit groups, with their states.
        name: name of the measure.
        generator: generator for measures that draw random numbers.
        record: record features by hooks.
        kernels: use the C kernels for networks on the CPU; None: where there are kernels.
        grad_scaler: a GradScaler that scales the loss and does not call the optimizer's step.
        measure_every: the states' setting: features are recorded for the updates that measure them.

    Attributes:
        measure: the measure.
        feature_buffer: the features recorded since the last update.
        evaluator: computes the measure for all groups.
        absent: numbers of the groups that took no part in the latest update.
    """

    signals_type: ClassVar[type[Signals]] = Signals

    def __init__(
        self,
        groups: tuple[UnitGroup, ...],
        name: str,
        generator: Any,
        *,
        record: bool,
        kernels: bool | None,
        grad_scaler: torch.amp.GradScaler | None = None,
        measure_every: int = 1,
    ) -> None:
        self.groups, self.name, self.generator = groups, name, generator
        self.measure: Measure = find_measure(name)
        self.evaluator = Evaluator(groups, self.measure, name, kernels=kernels)
        gradients = name if self.measure.reads_feature_gradients else ""
        self.feature_buffer = FeatureBuffer(
            groups, record=record, gradients=gradients, grad_scaler=grad_scaler, may_rest=measure_every > 1
        )
        self.absent: frozenset[int] = frozenset()
        self._kernels = kernels
        self._others = ReplacedByOthers()

    @property
    def is_capturing(self) -> bool:
        """True while a CUDA graph is captured on the groups' device."""
        return self.evaluator.on_cuda and torch.cuda.is_current_stream_capturing()

    @property
    def values(self) -> list[Tensor]:
        """The importance of each unit, (num_units,) for each group: the corrected running average of the measure.

        0 for units of age 0. The tensors are copies, which later updates do not change.
        """
        states = [group.state for group in self.groups]
        return [state.corrected_utility if state.corrected else state.utility.clone() for state in states]

    def latest(self) -> Tensor:
        """The measure in the latest update, of the units of all groups one after the other, (units,).

        The tensor is overwritten in the next update. Groups that took no part have no value of this update.
        """
        parts = self.evaluator.parts
        if len(parts) == 1:
            return parts[0].shared.all_utilities
        values = {number: v for part in parts for number, v in zip(part.numbers, part.shared.utilities, strict=True)}
        device, dtype = values[0].device, values[0].dtype
        return torch.cat([values[number].to(device, dtype) for number in range(len(self.groups))])

    @property
    def implementation(self) -> str:
        """What evaluates the units: kernels, or torch operations with the reason."""
        kinds = [group.state.utility for group in self.groups]
        return "; ".join(dict.fromkeys(in_use(self._kernels, each.device, each.dtype) for each in kinds))

    def take(self, features: Features | None = None, *, none_is_error: bool) -> FeatureBatch:
        """Check the recorded (or given) features and take them; `FeatureBuffer.take`."""
        if self.evaluator.follow_network():
            self.feature_buffer.recheck()
        batch = self.feature_buffer.take(features, none_is_error=none_is_error)
        self._others.features_taken = True
        return batch

    def discard(self) -> None:
        """Drop the recorded features of forwards that no update will follow."""
        self.feature_buffer.clear()
        self._others.clear()

    def check_features(self) -> None:
        """Check the recorded features, as `take` does, without taking them."""
        if self.evaluator.follow_network():
            self.feature_buffer.recheck()
        self.feature_buffer.check()

    def follow_network(self) -> None:
        """Move the states to the network's device and dtype."""
        if self.evaluator.follow_network():
            self.feature_buffer.recheck()

    def signals(self, features: FeatureBatch | None) -> list[Signals]:
        """What the measure may read, for each group; without features for a measure that only draws random numbers."""
        statistics = [GroupStatistics() for _ in self.groups] if features is None else features.statistics
        reads, kernels = self.measure.reads, use_kernels(self._kernels)
        signals = [
            self.signals_type(group, each, self.generator, reads)
            for group, each in zip(self.groups, statistics, strict=True)
        ]
        for each in signals:
            each.kernels = kernels
        return signals

    def update_with(self, features: FeatureBatch, processes: Processes | None) -> bool:
        """Update the running averages of the groups that take part; False if none does, which is no update.

        Raises:
            RuntimeError: a CUDA graph is being captured.
        """
        if self.is_capturing:
            raise RuntimeError("an update cannot be captured in a CUDA graph by itself: capture GnT.step")
        signals: list[Signals] | None = None
        if processes is None:
            if features.empty:
                self._others.clear()
                return False
            repeated = self.evaluator.repeated
            if repeated is not None and not features.unmeasured and repeated.run(features.plain):
                self.after_update(_NO_GROUPS)
                return True
        else:
            features.find_resting(processes)
            if features.all_unmeasured:
                takes_part = not features.empty
            else:
                signals = self.signals(features)
                takes_part = average_over_processes(signals, processes) or bool(features.resting)
            if not takes_part:
                self._others.clear()
                return False
        self.evaluate(features, signals)
        self.advance()
        if processes is None:
            self.evaluator.prepare_to_repeat(features)
        return True

    def repeat_update(self) -> bool:
        """An update with the recorded features, if it is like the one before; otherwise False, and nothing is changed.

        The network must be the one before, and this the only process.
        """
        repeated, buffer, others = self.evaluator.repeated, self.feature_buffer, self._others
        if repeated is None or not buffer.is_simple:
            return False
        if buffer.may_rest and not repeated.is_measured:
            if not repeated.run_unmeasured(buffer.taps):
                return False
        elif not repeated.run_recorded(buffer.taps):
            return False
        self.absent, others.features_taken = _NO_GROUPS, False
        if others.units:
            others.restart()
        return True

    def evaluate(self, features: FeatureBatch, shared_signals: Sequence[Signals] | None = None) -> None:
        """The first half of an update: compute mean features and the measure. Changes no running average."""
        self.evaluator.evaluate(features, self.signals, shared_signals)

    def advance(self) -> None:
        """The second half of an update: ages increase, and the computed values enter the running averages."""
        self.evaluator.advance()
        self.after_update(self.evaluator.absent)

    def after_update(self, absent: frozenset[int]) -> None:
        """Finish an update, which a compiled graph may have made.

        Args:
            absent: numbers of the groups that took no part.
        """
        self.absent = absent
        self._others.features_taken = False
        if self._others.units:
            self._others.restart()

    @torch.no_grad()
    def restart_units(self, group: UnitGroup, units: Tensor) -> None:
        """Set ages and averages of units to those of new units; an engine that this object follows calls it.

        If features of the next update were recorded before, they are those of the units before, and the new units begin
        after that update.

        Args:
            group: one of ``groups``.
            units: indices, int64.
        """
        self.follow_network()
        group.state.restart(units)
        if self._others.features_taken or self.feature_buffer.waiting:
            self._others.add(group, units)

    def without_replaced_by_others(self, units: Sequence[Tensor]) -> list[Tensor]:
        """Those of the units of each group that no engine has replaced since the latest features were recorded.

        To be called once for these features, if no update is made with them.
        """
        kept = [self._others.without(group, each) for group, each in zip(self.groups, units, strict=True)]
        self._others.clear()
        return kept

    def rebuild(self) -> None:
        """Evaluate as the settings of the states are now."""
        self.set_kernels(self._kernels)

    def set_kernels(self, kernels: bool | None) -> None:
        """Evaluate with or without kernels from now on."""
        self.evaluator = Evaluator(self.groups, self.measure, self.name, kernels=kernels)
        self._kernels = kernels

    def rebind(self, groups: tuple[UnitGroup, ...]) -> None:
        """Go on with other groups, with their states; recorded features are dropped."""
        self.feature_buffer = self.feature_buffer.rebound(groups)
        self.groups, self.absent, self._others = groups, frozenset(), ReplacedByOthers()
        self.rebuild()

    def __getstate__(self) -> dict[str, Any]:
        # a registered measure may be a lambda; it is looked up again by its name
        return {name: value for name, value in self.__dict__.items() if name not in ("measure", "evaluator")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.measure = find_measure(self.name)
        self.rebuild()
