"""Intake: an engine's features, given or recorded, checked and arranged before anything is changed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gnt.importance._feature_buffer import Waiting
from gnt.importance._recorder import Batch, Reading, Recorder
from gnt.importance._validation import check_feature_count, check_recorded
from gnt.units import UnitGroup

Features = Sequence[Tensor | Sequence[Tensor]]


class Prepared(tuple[Batch, ...]):
    """Features of all groups, checked and arranged. ``empty``: no samples, an empty remainder batch."""

    empty = False


def _kind(seen: Sequence[Any]) -> Any:
    """What the checks of a feature look at; None where it is not one plain tensor."""
    if len(seen) != 1 or seen[0].__class__ is not Tensor:
        return None
    return seen[0].shape, seen[0].dtype, seen[0].device


class Intake:
    """Takes features for ``groups`` from their caller or, with ``record``, from hooks of its own.

    Hooks do not travel: a copy hangs up new ones on its own network.
    """

    def __init__(self, groups: Sequence[UnitGroup], *, record: bool) -> None:
        self._groups = groups
        self._taps = [(group, slot) for group in groups for slot in group.taps]
        self._checked: list[Any] = []  # what features were like when they were last looked at closely
        self._record = record
        self._closed = False
        self._recorder = Recorder(groups) if record else None

    def prepare(self, features: Features | None) -> Prepared:
        """Check what was given, or recorded since the last call, and arrange it."""
        self.check_open()
        recorded = self._recorder.take() if self._recorder is not None else [[] for _ in self._taps]
        if features is not None:
            check_feature_count(features, self._taps)
            several: list[Any] = list(features)
            recorded = [list(given) if isinstance(given, (list, tuple)) else [given] for given in several]
        if [_kind(seen) for seen in recorded] != self._checked:
            check_recorded(recorded, self._taps)
            kinds = [_kind(seen) for seen in recorded]
            self._checked = kinds if None not in kinds else []
        readings = [
            Reading(seen, slot, group.state.utility.dtype)
            for (group, slot), seen in zip(self._taps, recorded, strict=True)
        ]
        if len(readings) == len(self._groups):
            prepared = Prepared([Batch((reading,)) for reading in readings])
        else:
            rest = iter(readings)
            prepared = Prepared(Batch(itertools.islice(rest, len(group.taps))) for group in self._groups)
        if 0 in [reading.size for reading in readings]:
            prepared.empty = not any(batch.size for batch in prepared)
            if not prepared.empty:
                name = next(g.name for g, batch in zip(self._groups, prepared, strict=True) if not batch.size)
                raise ValueError(f"features of group {name!r} have no samples, those of other groups have")
        return prepared

    def forget_checks(self) -> None:
        """Look at the next features again: the network has moved."""
        self._checked = []

    @property
    def waiting(self) -> bool:
        """Whether any forward was recorded since the last update."""
        return self._recorder is not None and self._recorder.waiting

    @property
    def taps(self) -> Sequence[Waiting]:
        """For each tap what waits there; none, where features are not recorded."""
        return self._recorder.taps if self._recorder is not None and not self._closed else ()

    @property
    def complete(self) -> bool:
        """Whether `prepare` finds features of every group; what a reentrant checkpoint holds comes in the backward."""
        return self._recorder is None or self._recorder.complete

    def check_recording(self) -> None:
        """Refuse to act by hooks on features that must be given."""
        self.check_open()
        if self._recorder is None:
            raise ValueError("this engine does not record features (record=False): give them to GnT.step yourself")

    def after_backward(self, *, anew: bool) -> None:
        """As `Recorder.after_backward`."""
        if self._recorder is not None:
            self._recorder.after_backward(anew=anew)

    def witness(self) -> None:
        """As `Recorder.witness`."""
        if self._recorder is not None:
            self._recorder.witness()

    def forget_given_up(self) -> None:
        """As `Recorder.forget_given_up`."""
        if self._recorder is not None:
            self._recorder.forget_given_up()

    def discard(self) -> None:
        """Forget what was recorded."""
        if self._recorder is not None:
            self._recorder.take()

    def check_open(self) -> None:
        """Refuse to go on after `close`."""
        if self._closed:
            raise RuntimeError("this engine is closed: its hooks are gone; build a new GnT to go on")

    def stop_recording(self) -> None:
        """Record no more, without being closed."""
        if self._recorder is not None:
            self._recorder.close()

    def close(self) -> None:
        """Remove the hooks."""
        if self._recorder is not None:
            self._recorder.close()
        self._closed = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recorder": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._record and not self._closed:
            self._recorder = Recorder(self._groups)
