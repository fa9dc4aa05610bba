"""Evaluator: computes every unit's mean feature and utility, and updates the running averages of both.

Simple groups (`layout`) are evaluated together if the measure is a product of signals; any other group, measure or
batch is evaluated group by group. The results are kept in one tensor of all groups (`SharedState`) until `advance`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gnt._kernels import SCALARS, use_kernels
from gnt._triton import can_run as triton_can_run
from gnt.importance._evaluate.eager import EagerEvaluation
from gnt.importance._evaluate.kernels import KernelEvaluation
from gnt.importance._evaluate.means_layout import MeansLayout, WeightMeans
from gnt.importance._evaluate.repeated import RepeatedUpdate
from gnt.importance._evaluate.triton_kernels import TritonEvaluation
from gnt.importance._feature_batch import FeatureBatch
from gnt.importance._measure_registry import Measure, compute_measure, restore_generators_on_error
from gnt.importance._shared_state import SharedState, group_by_device_and_dtype
from gnt.importance._signals import Signals
from gnt.units import UnitGroup

ENGINE_UNCHANGED = "the engine has changed nothing, but a step that the optimizer took before is not undone"

MakeSignals = Callable[[FeatureBatch], list[Signals]]


class Evaluator:
    """Evaluates the units of ``groups`` by a measure.

    Args:
        groups: the unit groups.
        measure: the measure.
        name: its name, for messages.
        kernels: use the C kernels for networks on the CPU; None: where there are kernels.

    Attributes:
        absent: numbers of the groups that took no part in the latest evaluation.
        resting: numbers of the groups that took part and were not measured.
        on_cuda: some groups are on a GPU.
        parts: the groups whose states share tensors.
        repeated: makes an update like the one before; None if the next one must be a full one.
        triton_state: the tensors of all groups, for Triton kernels; None if these cannot read them, or not together.
        prepared: what the owner of the groups has made for these tensors; None again when they are replaced.
    """

    def __init__(self, groups: Sequence[UnitGroup], measure: Measure, name: str, *, kernels: bool | None) -> None:
        self._groups, self._measure, self._name, self._kernels = groups, measure, name, kernels
        self._product = measure.product
        self._first_taps = [0]
        for group in groups:
            self._first_taps.append(self._first_taps[-1] + len(group.taps))
        self.parts: list[_SharedPart] = []
        self.absent: frozenset[int] = frozenset()
        self.resting: frozenset[int] = frozenset()
        self._not_measured: frozenset[int] = frozenset()
        self._absent_taps: dict[int, list[int]] = {}
        self._weight_means: Mapping[int, WeightMeans] | None = None
        self.repeated: RepeatedUpdate | None = None
        self.triton_state: SharedState | None = None
        self.prepared: Any = None
        self.share_states()

    def share_states(self) -> None:
        """Join the states of groups with the same device and dtype, as they are now."""
        self._weight_means = self.repeated = None
        self.on_cuda = any(group.state.utility.is_cuda for group in self._groups)
        self.parts = [
            _SharedPart(
                numbers,
                [self._groups[i] for i in numbers],
                [self._first_taps[i] for i in numbers],
                self._measure,
                kernels=self._kernels,
            )
            for numbers in group_by_device_and_dtype([group.state for group in self._groups])
        ]
        shared = self.parts[0].shared
        self.triton_state = shared if shared.triton and len(self.parts) == 1 else None
        self.prepared = None

    def follow_network(self) -> bool:
        """Move the states to the device and dtype of their weights; True if states were moved or joined again."""
        for part in self.parts:
            if not part.is_current():
                break
        else:
            return False
        for group in self._groups:
            weight = group.incoming[0].weight
            if not _fits(group.state.utility, weight):
                group.state.move_to(weight)
        self.share_states()
        return True

    @property
    def uses_kernels(self) -> bool:
        """True if the states of all groups share tensors, on the CPU, and C kernels are used."""
        return len(self.parts) == 1 and self.parts[0].uses_kernels

    @property
    def weight_means(self) -> Mapping[int, WeightMeans]:
        """Where the means of |w| of weight matrices are stored, by the id of the matrix, for an optimizer's kernel.

        The same object until states are shared again.
        """
        if self._weight_means is None:
            layouts = [part.layout for part in self.parts if part.layout is not None and part.uses_kernels]
            self._weight_means = {
                id(weight): means
                for layout in layouts
                for means in layout.weights
                if isinstance(weight := means.module.weight, Tensor) and weight.ndim == 2
            }
        return self._weight_means

    def evaluate(
        self, features: FeatureBatch, make_signals: MakeSignals, shared_signals: Sequence[Signals] | None = None
    ) -> None:
        """Evaluate all groups that take part; no running average changes.

        A group takes part if it has samples: those of ``features`` or, with ``shared_signals``, of any process.

        Args:
            features: of all groups.
            make_signals: creates the signals of all groups, for groups that are evaluated one by one.
            shared_signals: signals with the means over several processes, to be used for all groups.

        Raises:
            FloatingPointError: features or weights that are not finite (checked on the CPU only).
        """
        self.absent, self._absent_taps = features.absent, {}
        if shared_signals:
            self.absent = frozenset(i for i, each in enumerate(shared_signals) if not each.takes_part)
        self.resting, self._not_measured = features.resting, self.absent
        if features.unmeasured:
            self.absent = (self.absent - features.unmeasured) | (features.absent & features.unmeasured)
            self._not_measured = self.absent | self.resting
            if features.all_unmeasured:
                return
        self.repeated = None
        if self._product:
            self._evaluate(features, make_signals, shared_signals)
            return
        signals = make_signals(features) if shared_signals is None else shared_signals
        with restore_generators_on_error([signals[0].generator]):
            self._evaluate(features, make_signals, signals)

    def _evaluate(self, features: FeatureBatch, make_signals: MakeSignals, signals: Sequence[Signals] | None) -> None:
        for part in self.parts:
            part.shared.follow_updates()
            simple = signals is None and part.evaluate_simple(features.plain, self._not_measured)
            if simple and part.all_simple:
                continue
            signals = make_signals(features) if signals is None else signals
            for i, number in enumerate(part.numbers):
                if number not in self._not_measured and not (simple and i in part.simple):
                    if not all(present := signals[number].present):
                        self._absent_taps[number] = [tap for tap, had in enumerate(present) if not had]
                    mean, utility = compute_measure(self._measure, self._name, signals[number])
                    part.shared.means[i].copy_(mean, non_blocking=True)
                    part.shared.utilities[i].copy_(utility, non_blocking=True)
        for part in self.parts:
            if self._not_measured:
                part.shared.keep(*part.numbered(self._not_measured, self._absent_taps))
            if part.on_cpu and not part.shared.is_finite():
                number = part.shared.first_nonfinite()
                name = self._groups[part.numbers[number]].name
                finite_features = bool(part.shared.means[number].isfinite().all())
                what = (
                    f"features or weights of group {name!r} are"
                    if self._product or not finite_features
                    else f"values of utility {self._name!r} of group {name!r} (or the weights that it reads) are"
                )
                raise FloatingPointError(f"{what} not finite, so its units cannot be compared; {ENGINE_UNCHANGED}")

    def advance(self) -> None:
        """Make one update: ages increase by one, and the measured values enter the running averages."""
        if len(self._not_measured) < len(self._groups):
            for part in self.parts:
                if self._not_measured or self._absent_taps:
                    absent, absent_taps = part.numbered(self._not_measured, self._absent_taps)
                    part.shared.advance(checked=part.on_cpu, absent=absent, absent_taps=absent_taps)
                else:
                    part.shared.advance(checked=part.on_cpu)
        for number in self.resting:
            self._groups[number].state.updates += 1

    def prepare_to_repeat(self, features: FeatureBatch) -> None:
        """Set ``repeated`` if the next update can be like the one that was just made with these features."""
        plain = [feature for feature in features.plain if feature is not None]
        if len(self.parts) == 1 and not self._not_measured and len(plain) == len(features.plain):
            self.repeated = self.parts[0].repeated(plain)

    def follow_host(self) -> None:
        """Set the numbers of updates on the devices to the host's, after a state was loaded."""
        for part in self.parts:
            part.shared.follow_host()

    def count_replay(self, absent: frozenset[int]) -> None:
        """Note that a replay of a captured update has counted on the devices.

        Args:
            absent: numbers of the groups that took no part in the captured update.
        """
        for part in self.parts:
            part.shared.count_replay(part.numbered(absent, {})[0])


