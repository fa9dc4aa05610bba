"""Utility: what a unit is worth to the network, measured in one update.

Each measure is a pure function of `Signals` that returns one number a unit; the engine keeps its running average. With
h the feature, f^ its corrected running mean, and mean |w_out|, mean |w_in| over the outgoing and incoming weights:

    contribution             mean |h| * mean |w_out|                              arXiv 2306.13812, Eq. 2
    uncorrected_contribution mean |h| * sum |w_out|                               Nature 632 (2024), Eq. 1
    weight                   mean |w_out|
    adaptation               1 / mean |w_in|                                      arXiv 2306.13812, before Eq. 6
    zero_contribution        mean |h - f^| * mean |w_out|                         arXiv 2306.13812, before Eq. 6
    adaptable_contribution   mean |h - f^| * mean |w_out| / mean |w_in|           arXiv 2306.13812, Eqs. 6-8
    feature_by_input         mean |h - f^| / mean |w_in|
    random                   uniform in [0, 1)

The paper sums |w| where all but one of these take means; within a group that is a constant factor, so the order of the
units is the same. The running average of uncorrected_contribution is not corrected for age.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gnt._utils.validation import check_flags
from gnt.importance._recorder import Batch
from gnt.importance._validation import check_measured
from gnt.units import UnitGroup

ALL = frozenset({"magnitude", "deviation", "outgoing", "incoming"})


class Signals:
    """What a measure may look at, each computed when first asked for.

    Attributes:
        num_units: number of units of the group.
        generator: the engine's random generator.
        group: the group.
        batch: its features.
        reads: which of the signals the measure may ask for.
        shared: whether the means are those over several processes (`gnt.ranks`).
    """

    def __init__(self, group: UnitGroup, batch: Batch, generator: torch.Generator, reads: frozenset[str] = ALL) -> None:
        self.num_units = group.num_units
        self.generator = generator
        self.group, self.batch, self.reads = group, batch, reads
        self.shared = False

    def uniform(self) -> Tensor:
        """A draw from [0, 1) for each unit, (num_units,), on the generator's device."""
        return torch.rand(self.num_units, generator=self.generator, device=self.generator.device)

    @cached_property
    def magnitude(self) -> Tensor:
        """Mean |h| at each position of each unit, (num_units, block); block is 1 but for flattened channels and units
        with several consumers, whose positions stand side by side.
        """
        return self._by_consumer(self.magnitudes)

    @cached_property
    def deviation(self) -> Tensor:
        """Mean |h - f^| at each position of each unit, (num_units, block)."""
        return self._by_consumer(self.deviations)

    @cached_property
    def outgoing(self) -> Tensor:
        """Mean magnitude of the outgoing weights of each position, (num_units, block).

        Where several consumers read the units, weighted so that the mean over all positions is that over all weights.
        """
        slots = self.group.outgoing
        if len(slots) == 1:
            return self.outgoing_magnitudes[0]
        weights = sum(slot.fan * slot.block for slot in slots)
        positions = sum(slot.block for slot in slots)
        pieces = zip(self.outgoing_magnitudes, slots, strict=True)
        return torch.cat([magnitude * (slot.fan * positions / weights) for magnitude, slot in pieces], 1)

    @cached_property
    def incoming(self) -> Tensor:
        """Mean magnitude of each unit's incoming weights, the bias left out, (num_units,); never 0, so that it may
        divide.
        """
        slots = self.group.incoming
        if len(slots) == 1:
            incoming = _unit_mean(self.incoming_magnitudes[0])
        else:
            weights = sum(slot.fan * slot.block for slot in slots)
            pieces = zip(self.incoming_magnitudes, slots, strict=True)
            incoming = torch.stack([m.sum(1) * (slot.fan / weights) for m, slot in pieces]).sum(0)
        return incoming.clamp_min(torch.finfo(incoming.dtype).eps)

    # what the above are made of, one tensor for each tap or slot; `gnt.ranks` puts all processes' in their place

    @cached_property
    def means(self) -> list[Tensor]:
        """Mean h of each tap, (num_units, block)."""
        return [reading.mean() for reading in self.batch]

    @cached_property
    def mean(self) -> Tensor:
        """Mean feature of each unit at each tap, (taps, num_units)."""
        means = [_unit_mean(mean) for mean in self.means]
        return torch.stack(means) if len(means) > 1 else means[0].unsqueeze(0)

    @cached_property
    def magnitudes(self) -> list[Tensor]:
        """Mean |h| of each tap, (num_units, block)."""
        return [reading.magnitude() for reading in self.batch]

    @cached_property
    def deviations(self) -> list[Tensor]:
        """Mean |h - f^| of each tap, (num_units, block)."""
        centres = self.group.state.centre(self.mean)
        return [reading.deviation(centre) for reading, centre in zip(self.batch, centres, strict=True)]

    @cached_property
    def outgoing_magnitudes(self) -> list[Tensor]:
        """Mean |w| of each consumer's columns, (num_units, block)."""
        return [slot.mean_magnitude() for slot in self.group.outgoing]

    @cached_property
    def incoming_magnitudes(self) -> list[Tensor]:
        """Mean |w| of each producer's rows, (num_units, block)."""
        return [slot.mean_magnitude() for slot in self.group.incoming]

    def _by_consumer(self, of_taps: list[Tensor]) -> Tensor:
        if len(self.group.outgoing) == 1:
            return of_taps[0]
        numbers = self.group.tap_numbers
        return torch.cat([of_taps[numbers.index(slot.tap)] for slot in self.group.outgoing], 1)


