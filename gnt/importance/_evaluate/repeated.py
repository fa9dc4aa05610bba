"""RepeatedUpdate: an update like the one before, by one call of a kernel, without checks that cannot have changed.

With ``measure_every`` > 1, the update before is the last one that was measured. The updates in between, in which units
only age, are repeated in the same way.

What the checks of a full update look at is compared with that of the update before: layouts of features and weights,
addresses of weights, the tensors that modules and states hold, and the numbers of updates. If anything differs, or a
value is not finite, nothing is changed and a full update follows.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from operator import attrgetter, is_, is_not
from typing import Any

import torch
from torch import Tensor

from gnt._kernels import layout_check, load
from gnt.importance._evaluate.kernels import CURRENT, GROUP, WEIGHT, KernelEvaluation
from gnt.importance._shared_state import SharedState
from gnt.importance._tap_features import TapFeatures

_ADDRESS = Tensor.data_ptr
_UPDATES, _UTILITY = attrgetter("updates"), attrgetter("utility")
_GRADIENT, _ONLY_NOTED = attrgetter("grad"), attrgetter("only_noted")


class RepeatedUpdate:
    """Repeats an update in which all groups took part, each with one feature, and all were evaluated by the kernel.

    Args:
        evaluation: the evaluation, which has just made this update.
        shared: the state of all groups.
        features: the features of the update, for each group.
    """

    def __init__(self, evaluation: KernelEvaluation, shared: SharedState, features: Sequence[Tensor]) -> None:
        self._states = shared.states
        self._utilities = [state.utility for state in shared.states]
        located = evaluation.located or ()
        self._weights = [weight for weight, _ in located]
        self._holders = [means.module._parameters for _, means in located]
        self._addresses = [*map(_ADDRESS, self._weights)]
        self._layouts = layout_check([*features, *self._weights])
        self._weight_layouts = layout_check(self._weights)
        # the kernel's records, with the places that differ from update to update
        self._groups, self._feature_places = evaluation.groups, range(0, GROUP * len(features), GROUP)
        self._records = evaluation.weights
        self._current = [(i * WEIGHT + CURRENT, weight, means) for i, (weight, means) in enumerate(located)]
        assert shared.find_nonfinite is not None
        later = [0, 0]  # the number of the update and the number of threads, which the kernel writes
        self._arguments = [
            array("q", each)
            for each in ([*evaluation.call.args, *later], shared.find_nonfinite.args, shared.advance_by_kernel.args)
        ]
        addresses = [arguments.buffer_info()[0] for arguments in self._arguments]
        self._update = partial(load("unit_update", shared.averages.dtype), *addresses)
        self._finite = shared.finite

    def run(self, features: Sequence[Any]) -> bool:
        """Make the update; False, and nothing is changed, if a full one is necessary.

        Args:
            features: one for each group, or None for those without.
        """
        states, before = self._states, self._states[0].updates
        if not (self._layouts.check(*features, *self._weights) and self._is_the_same_network(before)):
            return False
        for place, feature in zip(self._feature_places, features, strict=True):
            self._groups[place] = feature.data_ptr()
        for place, weight, means in self._current:
            self._records[place] = means.weight is not None and means.take_current(weight)
        self._update(before + 1, torch.get_num_threads())
        if not self._finite[0]:
            return False
        for state in states:
            state.updates = before + 1
        return True

    def _is_the_same_network(self, updates: int) -> bool:
        """True if weights and states are the same tensors in the same places, and the states have made ``updates``."""
        states, weights = self._states, self._weights
        return (
            [*map(_ADDRESS, weights)] == self._addresses
            and all(map(is_, map(dict.get, self._holders, repeat("weight")), weights))
            and all(map(is_, map(_UTILITY, states), self._utilities))
            and [*map(_UPDATES, states)].count(updates) == len(states)
        )

    @property
    def is_measured(self) -> bool:
        """True if the next update is measured."""
        return self._states[0].measures_next

    def run_unmeasured(self, taps: Sequence[TapFeatures]) -> bool:
        """Make an update that is not measured; False, and nothing is changed, if a full one is necessary.

        It is necessary unless a forward was noted for each tap, and all weights have gradients: otherwise some groups
        may take no part.
        """
        weights, before = self._weights, self._states[0].updates
        if not (
            weights
            and all(map(_ONLY_NOTED, taps))
            and all(map(is_not, map(_GRADIENT, weights), repeat(None)))
            and self._weight_layouts.check(*weights)
            and self._is_the_same_network(before)
        ):
            return False
        for tap in taps:
            tap.forget()
        for state in self._states:
            state.updates = before + 1
        return True

    def run_recorded(self, taps: Sequence[TapFeatures]) -> bool:
        """`run` with the features of the only forward since the update before, which are then forgotten."""
        if not self.run([tap.only_forward() for tap in taps]):
            return False
        for tap in taps:
            tap.forget()
        return True
