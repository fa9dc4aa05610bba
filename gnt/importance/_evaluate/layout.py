"""Places: where the numbers of a simple group stand among those of all groups, and which of its weights say what.

A group is simple where one consumer, and where it is asked for one producer, holds its units and nothing else, in
order. What the batch and the weights say of such groups is reduced straight into tensors that all of them share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnt.distributed import _dtensor as shards
from gnt.importance._recorder import Batch
from gnt.importance._shared_state import FlatState
from gnt.units import CONV_LAYERS, UnitGroup


@dataclass(eq=False)
class Place:
    """Where the numbers of one simple group stand; all are views.

    Attributes:
        number: of the group.
        mean, worth: (num_units,), among what is tested.
        average, born: (num_units,), of its state.
        feature: mean |h| or mean |h - f^| of each position, (num_units * block,).
        outgoing: mean |w_out| of each position, (num_units * block,).
        incoming: mean |w_in|, (num_units,).
        positions, block: how many there are, and how many a unit has.
        spatial: how many dimensions of space the consumer's input has; 0 for a linear one.
    """

    number: int
    mean: Tensor
    worth: Tensor
    average: Tensor
    born: Tensor
    feature: Tensor
    outgoing: Tensor
    incoming: Tensor
    positions: int
    block: int
    spatial: int

    def reads(self, batch: Batch) -> Tensor | None:
        """The one feature of the batch, where it is plain; else None."""
        feature = batch[0].alone
        fits = feature is not None and feature.dtype is self.mean.dtype and feature.is_contiguous()
        return feature if fits else None


@dataclass(eq=False)
class WeightPlace:
    """A weight of (rows, columns, ...), and where the means of its magnitude go.

    Attributes:
        module: whose weight it is.
        groups: that of a grouped convolution, whose columns are those of each group.
        rows, columns: the places, or None.
        summed, version: the weight, and the version of it, whose means stand there already: an optimizer can sum them
            on its way.
    """

    module: nn.Module
    groups: int = 1
    rows: Tensor | None = None
    columns: Tensor | None = None
    summed: Tensor | None = None
    version: int = -1

    def note(self, weight: Tensor) -> None:
        """The means of the weight as it is now stand here."""
        self.summed, self.version = weight, weight._version


class Places:
    """The places of the simple groups of one flat state, and the tensors in which they stand.

    Attributes:
        simple: the places of the simple groups.
        weights: every weight once, however many groups it serves.
        feature, outgoing: of all positions, (positions,).
        incoming: of all units, (units,).
        uniform: whether all groups are simple and have one position a unit, so that these tensors fit each other.
    """

    def __init__(self, groups: Sequence[UnitGroup], flat: FlatState, reads: frozenset[str]) -> None:
        simple = [_is_simple(group, "incoming" in reads) for group in groups]
        units = [group.num_units if fits else 0 for group, fits in zip(groups, simple, strict=True)]
        positions = [n * group.outgoing[0].block for group, n in zip(groups, units, strict=True)]
        like = flat.averages
        self.feature, self.outgoing = like.new_empty(sum(positions)), like.new_empty(sum(positions))
        self.incoming = like.new_empty(sum(units))
        self.uniform = all(simple) and positions == units
        self.simple: list[Place] = []
        weights: dict[int, WeightPlace] = {}
        stood = ((self.feature, positions), (self.outgoing, positions), (self.incoming, units))
        parts = zip(*(torch.split(tensor, sizes) for tensor, sizes in stood), strict=True)
        for i, (group, (feature, outgoing, incoming)) in enumerate(zip(groups, parts, strict=True)):
            if not simple[i]:
                continue
            slot, state = group.outgoing[0], group.state
            spatial = slot.weight.ndim - 2 if isinstance(slot.module, CONV_LAYERS) else 0
            here = flat.means[i].view(-1), flat.worths[i], state.mean_features.view(-1), state.born
            self.simple.append(Place(i, *here, feature, outgoing, incoming, positions[i], slot.block, spatial))
            for side, target, asked in ((slot, outgoing, "outgoing"), (group.incoming[0], incoming, "incoming")):
                if asked in reads:
                    weight = weights.setdefault(id(side.module), WeightPlace(side.module))
                    weight.groups = max(weight.groups, side.groups)
                    setattr(weight, "rows" if side.dim == 0 else "columns", target)
        self.weights = list(weights.values())


def _is_simple(group: UnitGroup, reads_incoming: bool) -> bool:
    """Whether one consumer (and producer) holds the group's units and nothing else, in order."""
    if len(group.outgoing) > 1 or (reads_incoming and (len(group.incoming) > 1 or group.incoming[0].block > 1)):
        return False
    slots = (group.outgoing[0], group.incoming[0]) if reads_incoming else (group.outgoing[0],)
    dtype = group.state.utility.dtype
    return all(
        slot.positions is None
        and slot.width == group.num_units * slot.block
        and slot.weight.dtype == dtype
        and slot.dim < 2
        and not shards.is_sharded(slot.weight)
        for slot in slots
    )
