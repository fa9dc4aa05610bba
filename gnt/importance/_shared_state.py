"""The running averages of all groups in shared tensors, so that an update takes the same few operations for any number
of groups.

The `RunningAverages` of each group hold views of these tensors. Mean features and utilities are parts of one tensor, in
the order (features of all taps, utilities of all units); the newly measured values have the same layout.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from operator import attrgetter, is_
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gnt._kernels import Kernel, load
from gnt.importance._device_counts import DeviceCounts
from gnt.importance._running_averages import RunningAverages, age_correction
from gnt.importance._triton_advance import TritonAdvance

_UPDATES, _UTILITY = attrgetter("updates"), attrgetter("utility")
_NOTHING: Mapping[int, Sequence[int]] = MappingProxyType({})


class SharedState:
    """Joins states of the same device and dtype: their tensors become views of the ones here.

    Attributes:
        states: the groups' states.
        averages: running averages, (features + units,).
        measured: the values that enter the averages in the next update, in the same layout.
        lags: for each state, by how much the number of its updates is less than that of the first.
        means: for each group its mean features in ``measured``, (taps, num_units).
        utilities: for each group its values of the measure in ``measured``, (num_units,).
        all_utilities: those of all groups, (units,).
        born, last_active: of all units, (units,).
        find_nonfinite: writes into ``finite[0]`` by a kernel whether all measured values are finite; None: no kernels.
        advance_by_kernel: lets the measured values enter the averages of the units in ``segments``, which holds their
            first unit, their number and the number of the update for each segment.
        num_features: number of mean features.
        triton: Triton kernels can read and write the tensors.
    """

    def __init__(self, states: Sequence[RunningAverages], *, kernels: bool = False, triton: bool = False) -> None:
        self.states = states
        self._num_units = sum(state.num_units for state in states)
        self.num_features = self._num_features = sum(state.mean_features.numel() for state in states)
        self._one_tap_each = all(len(state.mean_features) == 1 for state in states)
        self._decay_rate, self._averaged = states[0].measured_decay, states[0].averaged
        self._measure_every = states[0].measure_every
        self._corrected, self._over_task = states[0].corrected, states[0].over_task
        self.averages = torch.cat([*(s.mean_features.flatten() for s in states), *(s.utility for s in states)])
        self.measured = torch.zeros_like(self.averages)
        self.born = torch.cat([state.born for state in states])
        self.last_active = torch.cat([state.last_active for state in states])
        self._nonfinite = torch.stack([state.nonfinite for state in states])
        self._average_features, self._average_utilities = self._split(self.averages)
        self._measured_features, self.all_utilities = self._split(self.measured)
        self.means: list[Tensor] = []
        self.utilities: list[Tensor] = []
        self._views: list[Tensor] = []  # to find out that a state's tensors were replaced
        self._share()
        self._advance_kernel: Kernel | None = None
        self.find_nonfinite: partial[None] | None = None
        self.finite = array("q", [1])  # written by the kernel: 1 if all measured values are finite
        if kernels:
            arguments = self.measured.data_ptr(), self.finite.buffer_info()[0], self.measured.numel()
            self.find_nonfinite = partial(load("finite", self.averages.dtype), *arguments)
            if self._one_tap_each and self._averaged:
                self._advance_kernel = load("running_averages", self.averages.dtype)
        self.triton = triton
        self._counts = DeviceCounts(states) if triton or self.born.is_cuda else None
        self._advance_triton = None
        if triton and self._one_tap_each and self._averaged:
            self._advance_triton = TritonAdvance(states, self.averages.dtype)
        self.lags = [0] * len(states)
        self._unit_lags: Tensor | None = None  # of all units; None if all are 0
        self._first_units = [0, *itertools.accumulate(state.num_units for state in states)]
        self._new_weight = array("d", [1.0 - self._decay_rate])
        self._group_of, self._unit_of = self._group_and_unit()
        self._one_segment = True  # for all units
        self._set_segments([(0, self._num_units, 0)])

    def _split(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of the mean features and of the utilities."""
        return tensor.narrow(0, 0, self._num_features), tensor.narrow(0, self._num_features, self._num_units)

    def _share(self) -> None:
        """Replace the tensors of each state by views."""
        feature, unit = 0, 0
        for i, state in enumerate(self.states):
            shape, n = state.mean_features.shape, state.num_units
            state.mean_features = self._average_features.narrow(0, feature, shape.numel()).view(shape)
            state.utility = self._average_utilities.narrow(0, unit, n)
            self._views.append(state.utility)
            state.born, state.last_active = self.born.narrow(0, unit, n), self.last_active.narrow(0, unit, n)
            state.nonfinite = self._nonfinite.select(0, i)
            self.means.append(self._measured_features.narrow(0, feature, shape.numel()).view(shape))
            self.utilities.append(self.all_utilities.narrow(0, unit, n))
            feature, unit = feature + shape.numel(), unit + n

    @property
    def is_shared(self) -> bool:
        """True if the tensors of all states are still views of the ones here."""
        return all(map(is_, map(_UTILITY, self.states), self._views))

    def _group_and_unit(self) -> tuple[Tensor, Tensor]:
        """For each running average the number of its group, and of its unit among all units."""
        sizes = [state.num_units for state in self.states]
        features = [state.mean_features.numel() for state in self.states]
        group = torch.cat(
            [torch.full((n,), i, device="cpu") for counts in (features, sizes) for i, n in enumerate(counts)]
        )
        start = [0, *itertools.accumulate(sizes)]
        taps = [len(state.mean_features) for state in self.states]
        of_features = [
            torch.arange(first, first + n, device="cpu").repeat(t)
            for first, n, t in zip(start, sizes, taps, strict=False)
        ]
        unit = torch.cat([*of_features, torch.arange(self._num_units, device="cpu")])
        return group.to(self.born.device), unit.to(self.born.device)

    def centers(self) -> list[Tensor]:
        """For each group f^ after ``means`` have entered the average, (taps, num_units)."""
        if not self._one_tap_each:
            return [state.center(mean) for state, mean in zip(self.states, self.means, strict=True)]
        center = torch.lerp(self._average_features, self._measured_features, 1.0 - self._decay_rate)
        center.div_(age_correction(self._measured_ages(further=1), self._decay_rate, center.dtype))
        return [each.unsqueeze(0) for each in torch.split(center, [state.num_units for state in self.states])]

    def follow_updates(self) -> None:
        """Find out which states have had fewer updates than the first; called before each update."""
        updates = [*map(_UPDATES, self.states)]
        if self._counts is not None:
            self._counts.follow(updates)
        first = updates[0]
        if self._unit_lags is None and updates.count(first) == len(updates):
            return
        lags = [first - each for each in updates]
        if lags != self.lags:
            self.lags = lags
            by_state = zip(self.states, lags, strict=True)
            unit_lags = torch.cat([torch.full((state.num_units,), lag, device="cpu") for state, lag in by_state])
            self._unit_lags = unit_lags.to(self.born.device, non_blocking=True) if any(lags) else None

    @property
    def updates_on_device(self) -> Tensor | None:
        """The states' numbers of updates on a GPU, int64 (states,), as of the latest `follow_host`; None on the CPU."""
        return None if self._counts is None else self._counts.on_device

    def follow_host(self) -> None:
        """Set the numbers of updates on the device to the host's."""
        if self._counts is not None:
            self._counts.follow_host()

    def count_replay(self, absent: Collection[int]) -> None:
        """Note that a replay of a captured update has counted on the device; ``absent``: all states but these."""
        if self._counts is not None:
            self._counts.count_replay(absent)

    def _unit_updates(self) -> Any:
        """Number of updates of each unit's group; an integer if it is the same for all."""
        if self._counts is not None and self._counts.capturing:
            return self._counts.on_device.index_select(0, self._group_of[self._num_features :])
        first = self.states[0].updates
        return first if self._unit_lags is None else first - self._unit_lags

    def _measured_ages(self, further: int = 0) -> Tensor:
        """Number of measured updates since each unit started, when its group has had ``further`` more updates."""
        updates, every = self._unit_updates() + further, self._measure_every
        ages: Tensor = updates - self.born if every == 1 else updates // every - self.born // every
        return ages

    def keep(self, absent: Collection[int], absent_taps: Mapping[int, Sequence[int]]) -> None:
        """Set the measured values of groups and taps that take no part to their averages, which then do not change.

        Args:
            absent: numbers of the states.
            absent_taps: taps by the number of the state, for states that take part.
        """
        for number in absent:
            self.means[number].copy_(self.states[number].mean_features)
            self.utilities[number].copy_(self.states[number].utility)
        for number, taps in absent_taps.items():
            for tap in taps:
                self.means[number][tap].copy_(self.states[number].mean_features[tap])

    def is_finite(self) -> bool:
        """True if all measured values are finite; reads the device."""
        if self.find_nonfinite is not None:
            self.find_nonfinite()
            return self.finite[0] == 1
        # the sum is finite if all terms are, unless it overflows
        return math.isfinite(self.measured.sum().item()) or bool(self.measured.isfinite().all())

    def first_nonfinite(self) -> int:
        """Number of the first state with measured values that are not finite; reads the device."""
        pairs = zip(self.means, self.utilities, strict=True)
        return next(i for i, pair in enumerate(pairs) if not all(part.isfinite().all() for part in pair))

    def advance(
        self, *, checked: bool, absent: Collection[int] = (), absent_taps: Mapping[int, Sequence[int]] = _NOTHING
    ) -> None:
        """Make one update: ages increase by one, and the measured values enter the running averages.

        Args:
            checked: all values are known to be finite. Otherwise groups with non-finite values keep their averages.
            absent, absent_taps: groups and taps that take no part, as in `keep`.
        """
        if self._advance_triton is not None and not absent and self._counts is not None:
            self._advance_triton(
                self.averages, self.measured, self.born, self.last_active, self._nonfinite, self._counts.on_device,
                self._num_features,
            )  # fmt: skip
            self._counts.advance(absent, counted=True)
            return
        nonfinite = None if checked else self._replace_nonfinite()
        if absent or absent_taps:
            self.keep(absent, absent_taps)
        capturing = self._counts is not None and self._counts.capturing
        if self._counts is not None:
            self._counts.advance(absent, counted=False)
        else:
            for number, state in enumerate(self.states):
                if number not in absent:
                    state.updates += 1
        if self._advance_kernel is not None and nonfinite is None:
            self._write_segments(absent)
            self.advance_by_kernel()
            return
        if self._averaged:
            self.averages.lerp_(self.measured, 1.0 - self._decay_rate)
        else:
            self._average_features.lerp_(self._measured_features, 1.0 - self._decay_rate)
            if self._over_task:
                self._lerp_means_over_task()
            else:
                self._average_utilities.copy_(self.all_utilities)
        active = self._measured_features != 0
        if nonfinite is not None:
            active &= ~nonfinite
        if self._one_tap_each and not absent and self._unit_lags is None and not capturing:
            self.last_active.masked_fill_(active, self.states[0].updates)
            return
        parts = torch.split(active, [mean.numel() for mean in self.means])
        for number, (state, part) in enumerate(zip(self.states, parts, strict=True)):
            if number not in absent:
                by_tap = part.view(-1, state.num_units)
                for tap in absent_taps.get(number, ()):
                    by_tap[tap] = False
                    state.miss(tap)
                if capturing and self._counts is not None:
                    self._counts.mark(state.last_active, by_tap.any(0), number)
                else:
                    state.last_active.masked_fill_(by_tap.any(0), state.updates)

    @property
    def can_advance_together(self) -> bool:
        """True if one call of ``advance_by_kernel`` makes the next update, in which all groups take part."""
        return self._advance_kernel is not None and self._one_segment and self._unit_lags is None

    def _lerp_means_over_task(self) -> None:
        """U <- u + (y - u) / a, with a the age of the unit including this update."""
        self.follow_updates()
        age = (self._unit_updates() - self.born).clamp_min_(1)  # 0 in groups that take no part, whose y is u
        self._average_utilities.lerp_(self.all_utilities, age.to(self.averages.dtype).reciprocal_())

    def _write_segments(self, absent: Collection[int]) -> None:
        """Write for the kernel which units take part, and the number of their update."""
        together = not absent and self._unit_lags is None
        if together and self._one_segment:
            self.segments[2] = self.states[0].updates
            return
        segments = [
            (first, state.num_units, state.updates)
            for number, (first, state) in enumerate(zip(self._first_units, self.states, strict=False))
            if number not in absent
        ]
        if together:
            segments = [(0, self._num_units, self.states[0].updates)]
        self._one_segment = together
        self._set_segments(segments)

    def _set_segments(self, segments: Sequence[tuple[int, int, int]]) -> None:
        """Give the kernel these (first unit, number of units, number of the update)."""
        self.segments = array("q", itertools.chain.from_iterable(segments))
        if self._advance_kernel is not None:
            tensors = (tensor.data_ptr() for tensor in (self.averages, self.measured, self.last_active))
            numbers = (each.buffer_info()[0] for each in (self._new_weight, self.segments))
            counts = self._num_units, len(segments)
            self.advance_by_kernel: partial[None] = partial(self._advance_kernel, *tensors, *numbers, *counts)

    def _replace_nonfinite(self) -> Tensor:
        """Replace the values of groups that have non-finite ones by their corrected averages, which then do not change.

        Returns which features belong to such groups.
        """
        not_finite = (~self.measured.isfinite()).to(torch.int64)
        groups = torch.zeros_like(self._nonfinite).index_add_(0, self._group_of, not_finite) > 0
        self._nonfinite += groups
        affected = groups.index_select(0, self._group_of)
        age = self._measured_ages().index_select(0, self._unit_of)
        if not self._one_tap_each:
            age[: self._num_features] -= torch.cat([state.missed_by_feature().flatten() for state in self.states])
        corrected = self.averages / age_correction(age, self._decay_rate, self.averages.dtype)
        affected_features, affected_utilities = self._split(affected)
        features, utilities = self._split(corrected)
        torch.where(affected_features, features, self._measured_features, out=self._measured_features)
        kept = utilities if self._corrected else self._average_utilities
        torch.where(affected_utilities, kept, self.all_utilities, out=self.all_utilities)
        return affected_features


def group_by_device_and_dtype(states: Sequence[RunningAverages]) -> list[list[int]]:
    """Numbers of the states that can share tensors: those of the same device and dtype."""
    places: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, state in enumerate(states):
        places.setdefault((state.utility.device, state.utility.dtype), []).append(i)
    return list(places.values())
