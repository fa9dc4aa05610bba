"""The features of all groups of an engine: recorded by hooks or given by the caller, checked, and taken once per
update.

A feature is a consumer's *input*: after activation, norm, pooling, dropout and flatten. Only forwards in training mode
with grad enabled are recorded. Several forwards before one update (gradient accumulation) count as one batch of their
samples.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gnt._utils.dynamo import watch_hooks
from gnt.importance._feature_recording import RecordingHook, TapFeatures
from gnt.importance._statistics import GroupStatistics, TapStatistics
from gnt.importance._validation import check_feature_count, check_recorded
from gnt.units import UnitGroup

Features = Sequence[Tensor | Sequence[Tensor]]  # as a user gives them


class FeatureBatch:
    """The features of one update, for all groups, checked.

    Attributes:
        per_tap: for each tap the features of its forwards.
        plain: for each tap its only feature, if there is exactly one and it is a plain, non-empty tensor; else None.
        empty: True if no group has any samples (an empty last batch).
    """

    def __init__(self, groups: Sequence[UnitGroup], per_tap: list[list[Tensor]], plain: list[Tensor | None]) -> None:
        self._groups, self.per_tap, self.plain = groups, per_tap, plain
        self._statistics: list[GroupStatistics] | None = None
        self.empty = False

    @property
    def statistics(self) -> list[GroupStatistics]:
        """For each group the statistics of its features; created on first use."""
        if self._statistics is None:
            taps = iter(self.per_tap)
            self._statistics = [
                GroupStatistics(TapStatistics(next(taps), slot, group.state.utility.dtype) for slot in group.taps)
                for group in self._groups
            ]
        return self._statistics

    def check_sizes(self) -> None:
        """Set ``empty``; raise ValueError if only some groups have no samples."""
        empty = [not group.size for group in self.statistics]
        self.empty = all(empty)
        if any(empty) and not self.empty:
            name = self._groups[empty.index(True)].name
            raise ValueError(f"features of group {name!r} have no samples, but those of other groups have")


class FeatureBuffer:
    """Collects the features of ``groups`` until the next update takes them.

    With ``record``, a forward pre-hook on the first consumer of each tap records what it reads. Hooks are not copied:
    in a copied or unpickled network they do nothing, and a copied engine registers hooks of its own.

    Args:
        groups: the unit groups.
        record: record features by hooks; otherwise features are given to `take`, or added to ``taps``.

    Attributes:
        taps: the features of each tap; a group has one tap for each different value that its consumers read.
    """

    def __init__(self, groups: Sequence[UnitGroup], *, record: bool) -> None:
        self._groups, self._record = groups, record
        self._readers = [(group, slot) for group in groups for slot in group.taps]
        self._checked: list[Any] = []  # shape, dtype and device of the features that were checked last
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._handles: list[RemovableHandle] = []
        if self._closed or not self._record:
            self.taps: Sequence[TapFeatures] = [TapFeatures(group.name) for group, _ in self._readers]
            return
        hooks = [RecordingHook(group.name) for group, _ in self._readers]
        for (_, slot), hook in zip(self._readers, hooks, strict=True):
            hook.register(slot.module)
            self._handles.append(hook.handle)
        self.taps = hooks
        watch_hooks()
        weakref.finalize(self, _remove, self._handles)

    def take(self, features: Features | None = None) -> FeatureBatch:
        """Return the features recorded since the last call, or the given ones, and forget what was recorded.

        Args:
            features: for each tap a tensor, or a list of tensors from several forwards.

        Raises:
            RuntimeError: nothing was recorded for a group, or the buffer is closed.
            TypeError, ValueError: features that do not fit the groups.
        """
        self.check_open()
        per_tap = [tap.take() for tap in self.taps]
        if features is not None:
            check_feature_count(features, self._readers)
            given: list[Any] = list(features)
            per_tap = [list(each) if isinstance(each, (list, tuple)) else [each] for each in given]
        plain: list[Tensor | None] = []
        kinds: list[Any] = []
        for each in per_tap:
            feature = each[0] if len(each) == 1 and each[0].__class__ is Tensor else None
            kinds.append(None if feature is None else (feature.shape, feature.dtype, feature.device))
            plain.append(feature if feature is not None and feature.numel() else None)
        if kinds != self._checked:
            check_recorded(per_tap, self._readers)
            self._checked = kinds if None not in kinds else []
        batch = FeatureBatch(self._groups, per_tap, plain)
        if None in plain:
            batch.check_sizes()
        return batch

    def recheck(self) -> None:
        """Check the next features in full: the network has moved to another device or dtype."""
        self._checked = []

    @property
    def waiting(self) -> bool:
        """True if any forward was recorded since the last update."""
        return any(tap.waiting for tap in self.taps)

    @property
    def complete(self) -> bool:
        """True if `take` would find features for every group.

        A reentrant activation checkpoint records its features only during the backward.
        """
        return not self._record or all(tap.waiting for tap in self.taps)

    def clear(self) -> None:
        """Forget what was recorded."""
        for tap in self.taps:
            tap.take()

    def track_abandoned(self) -> None:
        """From now on keep track of forwards whose graph is freed without a backward; see `drop_abandoned`."""
        for tap in self.taps:
            tap.track_abandoned = True

    def drop_abandoned(self) -> None:
        """Forget the features of forwards whose graph was freed without a backward."""
        for tap in self.taps:
            tap.drop_abandoned()

    def after_backward(self, *, restarted: bool) -> None:
        """Call `TapFeatures.after_backward` of each tap."""
        for tap in self.taps:
            tap.after_backward(restarted=restarted)

    def rebound(self, groups: Sequence[UnitGroup]) -> FeatureBuffer:
        """A buffer of the same kind for other groups; this one is closed."""
        other = FeatureBuffer(groups, record=self._record)
        self.close()
        return other

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
        _remove(self._handles)
        self.clear()

    def close(self) -> None:
        """Stop recording, and refuse further calls of `take`."""
        self.stop_recording()
        self._closed = True

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("taps", "_handles")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def _remove(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
