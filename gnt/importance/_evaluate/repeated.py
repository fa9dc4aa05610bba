"""RepeatedUpdate: an update like the one before, in one function, without checks whose outcome cannot have changed.

What the checks of a full update look at is compared with that of the update before: layouts of features and weights,
addresses of weights, the tensors that modules and states hold, and the numbers of updates. If anything differs, or a
value is not finite, nothing is changed and a full update follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from gnt._kernels import layout_check
from gnt.importance._evaluate.kernels import CURRENT, GROUP, WEIGHT, KernelEvaluation
from gnt.importance._shared_state import SharedState

_ADDRESS = Tensor.data_ptr
_UPDATES, _UTILITY = attrgetter("updates"), attrgetter("utility")


class RepeatedUpdate:
    """Repeats an update in which all groups took part, each with one feature, and all were evaluated by the kernel.

    Args:
        evaluation: the evaluation, which has just made this update.
        shared: the state of all groups.
        features: the features of the update, for each group.
    """

    def __init__(self, evaluation: KernelEvaluation, shared: SharedState, features: Sequence[Tensor]) -> None:
        self._shared, self._states = shared, shared.states
        self._utilities = [state.utility for state in shared.states]
        located = evaluation.located or ()
        self._weights = [weight for weight, _ in located]
        self._holders = [means.module._parameters for _, means in located]
        self._addresses = [*map(_ADDRESS, self._weights)]
        self._layouts = layout_check([*features, *self._weights])
        # the kernel's records, with the places that differ from update to update
        self._groups, self._feature_places = evaluation.groups, range(0, GROUP * len(features), GROUP)
        self._records, self._evaluate = evaluation.weights, evaluation.call
        self._current = [(i * WEIGHT + CURRENT, weight, means) for i, (weight, means) in enumerate(located)]

    def run(self, features: Sequence[Any]) -> bool:
        """Make the update; False, and nothing is changed, if a full one is necessary.

        Args:
            features: one for each group, or None for those without.
        """
        states, weights = self._states, self._weights
        before = states[0].updates
        if not (
            self._layouts.check(*features, *weights)
            and [*map(_ADDRESS, weights)] == self._addresses
            and all(map(is_, map(dict.get, self._holders, repeat("weight")), weights))
            and all(map(is_, map(_UTILITY, states), self._utilities))
            and [*map(_UPDATES, states)].count(before) == len(states)
        ):
            return False
        for place, feature in zip(self._feature_places, features, strict=True):
            self._groups[place] = feature.data_ptr()
        for place, weight, means in self._current:
            self._records[place] = means.take_current(weight)
        self._evaluate(before + 1, torch.get_num_threads())
        shared = self._shared
        assert shared.find_nonfinite is not None
        shared.find_nonfinite()
        if not shared.finite[0]:
            return False
        for state in states:
            state.updates = before + 1
        shared.segments[2] = before + 1
        shared.advance_by_kernel()
        return True
