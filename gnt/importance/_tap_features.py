"""TapFeatures: the features that one reader keeps of one tap, until its next update.

Under `torch.compile` recording is part of the compiled code. Features are kept as a linked list, which is extended
without being read, so compiled code does not depend on how many features are waiting: no recompilation and no graph
break. Compiled code records no marks, so its features count whether or not a backward has reached them.

A feature shares memory with what the consumer has read. Its version, which each in-place operation increments, shows
whether it still is that; autograd shows it only if it needs the value itself, and not a copy in another dtype
(autocast). If it was overwritten, it does not count, and copies are kept from the next forward on.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from gnt._utils.stack_level import user_level
from gnt.importance._feature_entries import (
    Entry,
    LinkedList,
    counting,
    entries,
    gradient_of,
    is_intact,
    without_duplicates,
)
from gnt.importance._training_forwards import BackwardMark, OwnWeights, PastBackward

MANY_FORWARDS = 1000  # warn once when this many forwards are waiting

_ANY_VERSION = -1  # of features that are not compared


class TapFeatures:
    """The features of one tap, one tensor per forward, until the next update takes them.

    Consumers that read the same value in one forward record it once.

    Args:
        group: name of the unit group, for messages.
        several_consumers, gradients: the attributes.
        rests: tells whether the next update does not measure this tap; None: each update does.
        skips_frozen: forwards that run while the weights that produce and read the units are frozen are not recorded.

    Attributes:
        several_consumers: several consumers read the values of this tap.
        gradients: the gradients of the features are kept; `take` stores them in ``feature.grad``.
        rests, skips_frozen: as given.
        compiled: a forward was recorded by code that `torch.compile` has compiled, which records no gradients.
        recorded_in_forward: a forward was recorded while it ran, not while it was recomputed in a backward.
        settled: features, with their marks, of earlier backwards of this step.
        pending: features that no backward has reached so far, as a linked list.
        copies: features are to be copied when they are recorded, because some were overwritten.
        overwritten: features that `take` was to return the last time were overwritten.

    >>> import torch
    >>> features = TapFeatures("0")
    >>> features.add(torch.ones(2, 3)), features.add(torch.zeros(1, 3))
    (None, None)
    >>> [tuple(feature.shape) for feature in features.take()], features.waiting
    ([(2, 3), (1, 3)], False)
    """

    def __init__(
        self,
        group: str,
        *,
        several_consumers: bool = False,
        gradients: bool = False,
        rests: Callable[[], bool] | None = None,
        skips_frozen: bool = False,
    ) -> None:
        self.group, self.gradients, self.rests = group, gradients, rests
        self.skips_frozen = skips_frozen
        self._noted = self._noted_settled = False  # forwards that are not recorded; whether a backward has run for one
        self.several_consumers = several_consumers
        self.settled: list[Entry] = []
        self.pending: LinkedList = None
        self._latest: weakref.ref[Tensor] | None = None  # with several consumers: the tensor that was recorded last
        self._copied: dict[int, Tensor] = {}  # by the id of a copy: what it is a copy of
        self.copies = self.overwritten = False
        self.recorded_in_forward = self.compiled = False
        self._count = 0

    @property
    def resting(self) -> bool:
        """True if the next update does not measure this tap: that a forward ran is noted, and nothing recorded."""
        return self.rests is not None and self.rests()

    def note_forward(self) -> None:
        """Note that a forward ran, for an update that does not measure this tap."""
        self._noted = True

    @property
    def only_noted(self) -> bool:
        """True if a forward was noted, and none recorded."""
        return (self._noted_settled or self._noted) and self.pending is None and not self.settled

    def take_note(self) -> bool:
        """True if a forward was noted, or recorded by compiled code; forgets all."""
        noted = self._noted or self._noted_settled
        return bool(self.take()) or noted

    def is_latest(self, feature: Tensor, own: OwnWeights, view: Tensor | None) -> bool:
        """True if another consumer has just read this value; its mark then shows the backward of both.

        Args:
            feature: what the consumer reads.
            own: the weights of this consumer and of the producers.
            view: the view of the value that this consumer reads, if some reader keeps gradients.
        """
        if self._latest is not None and self._latest() is feature and self.pending is not None:
            if self.pending[1] is not None:
                self.pending[1].add_reader(own, view)
            return True
        self._latest = weakref.ref(feature)
        return False

    def add(self, feature: Tensor, mark: BackwardMark | PastBackward | None = None) -> None:
        """Keep the detached feature of one forward, and its mark."""
        if self.copies:
            copy = feature.clone()
            if self.several_consumers:
                self._copied[id(copy)] = feature
            feature = copy
        self.pending = (feature, mark, self.pending, _version_of(feature))
        self._count += 1
        if self._count == MANY_FORWARDS:
            warnings.warn(
                f"{MANY_FORWARDS} forwards of the consumer of group {self.group!r} are waiting for an update: call "
                "GnT.step() or Importance.update() after each optimizer step, or close() the object that reads them",
                stacklevel=4,
            )

    def add_compiled(self, feature: Tensor) -> None:
        """Keep the detached feature of a forward that `torch.compile` compiles."""
        self.pending = (feature.clone() if self.copies else feature, None, self.pending, _ANY_VERSION)
        self.recorded_in_forward = self.compiled = True

    def take(self, *, only_trained: bool = False) -> list[Tensor]:
        """Return the waiting features that count, oldest first, and forget all.

        Args:
            only_trained: leave out features that no training backward has reached; otherwise only those that were
                differentiated with respect to inputs only.
        """
        pending, settled, copied = self.pending, self.settled, self._copied
        self.forget()
        # one forward, as in most steps
        if pending is None and len(settled) == 1 and is_intact(settled[0]):
            feature, mark, _ = settled[0]
            if self.gradients and mark is not None:
                feature.grad = gradient_of(feature, mark)
            return [feature]
        counted = counting(settled + entries(pending), only_trained)
        intact = [entry for entry in counted if is_intact(entry)]
        if len(intact) < len(counted):
            self._note_overwritten()
        if self.gradients:
            for feature, mark, _ in intact:
                feature.grad = None if mark is None else gradient_of(feature, mark)
        features = [feature for feature, *_ in intact]
        return without_duplicates(features, copied) if self.several_consumers else features

    def _note_overwritten(self) -> None:
        """Copy features from now on, as some that were recorded do not have their values any more."""
        self.overwritten = self.copies = True
        warnings.warn(
            f"features of group {self.group!r} were overwritten in place after their consumer has read them (by "
            "ReLU(inplace=True) or h += x, for example), and are left out of this update. From the next forward on "
            "they are copied; an operation that is not in place saves the copies",
            stacklevel=user_level(),
        )

    def only_forward(self) -> Tensor | None:
        """The feature of the only forward that is waiting, if it counts; otherwise None. Nothing is forgotten."""
        pending, settled = self.pending, self.settled
        feature: Tensor
        mark: BackwardMark | PastBackward | None
        version: int
        if pending is None:
            if len(settled) != 1:
                return None
            feature, _, version = settled[0]
        else:
            feature, mark, before, version = pending
            if before is not None or settled or not (mark is None or mark.trained):
                return None
        return feature if version < 0 or feature._version == version else None

    def forget(self) -> None:
        """Forget all waiting features."""
        self.settled, self.pending, self._latest, self._count, self._copied = [], None, None, 0, {}
        self.overwritten = False
        self.recorded_in_forward = self.compiled = self._noted = self._noted_settled = False

    def recorded(self) -> list[Tensor]:
        """All waiting features, oldest first."""
        if not self.settled and self.pending is not None and self.pending[2] is None:  # one forward
            return [self.pending[0]]
        return [feature for feature, *_ in self.settled + entries(self.pending)]

    def recorded_gradients(self) -> list[Tensor | None]:
        """The gradients of all waiting features, oldest first, as far as a backward has reached them."""
        waiting = self.settled + entries(self.pending)
        return [None if mark is None else gradient_of(feature, mark) for feature, mark, _ in waiting]

    @property
    def waiting(self) -> bool:
        """True if at least one feature is waiting."""
        return self.pending is not None or bool(self.settled) or self._noted or self._noted_settled

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Inside this context all forwards are recorded, also if the next update does not measure this tap.

        At the end they are forgotten, and what was waiting before waits again.
        """
        before = dict(self.__dict__)
        self.forget()
        self.rests = None
        try:
            yield
        finally:
            self.__dict__.update(before)

    @property
    def awaits_backward(self) -> bool:
        """True if a forward is waiting, recorded or noted, for which no backward has run."""
        return self.pending is not None or self._noted

    @property
    def trained(self) -> bool:
        """True if a training backward is known to have reached a waiting feature."""
        pending = self.pending
        while pending is not None:
            _, mark, pending, _ = pending
            if mark is not None and mark.trained:
                return True
        if self._noted_settled:
            return True
        return bool(self.settled) and any(mark is not None for _, mark, _ in self.settled)

    @property
    def unmarked(self) -> bool:
        """True if a feature (or a note) is waiting of which it cannot be seen whether a backward has reached it."""
        return self._noted or any(mark is None for _, mark, _ in self.settled + entries(self.pending))

    def after_backward(self, *, restarted: bool) -> None:
        """Note that a backward has run for the pending features.

        Args:
            restarted: gradients were zeroed or replaced before this backward, so features of earlier backwards belong
                to an abandoned step; they are forgotten.
        """
        if restarted:
            self.settled, self._noted_settled = [], False
        if self._noted:
            self._noted, self._noted_settled = False, True
        pending = self.pending
        if pending is None:
            return
        if pending[2] is None:  # one forward, as in most steps
            feature, mark, _, version = pending
            if mark is None or mark.trained:
                self.settled.append((feature, mark, version))
                self.pending = None
            return
        waiting, self.pending = entries(self.pending), None
        for feature, mark, version in waiting:
            if mark is None or mark.trained:
                self.settled.append((feature, mark, version))
            else:
                self.pending = (feature, mark, self.pending, version)


class GroupFeatures:
    """The taps of one group."""

    def __init__(self, taps: Sequence[TapFeatures]) -> None:
        self.taps = taps

    def after_backward(self, *, restarted: bool) -> None:
        """Call `TapFeatures.after_backward` of each tap."""
        for tap in self.taps:
            tap.after_backward(restarted=restarted)

    def clear(self) -> None:
        """Forget what was recorded."""
        for tap in self.taps:
            tap.forget()


def _version_of(feature: Tensor) -> int:
    """The number of in-place operations on the memory of a feature."""
    try:
        return feature._version
    except RuntimeError:  # an inference tensor
        return _ANY_VERSION
