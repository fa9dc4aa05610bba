"""Unit groups: which tensors hold the units of one hidden layer, and where in them.

A unit is more than a row of a weight matrix: it is that row, an entry of the bias, an entry of each norm on the way,
and the columns of everything that reads it. A `Slot` says where a group's units live in one module; a `UnitGroup`
gathers the slots that must change together. Nothing here decides anything: these are addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from gnt.state import UnitState

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONV_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Slot:
    """Where the units of a group live in the tensors of one module.

    Unit ``i`` owns positions ``offset + i * block ... offset + (i + 1) * block - 1`` along dimension ``dim``. ``block``
    is larger than 1 where a convolution's channels were flattened for a linear consumer. ``groups`` is that of a
    grouped convolution whose input channels the units are (``dim`` 1): its weight of shape (out, in / groups, *kernel)
    then counts input channels group by group.
    """

    name: str
    module: nn.Module
    num_units: int
    dim: int = 0
    block: int = 1
    offset: int = 0
    groups: int = 1

    @property
    def weight(self) -> Tensor:
        """The module's weight as it is now; a network may be moved."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The module's bias, or None."""
        bias = self.module.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    def index(self, units: Tensor) -> Tensor:
        """Positions of ``units`` along ``dim``, unit by unit: (k,) -> (k * block,)."""
        if self.block == 1:
            return units + self.offset if self.offset else units
        within = torch.arange(self.offset, self.offset + self.block, device=units.device)
        return (units[:, None] * self.block + within).flatten()

    def fill_(self, tensor: Tensor, units: Tensor, value: float) -> None:
        """Set the units' part of ``tensor``, a tensor shaped like the parameter that the slot addresses, to
        ``value``.
        """
        if self.groups == 1:
            tensor.index_fill_(self.dim, self.index(units), value)
        else:
            by_channel, where = self._by_channel(tensor), self._channel(units)
            by_channel.index_put_(where, by_channel.new_full((), value))

    def copy_(self, tensor: Tensor, source: Tensor, units: Tensor) -> None:
        """Copy the units' part of ``source`` into ``tensor``; both are shaped like the addressed parameter."""
        if self.groups == 1:
            index = self.index(units)
            tensor.index_copy_(self.dim, index, source.index_select(self.dim, index).to(tensor.dtype))
        else:
            where = self._channel(units)
            self._by_channel(tensor).index_put_(where, self._by_channel(source)[where].to(tensor.dtype))

    def mean_magnitude(self) -> Tensor:
        """Mean of |w| over everything but the units' dimension: (num_units, block), in float32 or wider.

        For an outgoing slot that is each position's mean outgoing weight magnitude, for an incoming one (``block`` 1)
        the mean over the fan-in.
        """
        weight = self.weight.detach().abs()
        wide = None if weight.element_size() >= 4 else torch.float32
        if self.groups == 1:
            others = [d for d in range(weight.ndim) if d != self.dim]
            mean = weight.mean(others, dtype=wide)
        else:
            by_channel = self._by_channel(weight)
            mean = by_channel.mean(list(range(2, by_channel.ndim)), dtype=wide).flatten()
        used = self.num_units * self.block
        if mean.numel() != used:
            mean = mean.narrow(0, self.offset, used)
        return mean.view(self.num_units, self.block)

    def weighted_sum(self, units: Tensor, values: Tensor) -> Tensor:
        """What constant features ``values`` (k,) of ``units`` add to the consumer: sum of w * value over units and
        kernel -> (out,).

        For convolutions that is the sum at interior positions, where the whole kernel lies inside the input.
        """
        weight = self.weight.detach()
        if self.groups == 1:
            columns = weight.index_select(1, self.index(units)).to(values.dtype)
            if columns.ndim > 2:
                columns = columns.flatten(2).sum(2)
            # a product and a sum, not a matrix product: autocast would round that to half precision
            return (columns * values.repeat_interleave(self.block)).sum(1)
        group, channel = self._channel(units)
        columns = self._by_channel(weight)[group, channel].to(values.dtype)
        per_unit = columns.flatten(2).sum(2) * values[:, None]
        out = per_unit.new_zeros(self.groups, per_unit.shape[1])
        return out.index_add_(0, group, per_unit).flatten()

    def _by_channel(self, tensor: Tensor) -> Tensor:
        # a view in any memory format, where reshape would copy a channels-last weight
        return torch.unflatten(tensor, 0, (self.groups, -1)).transpose(1, 2)

    def _channel(self, units: Tensor) -> tuple[Tensor, Tensor]:
        position = units + self.offset if self.offset else units
        per_group = self.weight.shape[1]
        return position // per_group, position % per_group

    def __str__(self) -> str:
        where = "rows" if self.dim == 0 else "columns"
        extra = f", {self.block} per unit" if self.block > 1 else ""
        extra += f", from {self.offset}" if self.offset else ""
        extra += f", groups={self.groups}" if self.groups > 1 else ""
        return f"{self.name} {type(self.module).__name__} ({where}{extra})"


@dataclass(eq=False)
class UnitGroup:
    """One hidden layer's units: everything that must change together when one of them is replaced.

    Attributes:
        name: name of the producer, as found in the list or the model.
        num_units: number of units (output features of a linear layer, output channels of a convolution).
        incoming: slots of the producers (rows of weight and bias).
        scales: slots of the norms between producer and consumer (affine parameters and running statistics).
        outgoing: slots of the consumers (columns of the weight).
        activation: the activation between producer and consumer, as a name with its parameter, or None where none was
            seen.
        state: ages, running averages and accumulator, set by the engine that owns the group.

    ``producer``, ``norms`` and ``consumers`` give the modules themselves.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> print(gnt.walk(net)[0])
    0: 8 units, relu
      producer  0 Linear (rows)
      consumer  2 Linear (columns)
    """

    name: str
    num_units: int
    incoming: tuple[Slot, ...]
    outgoing: tuple[Slot, ...]
    scales: tuple[Slot, ...] = ()
    activation: tuple[str, float | None] | None = None
    state: UnitState = field(init=False, repr=False)

    @property
    def producer(self) -> nn.Module:
        """The module whose rows are the units' incoming weights (the first, where several make one unit)."""
        return self.incoming[0].module

    @property
    def norms(self) -> tuple[nn.Module, ...]:
        """Norms, and other modules with per-unit parameters, between producer and consumers."""
        return tuple(slot.module for slot in self.scales)

    @property
    def consumers(self) -> tuple[nn.Module, ...]:
        """The modules that read the units' features."""
        return tuple(slot.module for slot in self.outgoing)

    def slices(self) -> Iterator[tuple[str, Tensor, Slot]]:
        """The parameters of which the group's units own a part, with name and slot; an optimizer keeps state for just
        these.
        """
        for slot in (*self.incoming, *self.scales):
            for key, parameter in slot.module._parameters.items():
                if parameter is not None and key in ("weight", "bias"):
                    yield f"{slot.name}.{key}", parameter, slot
        for slot in self.outgoing:
            yield f"{slot.name}.weight", slot.weight, slot

    def __str__(self) -> str:
        kind = self.activation[0] if self.activation else "no activation seen"
        lines = [f"{self.name}: {self.num_units} units, {kind}"]
        for label, slots in (("producer", self.incoming), ("norm", self.scales), ("consumer", self.outgoing)):
            for slot in slots:
                note = (
                    ", no bias: the mean feature is not transferred"
                    if label == "consumer" and slot.bias is None
                    else ""
                )
                lines.append(f"  {label:<9} {slot}{note}")
        return "\n".join(lines)
