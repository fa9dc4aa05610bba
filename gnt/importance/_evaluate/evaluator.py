"""Tester: the test of generate and test. Every unit's mean feature and worth, and the running averages of both.

Groups that are simple (`gnt.places`) are tested side by side, if the measure is a product of what features and weights
say; any other group, measure or batch goes by `gnt.utility`, group by group. The results stand in one tensor of all
groups (`gnt.flat_state`) until `advance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from gnt._kernels import SCALARS
from gnt.importance._evaluate.cpp import ByKernels
from gnt.importance._evaluate.eager import ByTorch
from gnt.importance._evaluate.layout import Places, WeightPlace
from gnt.importance._shared_state import FlatState, join
from gnt.importance._signals import Measure, Signals, assess, undrawn_on_error
from gnt.units import UnitGroup


class Tester:
    """Tests the units of ``groups`` by a measure. ``kernels``: by kernels in C++ where the network is on the CPU."""

    def __init__(self, groups: Sequence[UnitGroup], measure: Measure, name: str, *, kernels: bool) -> None:
        self._measure, self._name, self._kernels = measure, name, kernels
        self.cohorts: list[_Cohort] = []
        self._weights: Mapping[int, WeightPlace] | None = None
        self.settle(groups)

    def settle(self, groups: Sequence[UnitGroup]) -> None:
        """Join the groups' states, wherever they are now."""
        self._weights = None
        self.cohorts = [
            _Cohort(numbers, [groups[i] for i in numbers], self._measure, kernels=self._kernels)
            for numbers in join([group.state for group in groups])
        ]

    @property
    def holds(self) -> bool:
        """Whether the states still are where they were joined."""
        return all(cohort.flat.holds for cohort in self.cohorts)

    @property
    def weights(self) -> Mapping[int, WeightPlace]:
        """Where the means of |w| are wanted, by the id of the matrix; the same object until states are joined anew."""
        if self._weights is None:
            places = [cohort.places for cohort in self.cohorts if cohort.places is not None and cohort.compiled]
            self._weights = {
                id(weight): place
                for each in places
                for place in each.weights
                if place.groups == 1 and isinstance(weight := place.module.weight, Tensor) and weight.ndim == 2
            }
        return self._weights

    def assess(self, signals: Sequence[Signals]) -> None:
        """Test all groups. Changes nothing that lasts.

        Raises:
            FloatingPointError: on the CPU, features or weights that are not finite. Other devices are not asked.
        """
        if self._measure.product:
            self._test(signals)
        else:
            with undrawn_on_error([signals[0].generator]):
                self._test(signals)

    def _test(self, signals: Sequence[Signals]) -> None:
        for cohort in self.cohorts:
            mine = [signals[i] for i in cohort.numbers]
            tested = cohort.side_by_side(mine)
            for i, each in enumerate(mine):
                if i not in tested:
                    mean, worth = assess(self._measure, self._name, each)
                    cohort.flat.means[i].copy_(mean, non_blocking=True)
                    cohort.flat.worths[i].copy_(worth, non_blocking=True)
        for cohort in self.cohorts:
            if cohort.asks and not cohort.flat.finite:
                name = signals[cohort.numbers[cohort.flat.first_broken()]].group.name
                raise FloatingPointError(
                    f"features or weights of group {name!r} are not finite, so its units cannot be compared; nothing "
                    "was changed"
                )

    def assess_by_kernel(self, features: Sequence[Tensor]) -> bool:
        """Test all groups by one kernel; or return False, where that cannot be done or something is not finite."""
        (cohort,) = self.cohorts
        by = cohort.by
        return isinstance(by, ByKernels) and by.test_by_kernel(features) and cohort.flat.finite

    @property
    def by_kernel(self) -> bool:
        """Whether all groups are simple, and a kernel is there for them."""
        cohort = self.cohorts[0]
        return len(self.cohorts) == 1 and isinstance(cohort.by, ByKernels) and cohort.simple == set(cohort.numbers)

    def advance(self) -> None:
        """Everybody one older; what was tested enters the running averages."""
        for cohort in self.cohorts:
            cohort.flat.advance(asked=cohort.asks)


class _Cohort:
    """Groups whose states have the same device and dtype; ``numbers`` are theirs among all groups."""

    def __init__(self, numbers: list[int], groups: list[UnitGroup], measure: Measure, *, kernels: bool) -> None:
        dtype, device = groups[0].state.utility.dtype, groups[0].state.utility.device
        self.asks = device.type == "cpu"  # there, reading an answer waits for nothing
        self.compiled = compiled = kernels and self.asks and dtype in SCALARS
        self.numbers = numbers
        self.flat = FlatState([group.state for group in groups], compiled=compiled)
        self.places = Places(groups, self.flat, measure.reads) if measure.product else None
        self.by = (ByKernels if compiled else ByTorch)(self.places, self.flat, measure.reads) if self.places else None
        self.simple = frozenset(place.number for place in self.places.simple) if self.places else frozenset()

    def side_by_side(self, signals: Sequence[Signals]) -> frozenset[int]:
        """Test the simple groups, if what their consumers read is plain -> the numbers of those that were tested."""
        if not self.simple:
            return self.simple
        assert self.places is not None
        assert self.by is not None
        features = []
        for place in self.places.simple:
            each = signals[place.number]
            feature = None if each.shared else place.reads(each.batch)
            if feature is None:
                return frozenset()
            features.append(feature)
        self.by.test(features)
        return self.simple
