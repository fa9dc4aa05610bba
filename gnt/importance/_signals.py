"""Signals: what a measure can read of one group in one update, each computed on first use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from gnt.importance._statistics import GroupStatistics
from gnt.units import Slot, UnitGroup

ALL_SIGNALS = frozenset({"magnitude", "deviation", "outgoing", "incoming"})


class Signals:
    """What a measure may read, each computed on first use.

    Attributes:
        num_units: number of units of the group.
        generator: the engine's random generator.
        group: the unit group.
        batch: statistics of its features.
        reads: names of the signals that the measure declares to read.
        shared: True if the means are those over several processes.
        present: for each tap whether it had features in this step. Consumers of other taps do not enter the signals:
            the measure is that of the consumers that were run. True throughout for a measure that reads no features.
    """

    def __init__(
        self,
        group: UnitGroup,
        batch: GroupStatistics,
        generator: torch.Generator,
        reads: frozenset[str] = ALL_SIGNALS,
    ) -> None:
        self.num_units = group.num_units
        self.generator = generator
        self.group, self.batch, self.reads = group, batch, reads
        self.shared = False
        self.present = [statistics.size > 0 for statistics in batch] if len(batch) > 1 else [True]

    @property
    def takes_part(self) -> bool:
        """True if the group has samples in this step."""
        return any(self.present)

    def uniform(self) -> Tensor:
        """A draw from [0, 1) for each unit, (num_units,), on the generator's device."""
        return torch.rand(self.num_units, generator=self.generator, device=self.generator.device)

    @cached_property
    def magnitude(self) -> Tensor:
        """Mean |h| at each position of each unit, (num_units, block).

        ``block`` is 1 except for flattened channels and units with several consumers, whose positions are side by side.
        """
        return self._by_consumer(self.magnitudes)

    @cached_property
    def deviation(self) -> Tensor:
        """Mean |h - f^| at each position of each unit, (num_units, block)."""
        return self._by_consumer(self.deviations)

    @cached_property
    def outgoing(self) -> Tensor:
        """Mean magnitude of the outgoing weights of each position, (num_units, block).

        With several consumers, values are weighted so that the mean over all positions is the mean over all weights.
        """
        if len(self.group.outgoing) == 1:
            return self.outgoing_magnitudes[0]
        slots, magnitudes = self._consumers, self.outgoing_magnitudes
        if len(slots) < len(self.group.outgoing):
            magnitudes = [m for m, slot in zip(magnitudes, self.group.outgoing, strict=True) if slot in slots]
        weights = sum(slot.fan * slot.block for slot in slots)
        positions = sum(slot.block for slot in slots)
        pieces = zip(magnitudes, slots, strict=True)
        return torch.cat([magnitude * (slot.fan * positions / weights) for magnitude, slot in pieces], 1)

    @cached_property
    def incoming(self) -> Tensor:
        """Mean magnitude of each unit's incoming weights without bias, (num_units,); positive, to be a divisor."""
        slots = self.group.incoming
        if len(slots) == 1:
            incoming = unit_mean(self.incoming_magnitudes[0])
        else:
            weights = sum(slot.fan * slot.block for slot in slots)
            pieces = zip(self.incoming_magnitudes, slots, strict=True)
            incoming = torch.stack([m.sum(1) * (slot.fan / weights) for m, slot in pieces]).sum(0)
        return incoming.clamp_min(torch.finfo(incoming.dtype).eps)

    # The parts of the signals above, one tensor per tap or slot; with several processes replaced by global means.

    @cached_property
    def means(self) -> list[Tensor]:
        """Mean h of each tap, (num_units, block)."""
        return [statistics.mean() for statistics in self.batch]

    @cached_property
    def mean(self) -> Tensor:
        """Mean feature of each unit at each tap, (taps, num_units).

        For a tap without features it is the running average, which then does not change.
        """
        averages = () if all(self.present) else self.group.state.mean_features
        means = [unit_mean(m) if present else averages[tap] for tap, m, present in self._by_tap(self.means)]
        return torch.stack(means) if len(means) > 1 else means[0].unsqueeze(0)

    @cached_property
    def magnitudes(self) -> list[Tensor]:
        """Mean |h| of each tap, (num_units, block)."""
        return [statistics.magnitude() for statistics in self.batch]

    @cached_property
    def deviations(self) -> list[Tensor]:
        """Mean |h - f^| of each tap, (num_units, block)."""
        centers = self.group.state.center(self.mean)
        return [statistics.deviation(center) for statistics, center in zip(self.batch, centers, strict=True)]

    @cached_property
    def outgoing_magnitudes(self) -> list[Tensor]:
        """Mean |w| of each consumer's columns, (num_units, block)."""
        return [slot.mean_magnitude() for slot in self.group.outgoing]

    @cached_property
    def incoming_magnitudes(self) -> list[Tensor]:
        """Mean |w| of each producer's rows, (num_units, block)."""
        return [slot.mean_magnitude() for slot in self.group.incoming]

    def _by_consumer(self, by_tap: list[Tensor]) -> Tensor:
        if len(self.group.outgoing) == 1:
            return by_tap[0]
        numbers = self.group.tap_numbers
        return torch.cat([by_tap[numbers.index(slot.tap)] for slot in self._consumers], 1)

    @property
    def _consumers(self) -> Sequence[Slot]:
        """The consumers of the taps that had features."""
        if all(self.present):
            return self.group.outgoing
        numbers = self.group.tap_numbers
        return [slot for slot in self.group.outgoing if self.present[numbers.index(slot.tap)]]

    def _by_tap(self, values: Sequence[Tensor]) -> Iterator[tuple[int, Tensor, bool]]:
        return zip(range(len(values)), values, self.present, strict=True)


def unit_mean(per_position: Tensor) -> Tensor:
    """Mean over the positions of each unit: (num_units, block) -> (num_units,)."""
    return per_position.mean(1) if per_position.shape[1] > 1 else per_position.view(-1)
