"""The features of all groups of an engine: recorded by hooks or given by the caller, checked, and taken once per
update.

A feature is a consumer's *input*: after activation, norm, pooling, dropout and flatten. Only forwards in training mode
with grad enabled are recorded. Several forwards before one update (gradient accumulation) count as one batch of their
samples.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

from gnt._kernels import layout_check
from gnt._utils.dynamo import watch_hooks
from gnt.importance._feature_batch import FeatureBatch, Features, OtherLayouts
from gnt.importance._feature_recording import Subscription, subscribe
from gnt.importance._gradient_scale import note_scale_for, scale_of
from gnt.importance._tap_features import GroupFeatures, TapFeatures
from gnt.importance._validation import check_feature_count, check_features, missing_features
from gnt.units import CONV_LAYERS, Slot, UnitGroup

_KIND, _TRAINED = attrgetter("shape", "dtype", "device"), attrgetter("trained")
_NONE: frozenset[int] = frozenset()
_NOT_COPIED = ("taps", "_all_taps", "_other_layouts", "_subscriptions")  # made by _start


class FeatureBuffer:
    """Collects the features of ``groups`` until the next update takes them.

    With ``record``, forward pre-hooks on all consumers record what they read; several buffers on one network share
    them. Hooks are not copied: in a copied or unpickled network they do nothing, and a copied engine registers others.

    If a training backward has reached some of the recorded features, only those that one has reached count. So a
    forward that failed half way does not, nor does one whose output was differentiated with respect to inputs only.

    Args:
        groups: the unit groups.
        record: record features by hooks; otherwise features are given to `take`, or added to ``taps``.
        may_rest: updates that a group's state does not measure take no features of it; without, all are measured.
        gradients: name of the measure that reads gradients of features; "" if these are not recorded. Each feature then
            has its gradient in ``feature.grad``, and only features that a training backward has reached count.

    Attributes:
        taps: the features of each tap; a group has one tap for each different value that its consumers read.
        gradient_scale: the scale of a GradScaler by which the waiting gradients are larger than those of the loss.
        grad_scaler: a GradScaler that has scaled the loss, also if it does not call the optimizer's step.
        is_simple: each tap has one layout, and its features are recorded without gradients.
        may_rest: as given.
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
        self.may_rest = may_rest
        self._groups, self._record, self._gradients = groups, record, gradients
        self._readers = [(group, slot) for group in groups for slot in group.taps]
        self._checked: list[Any] = []  # shape, dtype and device of the features that were checked last
        self._like_checked: TensorGuards | None = None  # recognizes features of the same layouts
        self._closed = False
        self._only_trained = bool(gradients)
        self.gradient_scale: Tensor | None = None
        self.grad_scaler = grad_scaler
        self._start()

    def _start(self) -> None:
        if self._gradients:
            note_scale_for(self)
        self._subscriptions: list[Subscription] = []
        self._all_taps: Sequence[TapFeatures]
        consumers = [_consumers(group, slot) for group, slot in self._readers]
        self.taps: Sequence[TapFeatures] = [
            self._new_tap(group, several_consumers=len(slots) > 1)
            for (group, _), slots in zip(self._readers, consumers, strict=True)
        ]
        # consumers of a tap whose input holds the units at other positions than that of its first consumer
        self._other_layouts: list[tuple[int, Slot, TapFeatures]] = []
        self._all_taps = self.taps
        self.is_simple = not self._gradients
        if self._closed or not self._record:
            return
        for number, ((group, first), slots) in enumerate(zip(self._readers, consumers, strict=True)):
            producers = [slot.module for slot in group.incoming]
            own = [slot.module for slot in slots if _same_layout(slot, first)]
            self._subscriptions += subscribe(self.taps[number], own, producers)
            for slot in slots:
                if slot.module not in own:
                    tap = self._new_tap(group)
                    self._other_layouts.append((number, slot, tap))
                    self._subscriptions += subscribe(tap, [slot.module], producers)
        if self._other_layouts:
            self._all_taps = [*self.taps, *(tap for *_, tap in self._other_layouts)]
            self.is_simple = False
        watch_hooks()
        weakref.finalize(self, _remove, self._subscriptions)

    def _new_tap(self, group: UnitGroup, *, several_consumers: bool = False) -> TapFeatures:
        return TapFeatures(
            group.name,
            several_consumers=several_consumers,
            gradients=bool(self._gradients),
            rests=(lambda: not group.state.measures_next) if self.may_rest else None,
        )

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
        forward = self._like_before() if features is None else None
        if forward is not None:
            for tap in self.taps:
                tap.forget()
            return FeatureBatch(self._groups, [[feature] for feature in forward], [*forward])
        taps = self._all_taps
        only_trained = features is None and (self._only_trained or any(map(_TRAINED, taps)))
        unmeasured, ran = self._resting_groups() if self.may_rest else (_NONE, _NONE)
        if unmeasured and features is None and len(unmeasured) == len(self._groups):
            return self._resting_batch(unmeasured, ran, none_is_error=none_is_error)
        if self._gradients and features is None:
            self._check_gradients(taps)
        may_be_partial = (
            only_trained or bool(unmeasured) or not none_is_error or any(tap.unmarked for tap in taps if tap.waiting)
        )
        per_tap = [tap.take(only_trained=only_trained) for tap in self.taps]
        others: OtherLayouts = {}
        for number, slot, tap in self._other_layouts:
            if recorded := tap.take(only_trained=only_trained):
                others.setdefault(number, []).append((slot, recorded))
        if features is not None:
            check_feature_count(features, self._readers)
            given: list[Any] = list(features)
            per_tap, others = [list(each) if isinstance(each, (list, tuple)) else [each] for each in given], {}
        plain: list[Tensor | None] = []
        kinds: list[Any] = []
        nothing: str | None = None
        for each in per_tap:
            feature = each[0] if len(each) == 1 and each[0].__class__ is Tensor else None
            kinds.append(None if feature is None else _KIND(feature))
            plain.append(feature if feature is not None and feature.numel() else None)
        if kinds != self._checked or others:
            if features is None and not all(per_tap):
                rests = [number in ran for number, group in enumerate(self._groups) for _ in group.taps]
                recorded_by_tap = [
                    bool(each) or number in others or rests[number] for number, each in enumerate(per_tap)
                ]
                nothing = missing_features(recorded_by_tap, self._readers, partial=may_be_partial)
                if nothing is not None and none_is_error:
                    raise RuntimeError(nothing)
            check_features(per_tap, self._readers, given=features is not None)
            for number, (slot, recorded) in [(n, each) for n, several in others.items() for each in several]:
                check_features([recorded], [(self._readers[number][0], slot)], given=False)
            self._checked = kinds if None not in kinds else []
        if features is None and not self._gradients:
            self._like_checked = _recognize(plain)
        scale, self.gradient_scale = self.gradient_scale, None
        if scale is None and self.grad_scaler is not None and self._gradients:
            scale = scale_of(self.grad_scaler)  # no optimizer has stepped
        batch = FeatureBatch(self._groups, per_tap, plain, others, nothing, scale, unmeasured, ran)
        if any(each is None for each in plain):  # None in plain would compare tensors
            batch.find_absent()
            if features is not None and batch.absent and not batch.empty:
                name = self._groups[min(batch.absent)].name
                raise ValueError(f"features of group {name!r} have no samples, but those of other groups have")
        return batch

    def _resting_groups(self) -> tuple[frozenset[int], frozenset[int]]:
        """Numbers of the groups that this update does not measure, and of those of them that ran.

        Of a group without gradients it cannot be seen whether a backward has run for it; if others have some, it has
        not.
        """
        unmeasured = frozenset(n for n, group in enumerate(self._groups) if not group.state.measures_next)
        if not unmeasured:
            return unmeasured, unmeasured
        numbers = [number for number, group in enumerate(self._groups) for _ in group.taps]
        taps = [*zip(numbers, self.taps, strict=True), *((numbers[n], tap) for n, _, tap in self._other_layouts)]
        ran = frozenset([n for n, tap in taps if n in unmeasured and tap.take_note()])
        return unmeasured, frozenset(n for n in ran if _has_gradients(self._groups[n])) or ran

    def _resting_batch(self, unmeasured: frozenset[int], ran: frozenset[int], *, none_is_error: bool) -> FeatureBatch:
        """The batch of an update that measures no group."""
        self.gradient_scale = None
        per_tap: list[list[Tensor]] = [[] for _ in self.taps]
        nothing = None if ran else missing_features([False] * len(per_tap), self._readers, partial=True)
        if nothing is not None and none_is_error:
            raise RuntimeError(nothing)
        batch = FeatureBatch(self._groups, per_tap, [None] * len(per_tap), None, nothing, None, unmeasured, ran)
        batch.absent = unmeasured - ran
        return batch

    def _like_before(self) -> list[Tensor] | None:
        """The features of the only forward since the last update if they count and are like those checked last."""
        if self._like_checked is None or not self.is_simple or self.may_rest:
            return None
        features = [tap.only_forward() for tap in self.taps]
        return features if self._like_checked.check(*features) else None  # type: ignore[return-value]

    def _check_gradients(self, taps: Sequence[TapFeatures]) -> None:
        """Raise RuntimeError, and keep what was recorded, if there cannot be the gradients that the measure reads."""
        compiled = next((tap.group for tap in taps if tap.compiled), None)
        if compiled is not None:
            raise RuntimeError(
                f"{self._gradients!r} reads gradients of features, and code compiled by torch.compile records none, as "
                f"that of the consumer of group {compiled!r}: do not compile this network, or choose a measure that "
                "reads no gradients of features"
            )
        waiting = [tap for tap in taps if tap.waiting]
        if waiting and not any(tap.trained or tap.unmarked for tap in waiting):
            raise RuntimeError(
                f"{self._gradients!r} reads gradients of features, and no backward of a loss has reached the features "
                f"of group {waiting[0].group!r}: run the backward before the update"
            )

    def check(self) -> None:
        """Raise the errors of `take` for what was recorded so far, without taking it; missing features are no error."""
        self.check_open()
        if self._like_checked is not None and not self._other_layouts:
            latest = [None if tap.pending is None else tap.pending[0] for tap in self.taps]
            alone = all(tap.pending is not None and tap.pending[2] is None and not tap.settled for tap in self.taps)
            if alone and self._like_checked.check(*latest):
                return
        per_tap = [tap.recorded() for tap in self.taps]
        if [_kind(each) for each in per_tap] != self._checked:
            check_features(per_tap, self._readers, given=False)
        for number, slot, tap in self._other_layouts:
            check_features([tap.recorded()], [(self._readers[number][0], slot)], given=False)

    def recheck(self) -> None:
        """Check the next features in full: the network has moved to another device or dtype."""
        self._checked, self._like_checked = [], None

    @property
    def waiting(self) -> bool:
        """True if any forward was recorded since the last update."""
        for tap in self._all_taps:  # noqa: SIM110  # a generator takes longer
            if tap.waiting:
                return True
        return False

    @property
    def trained(self) -> bool:
        """True if a backward has reached a recorded feature, or if this cannot be seen (in compiled code)."""
        return any(tap.trained or tap.unmarked for tap in self._all_taps if tap.waiting)

    def weights(self) -> list[Tensor]:
        """The incoming weights of all groups."""
        return [slot.weight for group in self._groups for slot in group.incoming]

    def clear(self) -> None:
        """Forget what was recorded."""
        self.gradient_scale = None
        for tap in self._all_taps:
            tap.forget()

    def require_backward(self) -> None:
        """From now on count only features that a training backward has reached, or of which this cannot be seen."""
        self._only_trained = True

    def after_backward(self, *, restarted: bool) -> None:
        """Call `TapFeatures.after_backward` of each tap."""
        for tap in self._all_taps:
            tap.after_backward(restarted=restarted)

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
        self.close()
        return other

    def by_group(self) -> list[GroupFeatures]:
        """The taps of each group."""
        numbers = [number for number, group in enumerate(self._groups) for _ in group.taps]
        taps: list[list[TapFeatures]] = [[] for _ in self._groups]
        for number, tap in [*enumerate(self.taps), *((number, tap) for number, _, tap in self._other_layouts)]:
            taps[numbers[number]].append(tap)
        return [GroupFeatures(each) for each in taps]

    def check_open(self) -> None:
        """Raise RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("this engine is closed and its hooks are removed; build a new GnT to continue")

    def check_recording(self) -> None:
        """Raise ValueError if features are not recorded by hooks."""
        self.check_open()
        if not self._record:
            raise ValueError("this engine does not record features (record=False): pass them to GnT.step")

    def stop_recording(self) -> None:
        """Remove the hooks and forget what they recorded."""
        _remove(self._subscriptions)
        self.clear()

    def close(self) -> None:
        """Stop recording, and refuse further calls of `take`."""
        self.stop_recording()
        self._closed = True

    def __getstate__(self) -> dict[str, Any]:
        own = {name: value for name, value in self.__dict__.items() if name not in _NOT_COPIED}
        return {**own, "_like_checked": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def _remove(subscriptions: Sequence[Subscription]) -> None:
    for subscription in subscriptions:
        subscription.remove()


def _has_gradients(group: UnitGroup) -> bool:
    """True if a weight that reads or produces the units has a gradient."""
    return any(slot.weight.grad is not None for slot in (*group.incoming, *group.outgoing))


def _recognize(plain: Sequence[Tensor | None]) -> TensorGuards | None:
    """The check that recognizes features with the layouts of these; None if some are missing or not strided."""
    features = [feature for feature in plain if feature is not None and feature.layout is torch.strided]
    return layout_check(features) if len(features) == len(plain) else None


def _kind(features: Sequence[Any]) -> Any:
    """Shape, dtype and device of the only feature, if it is a plain tensor; otherwise None."""
    return _KIND(features[0]) if len(features) == 1 and features[0].__class__ is Tensor else None


def _consumers(group: UnitGroup, tap: Slot) -> list[Slot]:
    """The consumers that read the value of a tap, each module once."""
    return list({id(slot.module): slot for slot in reversed(group.outgoing) if slot.tap == tap.tap}.values())[::-1]


def _same_layout(slot: Slot, other: Slot) -> bool:
    """True if the inputs of two consumers hold the units at the same positions."""
    layouts = [
        (isinstance(each.module, CONV_LAYERS) and each.weight.ndim, each.width, each.block, each.offset)
        for each in (slot, other)
    ]
    if slot.positions is None or other.positions is None:
        return layouts[0] == layouts[1] and slot.positions is other.positions
    return layouts[0] == layouts[1] and bool(slot.positions.equal(other.positions))
