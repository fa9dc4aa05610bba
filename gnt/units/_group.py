"""Unit groups: which tensors hold the units of one hidden layer, and where in them.

A unit is more than a row of a weight matrix: it is that row, an entry of the bias, an entry of each norm on the way,
and the columns of everything that reads it. A `Slot` says where a group's units live in one module; a `UnitGroup`
gathers the slots that must change together. Nothing here decides anything: these are addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gnt.distributed import dtensor

if TYPE_CHECKING:
    from gnt.units._activations import Activation

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONV_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def input_groups(module: nn.Module) -> int:
    """In how many groups a layer's outputs read its inputs: a convolution's ``groups``, or what a layer of one's own
    says by an attribute ``input_groups``.
    """
    name = "groups" if isinstance(module, CONV_LAYERS) else "input_groups"
    return int(getattr(module, name, 1))


@dataclass(frozen=True, eq=False)
class Slot:
    """Where the units of a group live in the tensors of one module.

    Unit ``i`` owns positions ``offset + i * block ... offset + (i + 1) * block - 1`` along dimension ``dim`` of the
    weight, or, where that does not describe it, ``positions[i]``. ``block`` is larger than 1 where a convolution's
    channels were flattened for a linear consumer. Tensors of one dimension (a bias, a norm's weight) are addressed
    along it.

    Attributes:
        name: the module's path in the model.
        module: the module.
        num_units: number of units.
        dim: the units' dimension of the weight: 0 for the rows of a producer, 1 for the columns of a consumer; the
            other way round for modules that keep their weight as (in, out).
        block: positions of each unit.
        offset: the first unit's first position.
        groups: that of a grouped convolution (or another layer with `input_groups`) whose input channels the units are
            (``dim`` 1): its weight of shape (out, in / groups, *kernel) then counts input channels group by group.
        positions: int64 (num_units, block) on the CPU, where block and offset do not describe the positions.
        tap: consumers with the same number read the same value of the units; another number is another value, such as
            the same channels before and after pooling.
        activation: of a producer, where it differs from its group's.
    """

    name: str
    module: nn.Module
    num_units: int
    dim: int = 0
    block: int = 1
    offset: int = 0
    groups: int = 1
    positions: Tensor | None = None
    tap: int = 0
    activation: Activation | None = None

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

    @property
    def width(self) -> int:
        """Number of positions along the units' dimension: for a consumer how many inputs it reads."""
        return self.weight.shape[self.dim] * self.groups

    @property
    def fan(self) -> int:
        """How many weights belong to one position: to a producer's unit its fan-in, to a position of a consumer's input
        the outputs (times the kernel) that read it.
        """
        return self.weight.numel() // self.width

    @property
    def rest(self) -> tuple[int, ...]:
        """The weight's shape without the units' dimension: for a producer what one unit reads."""
        shape = self.weight.shape
        return (*shape[: self.dim], *shape[self.dim + 1 :])

    def index(self, units: Tensor) -> Tensor:
        """Positions of ``units`` along ``dim``, unit by unit: (k,) -> (k * block,)."""
        if self.positions is not None:
            return self.positions.to(units.device)[units].flatten()
        if self.block == 1:
            return units + self.offset if self.offset else units
        within = torch.arange(self.offset, self.offset + self.block, device=units.device)
        return (units[:, None] * self.block + within).flatten()

    def fill_(self, tensor: Tensor, units: Tensor, value: float) -> None:
        """Set the units' part of ``tensor``, a tensor shaped like a parameter of the module, to ``value``."""
        if self.groups == 1:
            dim = self.dim_of(tensor)
            local, index, _ = dtensor.locate_local(tensor, dim, self.index(units))
            local.index_fill_(dim, index, value)
        else:
            by_channel, where = self._by_channel(tensor), self._channel(units)
            by_channel.index_put_(where, by_channel.new_full((), value))

    def copy_(self, tensor: Tensor, source: Tensor, units: Tensor) -> None:
        """Copy the units' part of ``source`` into ``tensor``; both are shaped like the addressed parameter."""
        if self.groups == 1:
            dim = self.dim_of(tensor)
            local, index, _ = dtensor.locate_local(tensor, dim, self.index(units))
            local.index_copy_(dim, index, dtensor.local_part(source).index_select(dim, index).to(tensor.dtype))
        else:
            where = self._channel(units)
            self._by_channel(tensor).index_put_(where, self._by_channel(source)[where].to(tensor.dtype))

    def write_(self, units: Tensor, rows: Tensor) -> None:
        """Give the units the weights ``rows``, (k, *rest) or (k * block, *rest)."""
        weight = self.weight.detach()
        local, index, kept = dtensor.locate_local(weight, self.dim, self.index(units))
        rows = rows.reshape(-1, *self.rest)
        rows = dtensor.narrow_to_local(rows if kept is None else rows[kept], weight, self.dim)
        local.index_copy_(self.dim, index, rows.movedim(0, self.dim))

    def mean_magnitude(self) -> Tensor:
        """Mean of |w| over everything but the units' dimension: (num_units, block), in float32 or wider.

        For an outgoing slot that is each position's mean outgoing weight magnitude, for an incoming one the mean over
        the fan-in. Of a weight that lies in shards on several processes, this process's share of the mean.
        """
        weight = dtensor.local_part(self.weight.detach()).abs()
        wide = None if weight.element_size() >= 4 else torch.float32
        if self.groups == 1:
            others = [d for d in range(weight.ndim) if d != self.dim]
            mean = weight.mean(others, dtype=wide)
            if dtensor.is_dtensor(self.weight):
                mean = dtensor.local_share_of_mean(mean, self.weight, self.dim)
        else:
            self.check_uncut(self.weight)
            by_channel = self._by_channel(weight)
            mean = by_channel.mean(list(range(2, by_channel.ndim)), dtype=wide).flatten()
            mean = mean / dtensor.num_replicas(self.weight) if dtensor.is_dtensor(self.weight) else mean
        return self.of_units(mean, 0)

    def of_units(self, tensor: Tensor, dim: int) -> Tensor:
        """The units' part of a tensor with the slot's positions along ``dim`` -> there (num_units, block)."""
        if self.positions is not None:
            tensor = tensor.index_select(dim, self.positions.flatten().to(tensor.device))
        elif tensor.shape[dim] != self.num_units * self.block:
            tensor = tensor.narrow(dim, self.offset, self.num_units * self.block)
        shape = tensor.shape
        return tensor.view(*shape[:dim], self.num_units, self.block, *shape[dim + 1 :])

    def weighted_sum(self, units: Tensor, values: Tensor) -> Tensor:
        """What constant features ``values`` (k,) of ``units`` add to the consumer: sum of w * value over units and
        kernel -> (out,).

        For convolutions that is the sum at interior positions, where the whole kernel lies inside the input. Of a
        sharded weight: for the outputs that lie here.
        """
        weight = self.weight.detach()
        values = values.repeat_interleave(self.block) if self.block > 1 else values
        if self.groups == 1:
            local, index, kept = dtensor.locate_local(weight, self.dim, self.index(units))
            columns = local.movedim(self.dim, 1).index_select(1, index).to(values.dtype)
            if columns.ndim > 2:
                columns = columns.flatten(2).sum(2)
            # a product and a sum, not a matrix product: autocast would round that to half precision
            moved = (columns * (values if kept is None else values[kept])).sum(1)
            return dtensor.all_reduce_shards_(moved, weight, self.dim)
        group, channel = self._channel(units)
        columns = self._by_channel(weight)[group, channel].to(values.dtype)
        columns = columns.flatten(2).sum(2) if columns.ndim > 2 else columns
        per_unit = columns * values[:, None]
        out = per_unit.new_zeros(self.groups, per_unit.shape[1])
        return out.index_add_(0, group, per_unit).flatten()

    def dim_of(self, tensor: Tensor) -> int:
        """The units' dimension of a tensor shaped like a parameter of the module."""
        return self.dim if tensor.ndim > 1 else 0

    def check_uncut(self, tensor: Tensor) -> None:
        """Refuse shards of a tensor of a grouped convolution: its rows say which units its columns are."""
        if self.groups > 1 and dtensor.is_split(tensor):
            raise TypeError(f"{self.name!r} reads the units in {self.groups} groups: its weight cannot lie in shards")

    def _by_channel(self, tensor: Tensor) -> Tensor:
        self.check_uncut(tensor)
        # a view in any memory format, where reshape would copy a channels-last weight
        return torch.unflatten(dtensor.local_part(tensor), 0, (self.groups, -1)).transpose(1, 2)

    def _channel(self, units: Tensor) -> tuple[Tensor, Tensor]:
        position, per_group = self.index(units), self.weight.shape[1]
        return position // per_group, position % per_group

    def __str__(self) -> str:
        where = "rows" if self.dim == 0 else "columns"
        extra = f", {self.block} per unit" if self.block > 1 else ""
        extra += f", from {self.offset}" if self.offset else ""
        extra += ", scattered" if self.positions is not None else ""
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
    state: Any = field(init=False, repr=False)

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

    @cached_property
    def drawn(self) -> tuple[Slot, ...]:
        """Slots whose weights a fresh unit draws: its producers' and those of depthwise convolutions on its way."""
        return (*self.incoming, *(slot for slot in self.scales if isinstance(slot.module, CONV_LAYERS)))

    @cached_property
    def taps(self) -> tuple[Slot, ...]:
        """For each value of the units that consumers read, the first consumer that reads it."""
        return tuple({slot.tap: slot for slot in reversed(self.outgoing)}[tap] for tap in self.tap_numbers)

    @cached_property
    def tap_numbers(self) -> tuple[int, ...]:
        """The different tap numbers, in the order of the consumers."""
        return tuple(dict.fromkeys(slot.tap for slot in self.outgoing))

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
