"""FunctionalUpdate: the engine's update of all groups, as a part of the graph.

Measures and features are those of the eager engine. Only the running averages are computed here in another form: in a
graph nothing is changed in place, and the number of updates is a tensor. What the host knows (how many units are
eligible, which are due) stays on the host.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gnt.importance import AgedAverages, FeatureBatch, Signals, check_measured
from gnt.learners._compile.decompositions import column_means
from gnt.learners._compile.tensor_slots import TensorSlots
from gnt.replacement import GnT
from gnt.units import Slot

_BLOCKWISE_ROWS = 64  # matrices with at least as many rows are summed in blocks of rows
_STATE = attrgetter("state")
_STATE_TENSORS = ("utility", "mean_features", "born", "last_active", "nonfinite")


class Participation(NamedTuple):
    """Which groups and taps take part in a step of a compiled graph; the same in each of its steps.

    Attributes:
        absent: numbers of the groups that take no part.
        absent_taps: numbers of a group that takes part, and of its tap that does not.
    """

    absent: frozenset[int] = frozenset()
    absent_taps: tuple[tuple[int, int], ...] = ()


class TracedState(AgedAverages):
    """The state of a group as a measure sees it in a graph: a `UnitState` whose ``updates`` is a tensor."""

    def __init__(self, state: Any, tensors: Sequence[Tensor], updates: Tensor) -> None:
        self.num_units, self.decay_rate, self.averaged = state.num_units, state.decay_rate, state.averaged
        self.corrected, self.measure_every = state.corrected, state.measure_every
        self.measures_next: bool = state.measures_next
        self.utility, self.mean_features, self.born, self.last_active, self.nonfinite, *missed = tensors
        self.missed = missed[0] if missed else None
        self.updates = updates

    def advanced(
        self,
        mean: Tensor,
        measured: Tensor,
        finite: Tensor,
        updates: Tensor,
        *,
        count_nonfinite: bool,
        present: Sequence[bool],
    ) -> list[Tensor]:
        """The state after an update, as the eager engine leaves it.

        Args:
            mean: mean features of this step.
            measured: the measure of this step.
            finite: 0-d bool, whether both are finite. If not, the state does not change or, with ``count_nonfinite``,
                the corrected averages do not.
            updates: number of updates including this one.
            count_nonfinite: count an update that is not finite in ``nonfinite``.
            present: for each tap whether it had features. ``mean`` of others is the running average.
        """
        amount = 1.0 - self.measured_decay
        if count_nonfinite:
            correction = self.correction(self.measured_age)
            mean_correction = self.correction(self.feature_age)
            mean = torch.where(finite, mean, self.mean_features / mean_correction)
            measured = torch.where(finite, measured, self.utility / correction if self.corrected else self.utility)
        utility = torch.lerp(self.utility, measured, amount) if self.averaged else measured
        mean_features = torch.lerp(self.mean_features, mean, amount)
        active = (mean != 0).any(0) if all(present) else (mean[[i for i, p in enumerate(present) if p]] != 0).any(0)
        last_active = torch.where(active & finite, updates, self.last_active)
        nonfinite = self.nonfinite + ~finite if count_nonfinite else self.nonfinite
        if not count_nonfinite:
            utility = torch.where(finite, utility, self.utility)
            mean_features = torch.where(finite, mean_features, self.mean_features)
        state = [utility, mean_features, self.born, last_active, nonfinite]
        return state if self.missed is None else [*state, self.missed]


class TracedSignals(Signals):
    """`Signals` that sum the columns of tall matrices in blocks of rows, which is faster in compiled code."""

    @functools.cached_property
    def outgoing_magnitudes(self) -> list[Tensor]:
        """As in `Signals`."""
        return [_column_magnitudes(slot) for slot in self.group.outgoing]


def _column_magnitudes(slot: Slot) -> Tensor:
    weight = slot.weight.detach()
    if weight.ndim != 2 or slot.dim != 1 or slot.groups > 1 or len(weight) < _BLOCKWISE_ROWS:
        return slot.mean_magnitude()
    wide = torch.promote_types(weight.dtype, torch.float32)
    return slot.of_units(column_means(weight.abs().to(wide)), 0)


class FunctionalUpdate:
    """The update of one engine in a graph. It adds `tensors` and the result of `draw` to the graph's inputs."""

    def __init__(self, engine: GnT) -> None:
        self.engine = engine
        self._states: list[TracedState] = []
        self._known_states: list[Any] = []
        self._holders: list[dict[str, Any]] = []  # of the tensors of these states
        self._names: list[str] = []

    @property
    def constants(self) -> tuple[Any, ...]:
        """The engine's settings that are built into a graph."""
        return self.engine.utility, self.engine.decay_rate

    @property
    def measures_next(self) -> tuple[bool, ...]:
        """Which groups the next step measures; () if each step measures all."""
        if self.engine.measure_every == 1:
            return ()
        return tuple(group.state.measures_next for group in self.engine.groups)

    def tensors(self) -> list[Tensor]:
        """The current state of all groups."""
        states = [*map(_STATE, self.engine.groups)]
        if states != self._known_states:
            self._known_states = states
            slots = [(state.__dict__, name) for state in states for name in _names_of_tensors(state)]
            self._holders, self._names = [holder for holder, _ in slots], [name for _, name in slots]
        return [*map(dict.__getitem__, self._holders, self._names)]

    def updates(self) -> list[int]:
        """The number of updates of each group."""
        return [group.state.updates for group in self.engine.groups]

    def draw(self, participation: Participation) -> list[Tensor]:
        """Utilities of all groups if the measure is random, that is, if it reads nothing of the network."""
        if self.engine.measure.reads:
            return []
        return [
            torch.zeros_like(each.group.state.utility)
            if number in participation.absent or not each.group.state.measures_next
            else self.engine.measure.function(each).to(each.group.state.utility.dtype)
            for number, each in enumerate(self.engine.signals(None))
        ]

    def add_slots(self, slots: TensorSlots) -> None:
        """Add the groups' own tensors that must be traced too: positions of scattered units."""
        for group in self.engine.groups:
            for slot in (*group.incoming, *group.outgoing):
                if slot.positions is not None:
                    slots.add(slot.positions, (slot.__dict__, "positions"))

    @contextlib.contextmanager
    def traced_states(self, tensors: Sequence[Tensor], updates: Tensor) -> Iterator[None]:
        """Give the groups states made of traced tensors inside this context; ``updates`` (groups,)."""
        states, rest = [group.state for group in self.engine.groups], iter(tensors)
        by_group = [[next(rest) for _ in _state_tensors(state)] for state in states]
        self._states = [
            TracedState(s, own, number) for s, own, number in zip(states, by_group, updates.unbind(), strict=True)
        ]
        try:
            for group, traced in zip(self.engine.groups, self._states, strict=True):
                group.__dict__["state"] = traced
            yield
        finally:
            for group, state in zip(self.engine.groups, states, strict=True):
                group.state = state

    def update(
        self, features: FeatureBatch, drawn: Sequence[Tensor], finite_loss: Tensor | None
    ) -> tuple[list[Tensor], Tensor, Participation]:
        """The states after this update, for each group whether it is finite, bool (groups,), and which take part.

        Args:
            features: the features of all groups.
            drawn: the utilities of all groups if the measure is random, otherwise empty.
            finite_loss: 0-d bool; no state changes unless it is True and all groups are finite. None: not checked, and
                a group that is not finite only keeps its own averages.
        """
        engine, absent = self.engine, features.absent
        unmeasured = absent | features.unmeasured
        measurements: dict[int, tuple[Tensor, Tensor, Tensor, list[bool]]] = {}
        absent_taps: list[tuple[int, int]] = []
        for number, (group, statistics) in enumerate(zip(engine.groups, features.statistics, strict=True)):
            if number in unmeasured:
                continue
            signals = TracedSignals(group, statistics, engine.generator, engine.measure.reads)
            mean = signals.mean
            measured = drawn[number] if drawn else engine.measure.function(signals)
            check_measured(measured, signals.group, engine.utility)
            measured = measured.to(mean.dtype)
            measurements[number] = mean, measured, torch.isfinite(mean + measured).all(), signals.present
            absent_taps += [(number, tap) for tap, had_features in enumerate(signals.present) if not had_features]
        nothing_wrong = torch.ones((), dtype=torch.bool, device=self._states[0].utility.device)
        numbers = range(len(engine.groups))
        finite = torch.stack([measurements[n][2] if n in measurements else nothing_wrong for n in numbers])
        all_finite = None if finite_loss is None else finite.all() & finite_loss
        after: list[Tensor] = []
        for number, state in enumerate(self._states):
            if number in unmeasured:
                after += _state_tensors(state)
                continue
            mean, measured, own, present = measurements[number]
            changes, now = own if all_finite is None else all_finite, state.updates + 1
            after += state.advanced(mean, measured, changes, now, count_nonfinite=all_finite is None, present=present)
        return after, finite, Participation(absent, tuple(absent_taps))

    def read_protection(self) -> None:
        """Called before the graph runs, so that an error there leaves all as it was."""
        self.engine.read_protection()

    def finish(self, participation: Participation) -> list[Tensor]:
        """The host's part of an update; selects and replaces what is due. Returns the indices for each group."""
        for number, tap in participation.absent_taps:
            self.engine.groups[number].state.miss(tap)
        return self.engine.after_traced_update(participation.absent)


def _state_tensors(state: Any) -> list[Tensor]:
    return [getattr(state, name) for name in _names_of_tensors(state)]


def _names_of_tensors(state: Any) -> tuple[str, ...]:
    return _STATE_TENSORS if state.missed is None else (*_STATE_TENSORS, "missed")
