"""Again: a step just like the one before. What was found out then need not be found out anew.

That costs most of the time of a step of a small network. Where anything is not as it was, the ordinary step takes over;
nothing has been changed then.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gnt.importance._evaluate.evaluator import Tester
from gnt.importance._feature_buffer import Waiting


class Again:
    """Knows what the features of a step were like, and takes those of the next one if they are alike.

    Args:
        taps: where features wait, one for each group.
        tester: what tests the groups; by a kernel, in which lies the gain.
        features: those of the step before.
    """

    def __init__(self, taps: Sequence[Waiting], tester: Tester, features: Sequence[Tensor]) -> None:
        self._taps, self._tester, self._cohorts = taps, tester, tester.cohorts
        self._shapes = [feature.shape for feature in features]

    def assess(self) -> bool:
        """Test all groups by what waits for them, and forget it; False, and it waits on, where it is not as it was."""
        if self._tester.cohorts is not self._cohorts:
            return False
        features = []
        for tap, shape in zip(self._taps, self._shapes, strict=True):
            feature = tap.only
            if feature is None or feature.shape != shape:
                return False
            features.append(feature)
        if not self._tester.assess_by_kernel(features):
            return False
        for tap in self._taps:
            tap.forget()
        return True