class _SharedPart:
    """Groups whose states have the same device and dtype; ``numbers`` are theirs among all groups."""

    def __init__(
        self,
        numbers: list[int],
        groups: list[UnitGroup],
        first_taps: list[int],
        measure: Measure,
        *,
        kernels: bool | None,
    ) -> None:
        self._dtype, self._device = groups[0].state.utility.dtype, groups[0].state.utility.device
        self.on_cpu = self._device.type == "cpu"  # reading a value does not wait for a device
        triton = kernels is not False and self._dtype in SCALARS and triton_can_run(self._device)
        self.uses_kernels = not triton and use_kernels(kernels, fit=self.on_cpu and self._dtype in SCALARS)
        self.numbers = numbers
        self.shared = SharedState([group.state for group in groups], kernels=self.uses_kernels, triton=triton)
        self._parameters = [group.incoming[0].module._parameters for group in groups]
        self.layout = MeansLayout(groups, first_taps, self.shared, measure.reads) if measure.product else None
        # the C kernel counts each update in f^
        by_kernel = self.uses_kernels and (groups[0].state.measure_every == 1 or "deviation" not in measure.reads)
        self._evaluation: EagerEvaluation | None = None
        if self.layout is not None and self.layout.simple:
            by_triton = triton and TritonEvaluation.supports(measure.reads)
            kind = TritonEvaluation if by_triton else KernelEvaluation if by_kernel else EagerEvaluation
            self._evaluation = kind(self.layout, self.shared, measure.reads)
        self.simple = frozenset(group.number for group in self.layout.simple) if self.layout else frozenset()
        self.all_simple = len(self.simple) == len(groups)
        self._by_kernel = False  # the latest evaluation

    def is_current(self) -> bool:
        """True if all weights have the device and dtype of this part, and the states are still views of it."""
        for parameters in self._parameters:
            weight = parameters["weight"]
            assert weight is not None
            if weight.device != self._device:
                return False
            if weight.dtype is not self._dtype and torch.promote_types(weight.dtype, torch.float32) != self._dtype:
                return False
        return self.shared.is_shared

    def repeated(self, features: Sequence[Tensor]) -> RepeatedUpdate | None:
        """An update like the one just made with these features; None if that was not made by kernels alone."""
        evaluation = self._evaluation
        if not isinstance(evaluation, KernelEvaluation) or not self._by_kernel or not self.all_simple:
            return None
        return RepeatedUpdate(evaluation, self.shared, features) if self.shared.can_advance_together else None

    def numbered(
        self, absent: Collection[int], absent_taps: Mapping[int, Sequence[int]]
    ) -> tuple[list[int], dict[int, Sequence[int]]]:
        """Of groups numbered among all groups those of this part, by their numbers in it."""
        own = {number: i for i, number in enumerate(self.numbers)}
        taps = {own[number]: each for number, each in absent_taps.items() if number in own}
        return [own[number] for number in absent if number in own], taps

    def evaluate_simple(self, plain: Sequence[Tensor | None], absent: Collection[int] = ()) -> bool:
        """Evaluate the simple groups and return True if the feature of each is one plain, contiguous tensor.

        Groups that take no part need no feature.
        """
        self._by_kernel = False
        if self.layout is None or not self.simple:
            return False
        assert self._evaluation is not None
        features: list[Tensor | None] = []
        for group in self.layout.simple:
            feature = plain[group.tap]
            if absent and self.numbers[group.number] in absent:
                features.append(None)
                continue
            if feature is None or not self._evaluation.accepts(feature) or not feature.is_contiguous():
                return False
            features.append(feature)
        self._by_kernel = self._evaluation.evaluate(features)
        return True


def _fits(state: Tensor, weight: Tensor) -> bool:
    """True if a state tensor has the device of the weight and is wide enough for its dtype."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return state.device == weight.device and (state.dtype == weight.dtype or state.dtype == wide)
