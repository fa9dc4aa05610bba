"""Layout of the means of simple groups in tensors shared by all groups.

A group is simple if one consumer (and, if incoming weights are read, one producer) holds its units and nothing else, in
order. Features and weights of such groups are reduced directly into the shared tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnt.distributed import dtensor
from gnt.importance._shared_state import SharedState
from gnt.units import CONV_LAYERS, UnitGroup


@dataclass(eq=False)
class GroupLayout:
    """Views of the shared tensors for one simple group.

    Attributes:
        number: number of the group.
        tap: number of its tap among the taps of all groups.
        mean, utility: (num_units,), the measured values.
        average, born: (num_units,), of the group's state.
        feature: mean |h| or mean |h - f^| of each position, (num_units * block,).
        outgoing: mean |w_out| of each position, (num_units * block,).
        incoming: mean |w_in|, (num_units,).
        positions: number of positions.
        block: number of positions per unit.
        spatial: number of spatial dimensions of the consumer's input; 0 for a linear layer.
    """

    number: int
    tap: int
    mean: Tensor
    utility: Tensor
    average: Tensor
    born: Tensor
    feature: Tensor
    outgoing: Tensor
    incoming: Tensor
    positions: int
    block: int
    spatial: int


@dataclass(eq=False)
class WeightMeans:
    """Where the means of |w| over the rows and columns of one weight are stored.

    An optimizer that has just computed them, while the weight was in the cache, calls `mark_current`. They serve one
    update.

    Attributes:
        module: the module that has the weight.
        groups: those of a grouped convolution, whose columns are counted group by group.
        rows, columns: the tensors for the means, or None if they are not read.
        weight, version: the weight, and its version counter, whose means the next update need not compute.
        shape: a shape of the weight for which the tensors for the means are known to fit.
    """

    module: nn.Module
    groups: int = 1
    rows: Tensor | None = None
    columns: Tensor | None = None
    weight: Tensor | None = None
    version: int = -1
    shape: torch.Size | None = None

    def fit(self, weight: Tensor) -> bool:
        """True if the tensors for the means have the sizes of a weight's rows and columns."""
        rows, columns = self.rows, self.columns
        return (rows is None or rows.numel() == weight.shape[0]) and (
            columns is None or columns.numel() == weight.shape[1] * self.groups
        )

    def can_hold(self, weight: Tensor) -> bool:
        """True if a kernel that steps a weight can write its means: they fit, with its dtype and on its device.

        They have the dtype and device of the latest update, and the network may have been moved since.
        """
        tensors = [each for each in (self.rows, self.columns) if each is not None]
        return self.fit(weight) and all(t.dtype is weight.dtype and t.device == weight.device for t in tensors)

    def mark_current(self, weight: Tensor) -> None:
        """Note that the stored means are those of ``weight`` as it is now."""
        self.weight, self.version = weight, weight._version

    def take_current(self, weight: Tensor) -> bool:
        """True if the stored means are those of ``weight`` as it is now; once, as ``weight.data`` counts no versions.

        In an update without an optimizer's step of this weight before, it may have been changed so.
        """
        current = self.weight is weight and self.version == weight._version
        self.weight = None
        return current


class MeansLayout:
    """The layouts of the simple groups of one shared state, and the tensors that they are views of.

    Attributes:
        simple: layouts of the simple groups.
        weights: each weight once, for all groups that read it.
        feature, outgoing: of all positions, (positions,).
        incoming: of all units, (units,).
        uniform: all groups are simple with one position per unit, so that these tensors have the same size.
    """

    def __init__(
        self, groups: Sequence[UnitGroup], first_taps: Sequence[int], shared: SharedState, reads: frozenset[str]
    ) -> None:
        simple = [_is_simple(group, "incoming" in reads) for group in groups]
        units = [group.num_units if is_simple else 0 for group, is_simple in zip(groups, simple, strict=True)]
        positions = [n * group.outgoing[0].block for group, n in zip(groups, units, strict=True)]
        like = shared.averages
        self.feature, self.outgoing = like.new_empty(sum(positions)), like.new_empty(sum(positions))
        self.incoming = like.new_empty(sum(units))
        self.uniform = all(simple) and positions == units
        self.simple: list[GroupLayout] = []
        weights: dict[int, WeightMeans] = {}
        tensors = ((self.feature, positions), (self.outgoing, positions), (self.incoming, units))
        parts = zip(*(torch.split(tensor, sizes) for tensor, sizes in tensors), strict=True)
        for i, (group, (feature, outgoing, incoming)) in enumerate(zip(groups, parts, strict=True)):
            if not simple[i]:
                continue
            slot, state = group.outgoing[0], group.state
            spatial = slot.weight.ndim - 2 if isinstance(slot.module, CONV_LAYERS) else 0
            of_state = shared.means[i].view(-1), shared.utilities[i], state.mean_features.view(-1), state.born
            self.simple.append(
                GroupLayout(i, first_taps[i], *of_state, feature, outgoing, incoming, positions[i], slot.block, spatial)
            )
            for side, target, signal in ((slot, outgoing, "outgoing"), (group.incoming[0], incoming, "incoming")):
                if signal in reads:
                    weight = weights.setdefault(id(side.module), WeightMeans(side.module))
                    weight.groups = max(weight.groups, side.groups)
                    setattr(weight, "rows" if side.dim == 0 else "columns", target)
        self.weights = list(weights.values())


def _is_simple(group: UnitGroup, reads_incoming: bool) -> bool:
    """True if one consumer (and producer) holds the group's units and nothing else, in order."""
    if len(group.outgoing) > 1 or (reads_incoming and (len(group.incoming) > 1 or group.incoming[0].block > 1)):
        return False
    slots = (group.outgoing[0], group.incoming[0]) if reads_incoming else (group.outgoing[0],)
    dtype = group.state.utility.dtype
    return all(
        slot.positions is None
        and slot.width == group.num_units * slot.block
        and slot.weight.dtype == dtype
        and slot.dim < 2
        and not dtensor.is_dtensor(slot.weight)
        for slot in slots
    )
