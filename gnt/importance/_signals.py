"""Signals: what a measure can read of one group in one update, each computed on first use."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gnt.importance._gradient_signals import GradientSignals
from gnt.importance._mean_magnitudes import mean_magnitude
from gnt.importance._statistics import GroupStatistics
from gnt.units import UnitGroup

ALL_SIGNALS = frozenset({"magnitude", "deviation", "outgoing", "incoming"})


class Signals(GradientSignals):
    """What a measure may read, each computed on first use.

    Gradients are those of the loss whose backward came before the optimizer's step, with respect to what consumers read
    (h) and to weights (w), without the scale of a GradScaler. Several backwards before one step are that of the sum of
    their losses, and several forwards are one batch. With several processes, a gradient is that of the mean of the
    processes' losses, as DistributedDataParallel computes it. Only a measure that declares a gradient in what it reads
    may use it; the others of ``reads`` may be used by all.

    Attributes:
        num_units: number of units of the group.
        generator: the engine's random generator.
        group: the unit group.
        batch: statistics of its features.
        reads: names of the signals that the measure declares to read.
        shared: True if the means are those over several processes.
        samples: for each tap the number of samples (times sites); of all processes if the means are.
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
        super().__init__(group, batch, generator, reads)

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
        return self._over_consumers(self.outgoing_magnitudes)

    @cached_property
    def incoming(self) -> Tensor:
        """Mean magnitude of each unit's incoming weights without bias, (num_units,); positive, to be a divisor."""
        incoming = self._over_producers(self.incoming_magnitudes)
        return incoming.clamp_min(torch.finfo(incoming.dtype).eps)

    # The parts of the signals above, one tensor per tap or slot; with several processes replaced by global means.

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
        return [mean_magnitude(slot, slot.weight, kernels=self.kernels) for slot in self.group.outgoing]

    @cached_property
    def incoming_magnitudes(self) -> list[Tensor]:
        """Mean |w| of each producer's rows, (num_units, block)."""
        return [mean_magnitude(slot, slot.weight, kernels=self.kernels) for slot in self.group.incoming]
