"""The taps of all groups of an engine, and their subscription to the hooks that record what consumers read.

A feature is a consumer's *input*: after activation, norm, pooling, dropout and flatten. Only forwards in training mode
with grad enabled are recorded.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gnt._utils.dynamo import watch_hooks
from gnt.importance._feature_recording import Subscription, subscribe
from gnt.importance._tap_features import GroupFeatures, TapFeatures
from gnt.units import CONV_LAYERS, Slot, UnitGroup

_NOT_COPIED = ("taps", "_all_taps", "_numbered_taps", "_other_layouts", "_subscriptions")  # made by _start


class RecordedTaps:
    """The taps of ``groups``, which keep features until they are taken.

    With ``record``, forward pre-hooks on all consumers record what they read; several readers of one network share
    them. Hooks are not copied: in a copied or unpickled network they do nothing, and a copied engine registers others.

    Args:
        groups: the unit groups.
        record: record features by hooks; otherwise features are added to ``taps``.
        gradients: name of the measure that reads gradients of features; "" if these are not recorded.
        may_rest: updates that a group's state does not measure take no features of it; without, all are measured.

    Attributes:
        taps: the features of each tap; a group has one tap for each different value that its consumers read.
        is_simple: each tap has one layout, and its features are recorded without gradients.
        may_rest: as given.
        requires_backward: `require_backward` was called.
    """

    taps: Sequence[TapFeatures]
    is_simple: bool

    def __init__(self, groups: Sequence[UnitGroup], *, record: bool, gradients: str, may_rest: bool) -> None:
        self._groups, self._record, self._gradients = groups, record, gradients
        self.may_rest = may_rest
        self._readers = [(group, slot) for group in groups for slot in group.taps]
        self._closed = self.requires_backward = False
        self._start()

    def _start(self) -> None:
        """Create the taps, and subscribe them to the hooks."""
        consumers = [_consumers(group, slot) for group, slot in self._readers]
        self.taps = [
            self._new_tap(group, several_consumers=len(slots) > 1)
            for (group, _), slots in zip(self._readers, consumers, strict=True)
        ]
        # consumers of a tap whose input holds the units at other positions than that of its first consumer
        self._other_layouts: list[tuple[int, Slot, TapFeatures]] = []
        self._all_taps = self.taps
        self._subscriptions: list[Subscription] = []
        self.is_simple = not self._gradients
        if self._record and not self._closed:
            self._subscribe(consumers)
        groups = [number for number, group in enumerate(self._groups) for _ in group.taps]
        # all taps, each with the number of its group
        self._numbered_taps = [*zip(groups, self.taps, strict=True)]
        self._numbered_taps += [(groups[number], tap) for number, _, tap in self._other_layouts]

    def _new_tap(self, group: UnitGroup, *, several_consumers: bool = False) -> TapFeatures:
        return TapFeatures(
            group.name,
            several_consumers=several_consumers,
            gradients=bool(self._gradients),
            rests=(lambda: not group.state.measures_next) if self.may_rest else None,
            skips_frozen=self.requires_backward and _is_trained(group),
        )

    def require_backward(self) -> None:
        """From now on forwards that run while the layers of their group are frozen are not recorded.

        No backward trains the units by them, as where a critic is frozen while the actor's loss runs through it.
        """
        self.requires_backward = True
        for number, tap in self._numbered_taps:
            tap.skips_frozen = _is_trained(self._groups[number])

    def _subscribe(self, consumers: Sequence[Sequence[Slot]]) -> None:
        """Record what the consumers of each tap read."""
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

    @property
    def all_taps(self) -> Sequence[TapFeatures]:
        """`taps`, and those of consumers with another layout than the first of their tap."""
        return self._all_taps

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
        for tap in self._all_taps:
            tap.forget()

    def after_backward(self, *, restarted: bool) -> None:
        """Call `TapFeatures.after_backward` of each tap."""
        for tap in self._all_taps:
            tap.after_backward(restarted=restarted)

    def by_group(self) -> list[GroupFeatures]:
        """The taps of each group."""
        taps: list[list[TapFeatures]] = [[] for _ in self._groups]
        for number, tap in self._numbered_taps:
            taps[number].append(tap)
        return [GroupFeatures(each) for each in taps]

    def check_open(self) -> None:
        """Raise RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError(
                "this object is closed and its hooks are removed; build a new GnT or Importance to continue"
            )

    def check_recording(self) -> None:
        """Raise ValueError if features are not recorded by hooks."""
        self.check_open()
        if not self._record:
            raise ValueError(
                "this object does not record features (record=False): pass them to GnT.step or Importance.update"
            )

    def stop_recording(self) -> None:
        """Remove the hooks and forget what they recorded."""
        _remove(self._subscriptions)
        self.clear()

    def close(self) -> None:
        """Stop recording, and refuse further use."""
        self.stop_recording()
        self._closed = True

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def _is_trained(group: UnitGroup) -> bool:
    """False for a group whose weights are all frozen: its features are read for other ends than training."""
    return any(slot.weight.requires_grad for slot in (*group.incoming, *group.outgoing))


def _remove(subscriptions: Sequence[Subscription]) -> None:
    for subscription in subscriptions:
        subscription.remove()


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