MeasureFunction = Callable[[Signals], Tensor]


class Measure(NamedTuple):
    """A registered measure: its function, whether the engine ranks by its running average or by its latest value,
    which signals it may read, whether it is the mean over positions of their product, divided by ``incoming``, and
    whether the running average is corrected for age.
    """

    function: MeasureFunction
    averaged: bool
    reads: frozenset[str] = ALL
    product: bool = False
    corrected: bool = True


def _unit_mean(per_position: Tensor) -> Tensor:
    return per_position.mean(1) if per_position.shape[1] > 1 else per_position.view(-1)


def contribution(signals: Signals) -> Tensor:
    """Mean |h| * mean |w_out|: how strongly a unit speaks to its consumers (arXiv 2306.13812, Eq. 2)."""
    return _unit_mean(signals.magnitude * signals.outgoing)


def uncorrected_contribution(signals: Signals) -> Tensor:
    """Mean |h| * sum |w_out|, whose running average is ranked by as it is: Algorithm 1 of Nature 632 (2024), Eq. 1."""
    slots = signals.group.outgoing
    weights, positions = sum(slot.fan * slot.block for slot in slots), sum(slot.block for slot in slots)
    return (signals.magnitude * signals.outgoing).sum(1) * (weights / positions)


def weight(signals: Signals) -> Tensor:
    """Mean |w_out|."""
    return _unit_mean(signals.outgoing)


def adaptation(signals: Signals) -> Tensor:
    """1 / mean |w_in|: how quickly a step of given size changes the unit (arXiv 2306.13812, before Eq. 6)."""
    return 1.0 / signals.incoming


def zero_contribution(signals: Signals) -> Tensor:
    """Mean |h - f^| * mean |w_out|: what replacing the unit by its mean loses (arXiv 2306.13812, before Eq. 6)."""
    return _unit_mean(signals.deviation * signals.outgoing)


def adaptable_contribution(signals: Signals) -> Tensor:
    """Mean |h - f^| * mean |w_out| / mean |w_in|: the paper's overall utility (arXiv 2306.13812, Eqs. 6-8)."""
    return _unit_mean(signals.deviation * signals.outgoing) / signals.incoming


def feature_by_input(signals: Signals) -> Tensor:
    """Mean |h - f^| / mean |w_in|."""
    return _unit_mean(signals.deviation) / signals.incoming


def random(signals: Signals) -> Tensor:
    """Uniform in [0, 1): the control in which utility knows nothing."""
    return signals.uniform()


MEASURES: dict[str, Measure] = {
    function.__name__: Measure(function, function is not random, frozenset(reads.split()), function is not random)
    for function, reads in (
        (contribution, "magnitude outgoing"),
        (weight, "outgoing"),
        (adaptation, "incoming"),
        (zero_contribution, "deviation outgoing"),
        (adaptable_contribution, "deviation outgoing incoming"),
        (feature_by_input, "deviation incoming"),
        (random, ""),
    )
}
MEASURES["uncorrected_contribution"] = Measure(
    uncorrected_contribution, True, frozenset({"magnitude", "outgoing"}), corrected=False
)


def register_utility(name: str, function: MeasureFunction, *, averaged: bool = True, corrected: bool = True) -> None:
    """Register a measure of utility under ``name``, for ``GnT(..., utility=name)``.

    Args:
        name: a name that is not taken by a built-in measure; an earlier one of your own is replaced.
        function: takes `Signals`, returns a floating tensor of (num_units,); larger is worth more. It must be pure.
        averaged: rank units by the running average with decay rate and age correction (the default), or by the latest
            value.
        corrected: correct the running average for age (the default), or rank by it as it is: young units then seem
            worth less than they are.

    Raises:
        ValueError: the name is empty or that of a built-in measure.
        TypeError: ``function`` cannot be called.

    >>> import gnt
    >>> gnt.register_utility("squared_contribution", lambda s: (s.magnitude * s.outgoing).mean(1) ** 2)
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a non-empty string, got {name!r}")
    if name in _BUILT_IN:
        raise ValueError(f"name {name!r} is taken by a built-in measure; choose another")
    check_flags(averaged=averaged, corrected=corrected)
    if not callable(function):
        raise TypeError(f"function must be callable, got {type(function).__name__}")
    MEASURES[name] = Measure(function, averaged, corrected=corrected)


_BUILT_IN = frozenset(MEASURES)


def find(name: str) -> Measure:
    """The measure of that name; ValueError lists what there is."""
    if not isinstance(name, str) or name not in MEASURES:
        near = difflib.get_close_matches(str(name), MEASURES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"utility must be one of {', '.join(MEASURES)}, got {name!r}{hint}")
    return MEASURES[name]


def assess(measure: Measure, name: str, signals: Signals) -> tuple[Tensor, Tensor]:
    """Test one group: mean feature at each tap (taps, num_units) and worth (num_units,) of each unit."""
    worth = measure.function(signals)
    check_measured(worth, signals.group, name)
    return signals.mean, worth


@contextmanager
def undrawn_on_error(generators: Iterable[torch.Generator]) -> Iterator[None]:
    """Should a test fail, the draws that measures made for it were not made."""
    drawn = [(generator, generator.get_state()) for generator in generators]
    try:
        yield
    except Exception:
        for generator, state in drawn:
            generator.set_state(state)
        raise
