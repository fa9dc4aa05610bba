"""`UnitProtection`: what an engine that replaces units must leave alone, and what follows a replacement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt.protection._coverage import Coverage
from gnt.protection._rates import EarlierTasks
from gnt.protection._unit_layout import UnitLayout
from gnt.replacement import OptimizerStateReset
from gnt.units import Slot, UnitGroup


class UnitProtection:
    """Answers to an engine on the same units.

    Args:
        layout: the units.
    """

    def __init__(self, layout: UnitLayout) -> None:
        self._layout = layout
        self._units: dict[int, tuple[UnitGroup, Tensor | None]] = {}
        self.forget()

    def forget(self) -> None:
        """A task has begun or ended."""
        self._counts: Tensor | None = None
        self._answers: dict[int, Tensor] = {}
        self._movable: dict[int, Tensor] | None = None

    def units(self, group: UnitGroup) -> Tensor | None:
        """The positions of a group's units in the layout; None if they are not all there."""
        known = self._units.get(id(group))
        if known is None or known[0] is not group:
            known = self._units[id(group)] = group, self._find(group)
        return known[1]

    def _find(self, group: UnitGroup) -> Tensor | None:
        theirs = group.incoming[0]
        rows = theirs.index(torch.arange(group.num_units, device="cpu")).view(group.num_units, -1)[:, 0]
        for number, own in enumerate(self._layout.groups):
            for slot in own.incoming:
                if slot.module is theirs.module and slot.dim == theirs.dim:
                    places = torch.full((slot.weight.shape[slot.dim],), -1, device="cpu")
                    self._layout.write_units(places, slot, number)
                    if bool((places[rows] >= 0).all()):
                        return places[rows]
        return None

    def protected(self, group: UnitGroup, counts: Tensor, above: int) -> Tensor | None:
        """Which units of a group more than ``above`` tasks use; the same tensor as long as nothing has changed.

        Args:
            group: the group.
            counts: the number of tasks that use each unit, (units,).
            above: that number.
        """
        units = self.units(group)
        if units is None:
            return None
        if self._counts is not counts:
            self._counts, self._answers = counts, {}
        if id(group) not in self._answers:
            self._answers[id(group)] = (counts > above)[units.to(counts.device)]
        return self._answers[id(group)]

    def gated_on(self, group: UnitGroup, embedding: Tensor) -> Tensor | None:
        """Which units of a group have e > 0, bool (num_units,); None for a group that is not in the layout."""
        units = self.units(group)
        return None if units is None else embedding.detach()[units.to(embedding.device)] > 0

    def movable(self, bias: Tensor, coverage: Coverage, earlier: EarlierTasks) -> Tensor | None:
        """Which entries of a bias belong to no unit that tasks use."""
        if self._movable is None:
            used = coverage.measure((earlier.counts > 0).to(earlier.counts.dtype), earlier.ran, 1.0)
            self._movable = {
                id(each.parameter): torch.ones(len(each.parameter), dtype=torch.bool, device=each.parameter.device)
                if measure is None
                else (measure == 0).to(each.parameter.device).expand(len(each.parameter))
                for each, measure in zip(coverage.parameters, used, strict=True)
                if each.parameter.ndim == 1
            }
        return self._movable.get(id(bias))

    def free_units(self, groups: Sequence[UnitGroup], cumulative: Tensor) -> list[Tensor]:
        """For each group of an engine the units that no task uses."""
        result = []
        for group in groups:
            units = self.units(group)
            device = group.incoming[0].weight.device
            used = (
                torch.ones(group.num_units, device="cpu") if units is None else cumulative[units.to(cumulative.device)]
            )
            result.append((used == 0).nonzero().squeeze(1).to(device))
        return result

    def reset_embedding(
        self, optimizer: Optimizer, embedding: nn.Parameter, param: Tensor, dim: int, index: Tensor
    ) -> None:
        """Reset the optimizer's state for e of the units whose rows of a producer's weight are at ``index``."""
        for number, units in self.replaced_units(param, dim, index):
            units = (units + self._layout.starts[number]).to(embedding.device)
            reset = OptimizerStateReset(optimizer, ())
            reset.reset(cast(UnitGroup, _EmbeddingSlices(embedding, self._layout.total)), units)

    def replaced_units(self, param: Tensor, dim: int, index: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The units whose rows of a producer's weight are at ``index``: number of the group, and units in it."""
        for number, group in enumerate(self._layout.groups):
            for slot in group.incoming:
                if slot.module._parameters.get("weight") is param and slot.dim == dim:
                    places = torch.full((param.shape[dim],), -1, device="cpu")
                    self._layout.write_units(places, slot, number)
                    units = places[index.cpu()]
                    yield number, torch.unique(units[units >= 0]) - self._layout.starts[number]


class _EmbeddingSlices:
    """The embedding in the place of a group, for the reset of its optimizer state."""

    def __init__(self, embedding: nn.Parameter, total: int) -> None:
        module: Any = nn.Module()
        self._slice = "embedding", embedding, Slot("embedding", module, total)

    def slices(self) -> Iterator[tuple[str, Tensor, Slot]]:
        """The embedding, one entry for each unit."""
        yield self._slice
