"""The features of all groups of an engine: recorded by hooks or given by the caller, checked, and taken once per
update.

Several forwards before one update (gradient accumulation) count as one batch of their samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

from gnt._kernels import layout_check
from gnt.importance._feature_batch import FeatureBatch, Features, OtherLayouts
from gnt.importance._gradient_scale import note_scale_for, scale_of
from gnt.importance._recorded_taps import RecordedTaps
from gnt.importance._resting_groups import ALL_MEASURED, RestingGroups, find_resting_groups
from gnt.importance._validation import check_feature_count, check_features, check_gradients, missing_features
from gnt.units import UnitGroup

_KIND, _TRAINED = attrgetter("shape", "dtype", "device"), attrgetter("trained")
_is_none = partial(is_, None)


class FeatureBuffer(RecordedTaps):
    """Collects the features of ``groups`` until the next update takes them.

    If a training backward has reached some of the recorded features, only those that one has reached count. So a
    forward that failed half way does not, nor does one whose output was differentiated with respect to inputs only.

    Args:
        groups: the unit groups.
        record: record features by hooks; otherwise features are given to `take`, or added to ``taps``.
        may_rest: updates that a group's state does not measure take no features of it; without, all are measured.
        gradients: name of the measure that reads gradients of features; "" if these are not recorded. Each feature then
            has its gradient in ``feature.grad``, and only features that a training backward has reached count.

    Attributes:
        taps, is_simple, may_rest: those of `RecordedTaps`.
        gradient_scale: the scale of a GradScaler by which the waiting gradients are larger than those of the loss.
        grad_scaler: a GradScaler that has scaled the loss, also if it does not call the optimizer's step.
    """

    def __init__(
        self,
        groups: Sequence[UnitGroup],
        *,
        record: bool,
        gradients: str = "",
        grad_scaler: torch.amp.GradScaler | None = None,
        may_rest: bool = False,
    ) -> None:
        self._checked: list[Any] = []  # shape, dtype and device of the features that were checked last
        self._like_checked: TensorGuards | None = None  # recognizes features of the same layouts
        self._only_trained = bool(gradients)
        self.gradient_scale: Tensor | None = None
        self.grad_scaler = grad_scaler
        super().__init__(groups, record=record, gradients=gradients, may_rest=may_rest)

    def _start(self) -> None:
        if self._gradients:
            note_scale_for(self)
        super()._start()

    def take(self, features: Features | None = None, *, none_is_error: bool = True) -> FeatureBatch:
        """Return the features recorded since the last call, or the given ones, and forget what was recorded.

        A group without samples takes no part in the update (``FeatureBatch.absent``).

        Args:
            features: for each tap a tensor, or a list of tensors from several forwards.
            none_is_error: raise an error if features are missing; otherwise groups without features take no part.

        Raises:
            RuntimeError: nothing was recorded for any group; or nothing for some of them, and it cannot be seen that a
                backward was run, so that the forward may have failed half way; or the buffer is closed.
            TypeError, ValueError: features that do not fit the groups.
        """
        if self._closed:
            self.check_open()
        if features is not None:
            return self._take_given(features)
        forward = self._like_before()
        if forward is None:
            return self._take_recorded(none_is_error=none_is_error)
        for tap in self.taps:
            tap.forget()
        return FeatureBatch(self._groups, [[feature] for feature in forward], [*forward])

    def _like_before(self) -> list[Tensor] | None:
        """The features of the only forward since the last update if they count and are like those checked last."""
        if self._like_checked is None or not self.is_simple or self.may_rest:
            return None
        features = [tap.only_forward() for tap in self.taps]
        return features if self._like_checked.check(*features) else None  # type: ignore[return-value]

    def _take_given(self, features: Features) -> FeatureBatch:
        """Check the features that a caller gives; those that were recorded are forgotten."""
        resting = find_resting_groups(self._groups, self._numbered_taps) if self.may_rest else ALL_MEASURED
        for tap in self._all_taps:
            tap.forget()
        check_feature_count(features, self._readers)
        given: list[Any] = list(features)
        per_tap = [list(each) if isinstance(each, (list, tuple)) else [each] for each in given]
        plain, kinds = _only_features(per_tap)
        if kinds != self._checked:
            self._check(per_tap, {}, kinds, given=True)
        batch = self._new_batch(per_tap, plain, {}, None, resting)
        if batch.absent and not batch.empty:
            name = self._groups[min(batch.absent)].name
            raise ValueError(f"features of group {name!r} have no samples, but those of other groups have")
        return batch

    def _take_recorded(self, *, none_is_error: bool) -> FeatureBatch:
        """Take what was recorded, and check it; groups that are not measured have no features."""
        taps = self._all_taps
        only_trained = self._only_trained or any(map(_TRAINED, taps))
        resting = find_resting_groups(self._groups, self._numbered_taps) if self.may_rest else ALL_MEASURED
        if resting.unmeasured and len(resting.unmeasured) == len(self._groups):
            return self._take_none(resting, none_is_error=none_is_error)
        if self._gradients:
            check_gradients(taps, self._gradients)
        may_be_partial = (
            only_trained
            or bool(resting.unmeasured)
            or not none_is_error
            or any(tap.unmarked for tap in taps if tap.waiting)
        )
        per_tap = [tap.take(only_trained=only_trained) for tap in self.taps]
        others = self._take_other_layouts(only_trained=only_trained) if self._other_layouts else {}
        plain, kinds = _only_features(per_tap)
        nothing: str | None = None
        if kinds != self._checked or others:
            if not all(per_tap):
                nothing = self._missing(per_tap, others, resting, partial=may_be_partial)
                if nothing is not None and none_is_error:
                    raise RuntimeError(nothing)
            self._check(per_tap, others, kinds, given=False)
        if not self._gradients:
            self._like_checked = _recognize(plain)
        return self._new_batch(per_tap, plain, others, nothing, resting)

    def _take_other_layouts(self, *, only_trained: bool) -> OtherLayouts:
        """What was recorded of consumers with another layout than the first of their tap."""
        others: OtherLayouts = {}
        for number, slot, tap in self._other_layouts:
            if recorded := tap.take(only_trained=only_trained):
                others.setdefault(number, []).append((slot, recorded))
        return others

    def _take_none(self, resting: RestingGroups, *, none_is_error: bool) -> FeatureBatch:
        """The batch of an update that measures no group."""
        self.gradient_scale = None
        per_tap: list[list[Tensor]] = [[] for _ in self.taps]
        nothing = None if resting.ran else missing_features([False] * len(per_tap), self._readers, partial=True)
        if nothing is not None and none_is_error:
            raise RuntimeError(nothing)
        batch = FeatureBatch(self._groups, per_tap, [None] * len(per_tap), None, nothing, None, *resting)
        batch.absent = resting.unmeasured - resting.ran
        return batch

    def _missing(
        self, per_tap: list[list[Tensor]], others: OtherLayouts, resting: RestingGroups, *, partial: bool
    ) -> str | None:
        """The message of an error if features are missing; see `missing_features`."""
        rests = [number in resting.ran for number, group in enumerate(self._groups) for _ in group.taps]
        overwritten = {number for number, tap in enumerate(self.taps) if tap.overwritten}
        overwritten |= {number for number, _, tap in self._other_layouts if tap.overwritten}
        recorded = [
            bool(each) or number in others or number in overwritten or rests[number]
            for number, each in enumerate(per_tap)
        ]
        return missing_features(recorded, self._readers, partial=partial)

    def _check(self, per_tap: list[list[Any]], others: OtherLayouts, kinds: list[Any], *, given: bool) -> None:
        """Raise an error for features that do not fit the groups; otherwise those of these kinds are not checked again.

        Args:
            per_tap, others: the features of each tap, and those of consumers with another layout.
            kinds: those of `_only_features`.
            given: the caller gave the features.
        """
        check_features(per_tap, self._readers, given=given)
        for number, several in others.items():
            for slot, recorded in several:
                check_features([recorded], [(self._readers[number][0], slot)], given=False)
        self._checked = kinds if None not in kinds else []

    def _new_batch(
        self,
        per_tap: list[list[Tensor]],
        plain: list[Tensor | None],
        others: OtherLayouts,
        nothing: str | None,
        resting: RestingGroups,
    ) -> FeatureBatch:
        scale, self.gradient_scale = self.gradient_scale, None
        if scale is None and self.grad_scaler is not None and self._gradients:
            scale = scale_of(self.grad_scaler)  # no optimizer has stepped
        batch = FeatureBatch(self._groups, per_tap, plain, others, nothing, scale, *resting)
        if any(map(_is_none, plain)):
            batch.find_absent()
        return batch

    def check(self) -> None:
        """Raise the errors of `take` for what was recorded so far, without taking it; missing features are no error."""
        if self._closed:
            self.check_open()
        if self._like_checked is not None and not self._other_layouts:
            latest = [None if tap.pending is None else tap.pending[0] for tap in self.taps]
            alone = all(tap.pending is not None and tap.pending[2] is None and not tap.settled for tap in self.taps)
            if alone and self._like_checked.check(*latest):
                return
        per_tap = [tap.recorded() for tap in self.taps]
        if _only_features(per_tap)[1] != self._checked:
            check_features(per_tap, self._readers, given=False)
        for number, slot, tap in self._other_layouts:
            check_features([tap.recorded()], [(self._readers[number][0], slot)], given=False)

    def recheck(self) -> None:
        """Check the next features in full: the network has moved to another device or dtype."""
        self._checked, self._like_checked = [], None

    def clear(self) -> None:
        """Forget what was recorded."""
        self.gradient_scale = None
        for tap in self._all_taps:
            tap.forget()

    def require_backward(self) -> None:
        """From now on count only features that a training backward has reached, or of which this cannot be seen.

        Those of layers that were frozen in the forward do not count.
        """
        self._only_trained = True
        super().require_backward()

    def rebound(self, groups: Sequence[UnitGroup]) -> FeatureBuffer:
        """A buffer of the same kind for other groups; this one is closed."""
        other = FeatureBuffer(
            groups,
            record=self._record,
            gradients=self._gradients,
            grad_scaler=self.grad_scaler,
            may_rest=self.may_rest,
        )
        other._only_trained = self._only_trained
        if self.requires_backward:
            other.require_backward()
        self.close()
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_like_checked": None}


def _recognize(plain: Sequence[Tensor | None]) -> TensorGuards | None:
    """The check that recognizes features with the layouts of these; None if some are missing or not strided."""
    features = [feature for feature in plain if feature is not None and feature.layout is torch.strided]
    return layout_check(features) if len(features) == len(plain) else None


def _only_features(per_tap: Sequence[Sequence[Any]]) -> tuple[list[Tensor | None], list[Any]]:
    """For each tap its only feature, if it has one that is a plain tensor, and the shape, dtype and device of it.

    An empty tensor is None among the features, but has a shape.
    """
    plain: list[Tensor | None] = []
    kinds: list[Any] = []
    for features in per_tap:
        feature = features[0] if len(features) == 1 and features[0].__class__ is Tensor else None
        kinds.append(None if feature is None else _KIND(feature))
        plain.append(feature if feature is not None and feature.numel() else None)
    return plain, kinds
