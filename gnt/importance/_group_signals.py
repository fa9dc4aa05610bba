"""What all signals of one group share: which taps had features, and how means of taps and slots are combined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from gnt.importance._statistics import GroupStatistics
from gnt.units import Slot, UnitGroup


class GroupSignals:
    """One group in one update; the attributes are those of `Signals`.

    Attributes:
        kernels: means of weights and of their gradients are computed by C kernels where these can read them.
    """

    kernels = False

    def __init__(
        self,
        group: UnitGroup,
        batch: GroupStatistics,
        generator: torch.Generator,
        reads: frozenset[str],
    ) -> None:
        self.num_units = group.num_units
        self.generator = generator
        self.group, self.batch, self.reads = group, batch, reads
        self.shared = False
        self.samples: Sequence[int | Tensor] = [statistics.size for statistics in batch]
        self.present = [statistics.size > 0 for statistics in batch] if len(batch) > 1 else [True]

    @property
    def takes_part(self) -> bool:
        """True if the group has samples in this step."""
        return any(self.present)

    def uniform(self) -> Tensor:
        """A draw from [0, 1) for each unit, (num_units,), on the generator's device."""
        return torch.rand(self.num_units, generator=self.generator, device=self.generator.device)

    def layer_mean(self, values: Tensor) -> Tensor:
        """Mean of one value per unit, (num_units,), over the layer: 0-d, or (num_units,) in an ensemble, by member."""
        members = self.group.members
        if members == 1:
            return values.mean()
        return values.view(members, -1).mean(1, keepdim=True).expand(-1, self.num_units // members).flatten()

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

    def _by_consumer(self, by_tap: list[Tensor]) -> Tensor:
        if len(self.group.outgoing) == 1:
            return by_tap[0]
        numbers = self.group.tap_numbers
        return torch.cat([by_tap[numbers.index(slot.tap)] for slot in self.consumers], 1)

    @property
    def consumers(self) -> Sequence[Slot]:
        """The consumers of the taps that had features."""
        if all(self.present):
            return self.group.outgoing
        numbers = self.group.tap_numbers
        return [slot for slot in self.group.outgoing if self.present[numbers.index(slot.tap)]]

    def _by_tap(self, values: Sequence[Tensor]) -> Iterator[tuple[int, Tensor, bool]]:
        return zip(range(len(values)), values, self.present, strict=True)

    def _over_producers(self, magnitudes: Sequence[Tensor]) -> Tensor:
        """Mean over all incoming weights of each unit, from those of each producer's rows: (num_units,)."""
        slots = self.group.incoming
        if len(slots) == 1:
            return unit_mean(magnitudes[0])
        weights = sum(slot.fan * slot.block for slot in slots)
        pieces = zip(magnitudes, slots, strict=True)
        return torch.stack([m.sum(1) * (slot.fan / weights) for m, slot in pieces]).sum(0)

    def _over_consumers(self, magnitudes: Sequence[Tensor]) -> Tensor:
        """Means of the outgoing weights of each position, from those of each consumer's columns: (num_units, block)."""
        if len(self.group.outgoing) == 1:
            return magnitudes[0]
        slots = self.consumers
        if len(slots) < len(self.group.outgoing):
            magnitudes = [m for m, slot in zip(magnitudes, self.group.outgoing, strict=True) if slot in slots]
        weights = sum(slot.fan * slot.block for slot in slots)
        positions = sum(slot.block for slot in slots)
        pieces = zip(magnitudes, slots, strict=True)
        return torch.cat([magnitude * (slot.fan * positions / weights) for magnitude, slot in pieces], 1)

    def _over_taps(self, by_tap: Sequence[Tensor]) -> Tensor:
        """The positions of all taps that had features, side by side."""
        parts = [value for _, value, present in self._by_tap(by_tap) if present]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def unit_mean(per_position: Tensor) -> Tensor:
    """Mean over the positions of each unit: (num_units, block) -> (num_units,)."""
    return per_position.mean(1) if per_position.shape[1] > 1 else per_position.view(-1)
