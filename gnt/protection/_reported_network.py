"""`ReportedNetwork`: figures and a picture of the masks of a `HAT`, and how much its weights may still change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gnt.protection._hat_report import MaskReport, draw_masks, mask_report
from gnt.protection._held_network import HeldNetwork
from gnt.units import UnitGroup


class ReportedNetwork(HeldNetwork):
    """Base class of `HAT`. Arguments and attributes are those of `HeldNetwork`."""

    def report(self) -> MaskReport:
        """Return the figures of each group: units, how many tasks use them, free units, open gates, rate; a table."""
        on = self.embedding.detach() > 0 if self._open else None
        rates = self.capacity_by_group() if self._open else None
        return mask_report(self.layout, self.tasks, self.counts, on, rates)

    def plot(self, axes: Any = None) -> Any:
        """Draw how much the masks of tasks overlap, and how many units each task uses in each group.

        Args:
            axes: two axes of matplotlib; None: those of a new figure.

        Returns:
            The axes.

        Raises:
            RuntimeError: no task has ended.
        """
        if not self.tasks:
            raise RuntimeError("plot: no task has ended, so that there are no masks")
        return draw_masks(self.layout, self.tasks, self.masks_by_task, axes)

    def capacity(self) -> float:
        """Network capacity: the mean rate in this step of the weights and biases of all layers with gated units.

        The rate of frozen parameters is 0.

        Raises:
            RuntimeError: no task is open.
        """
        total = [self._capacity_of(each) for each in self._gated_parameters()]
        return sum(rate for rate, _ in total) / sum(size for _, size in total)

    def capacity_by_group(self) -> dict[str, float]:
        """`capacity` of the producers of each group."""
        result = {}
        for group in self.groups:
            total = [self._capacity_of(each) for each in self._gated_parameters([group])]
            result[group.name] = sum(rate for rate, _ in total) / sum(size for _, size in total)
        return result

    def _gated_parameters(self, groups: Sequence[UnitGroup] | None = None) -> list[Tensor]:
        slots = [slot for group in groups or self.groups for slot in group.incoming]
        found = [slot.module._parameters.get(key) for slot in slots for key in ("weight", "bias")]
        return list({id(each): each for each in found if each is not None}.values())

    def _capacity_of(self, parameter: Tensor) -> tuple[float, int]:
        self._require_open("capacity")
        assert self._conditioning is not None
        rate = self._conditioning.mean_rate(parameter) if parameter.requires_grad else 0.0
        return rate * parameter.numel(), parameter.numel()
