"""Watch: the engine's update as a part of the graph: what the features say of each unit, and the running averages.

The measures are those of `gnt.utility`, on features that the engine itself records; only the running averages are
written here once more, because in a graph nothing is added in place and the number of updates is a tensor. What is
known on the host (how many units are eligible, what is due) stays there.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gnt.distributed._process_group import Ranks
from gnt.importance._running import Averages
from gnt.importance._signals import Signals
from gnt.importance._validation import check_measured
from gnt.learners._compile.decompositions import column_means
from gnt.units import Slot

if TYPE_CHECKING:
    from gnt.learners._compile.tensor_slots import Sites
    from gnt.replacement.engine import GnT

_TALL = 64  # rows
_KEPT = ("utility", "mean_features", "born", "last_active", "nonfinite")


class TracedState(Averages):
    """A group's state as a measure sees it in a graph: as `gnt.state.UnitState`, with ``updates`` as a tensor."""

    def __init__(self, state: Any, tensors: Sequence[Tensor], updates: Tensor) -> None:
        self.num_units, self.decay_rate, self.averaged = state.num_units, state.decay_rate, state.averaged
        self.corrected = state.corrected
        self.utility, self.mean_features, self.born, self.last_active, self.nonfinite = tensors
        self.updates = updates

    def lies_with(self, like: Tensor) -> bool:
        """The network does not move while it is traced."""
        return True

    def advanced(self, mean: Tensor, worth: Tensor, finite: Tensor, updates: Tensor, *, counts: bool) -> list[Tensor]:
        """The state after an update, as `FlatState.advance` leaves it. Where not ``finite`` it stays as it is, or, if
        that ``counts``, the corrected averages stay.
        """
        amount = 1.0 - self.decay_rate
        if counts:
            correction = self.correction(self.age)
            mean = torch.where(finite, mean, self.mean_features / correction)
            worth = torch.where(finite, worth, self.utility / correction if self.corrected else self.utility)
        utility = torch.lerp(self.utility, worth, amount) if self.averaged else worth
        mean_features = torch.lerp(self.mean_features, mean, amount)
        last_active = torch.where((mean != 0).any(0) & finite, updates, self.last_active)
        if not counts:
            utility = torch.where(finite, utility, self.utility)
            mean_features = torch.where(finite, mean_features, self.mean_features)
        return [utility, mean_features, self.born, last_active, self.nonfinite + ~finite if counts else self.nonfinite]


class TracedSignals(Signals):
    """As `Signals`; the columns of large matrices are summed as compiled code does it best."""

    @functools.cached_property
    def outgoing_magnitudes(self) -> list[Tensor]:
        """As of `Signals`."""
        return [_column_magnitudes(slot) for slot in self.group.outgoing]


def _column_magnitudes(slot: Slot) -> Tensor:
    weight = slot.weight.detach()
    if weight.ndim != 2 or slot.dim != 1 or slot.groups > 1 or len(weight) < _TALL:
        return slot.mean_magnitude()
    wide = torch.promote_types(weight.dtype, torch.float32)
    return slot.of_units(column_means(weight.abs().to(wide)), 0)


class Watch:
    """One engine's part of the graph; a subclass may do it for an engine that does more.

    What it adds to the graph's inputs: `tensors`, and what `draw` gives in each step.
    """

    def __init__(self, engine: GnT) -> None:
        self.engine = engine
        self.states: list[TracedState] = []

    def check(self) -> None:
        """Refuse what a graph would leave out."""
        if Ranks.group_of(self.engine.process_group) is not None:
            raise RuntimeError(
                "compile=True is for one process, and torch.distributed runs several: leave compile=False, or, where "
                "each trains a network of its own, pass process_group=False"
            )

    @property
    def structure(self) -> tuple[Any, ...]:
        """What of the engine is built into a graph."""
        return self.engine.utility, self.engine.decay_rate

    def tensors(self) -> list[Tensor]:
        """The state of all groups, as it is now."""
        return [getattr(group.state, name) for group in self.engine.groups for name in _KEPT]

    def draw(self) -> list[Tensor]:
        """The worth of each group's units, where the measure reads nothing of the network: it is drawn."""
        if self.engine.measure.reads:
            return []
        signals = self.engine.signals([()] * len(self.engine.groups))  # type: ignore[arg-type]
        return [self.engine.measure.function(each).to(each.group.state.utility.dtype) for each in signals]

    def add_sites(self, sites: Sites) -> None:
        """What of the groups must be traced too: positions of scattered units."""
        for group in self.engine.groups:
            for slot in (*group.incoming, *group.outgoing):
                if slot.positions is not None:
                    sites.add(slot.positions, (slot.__dict__, "positions"))

    def hang(self, traced: Sequence[Tensor], updates: Tensor) -> None:
        """Give the groups traced states; `unhang` gives them their own ones again."""
        parts = [traced[i : i + len(_KEPT)] for i in range(0, len(traced), len(_KEPT))]
        self._own = [group.state for group in self.engine.groups]
        self.states = [TracedState(s, tensors, updates) for s, tensors in zip(self._own, parts, strict=True)]
        for group, state in zip(self.engine.groups, self.states, strict=True):
            group.__dict__["state"] = state

    def unhang(self) -> None:
        """Undo `hang`."""
        for group, state in zip(self.engine.groups, self._own, strict=True):
            group.state = state

    def update(self, prepared: Any, drawn: Sequence[Tensor], ok: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """The states after this update, and which groups were finite, (groups,).

        Where the loss may be refused (``ok``: it was not) nobody's state changes unless all groups are finite.
        """
        engine, tested = self.engine, []
        for number, (group, batch) in enumerate(zip(engine.groups, prepared, strict=True)):
            signals = TracedSignals(group, batch, engine.generator, engine.measure.reads)
            mean = signals.mean
            worth = drawn[number] if drawn else engine.measure.function(signals)
            check_measured(worth, signals.group, engine.utility)
            worth = worth.to(mean.dtype)
            tested.append((mean, worth, torch.isfinite(mean + worth).all()))
        finite = torch.stack([each for *_, each in tested])
        every = None if ok is None else finite.all() & ok
        after = []
        for state, (mean, worth, own) in zip(self.states, tested, strict=True):
            updates = state.updates + 1
            after += state.advanced(mean, worth, own if every is None else every, updates, counts=every is None)
        return after, finite

    def follow_up(self) -> list[Tensor]:
        """The host's part of an update, and what is due replaced: indices for each group."""
        return self.engine.after_traced_update()
