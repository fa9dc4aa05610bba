"""`Slot`: the positions of a group's units in the weight, bias and statistics of one module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnt.distributed import dtensor
from gnt.units._activations import Activation
from gnt.units._slices import by_channel, channel_index, copy_slices, fill_slices


@dataclass(frozen=True, eq=False)
class Slot:
    """The positions of a group's units in the tensors of one module.

    Unit ``i`` owns positions ``offset + i * block ... offset + (i + 1) * block - 1`` along dimension ``dim`` of the
    weight, or ``positions[i]`` if ``positions`` is given. ``block`` is larger than 1 if the channels of a convolution
    are flattened for a linear consumer. One-dimensional tensors (a bias, the weight of a norm) are indexed along their
    only dimension.

    Attributes:
        name: path of the module in the model.
        module: the module.
        num_units: number of units.
        dim: dimension of the weight that the units index: 0 for the rows of a producer, 1 for the columns of a
            consumer. The other way round for modules that store their weight as (in, out).
        block: number of positions per unit.
        offset: first position of the first unit.
        groups: for a consumer, the ``groups`` of a grouped convolution (or another layer with `input_groups`). Its
            weight of shape (out, in / groups, *kernel) then indexes the input channels group by group.
        positions: int64 tensor (num_units, block) on the CPU, if block and offset do not describe the positions.
        tap: consumers with the same number read the same values of the units. A different number means different
            values, such as the same channels before and after pooling.
        activation: activation of this producer, if it differs from the group's.
        values: for a module between producer and consumer, the names of its parameters with one entry per unit, and
            their values for a replaced unit, such as ``{"gamma": 0.0, "beta": 0.0}``. None: those of a norm (weight 1,
            bias 0, running mean 0, running variance 1) or PReLU.
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
    values: Mapping[str, float] | None = None

    @property
    def weight(self) -> Tensor:
        """The module's current weight; looked up on each access, because moving a network may replace it."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The module's current bias, or None."""
        bias = self.module.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    @property
    def width(self) -> int:
        """Number of positions along the units' dimension; for a consumer the number of inputs it reads."""
        return self.weight.shape[self.dim] * self.groups

    @property
    def fan(self) -> int:
        """Number of weights per position.

        For a producer this is the fan-in of a unit, for a consumer the number of outputs (times the kernel size) that
        read one input position.
        """
        return self.weight.numel() // self.width

    @property
    def rest(self) -> tuple[int, ...]:
        """Shape of the weight without the units' dimension; for a producer the shape of one unit's weights."""
        shape = self.weight.shape
        return (*shape[: self.dim], *shape[self.dim + 1 :])

    @property
    def reach(self) -> int:
        """The position after the last one that belongs to a unit."""
        if self.positions is not None:
            return int(self.positions.max()) + 1
        return self.offset + self.num_units * self.block

    def index(self, units: Tensor) -> Tensor:
        """Positions of ``units`` along ``dim``, unit by unit: (k,) -> (k * block,)."""
        if self.positions is not None:
            return self.positions.to(units.device)[units].flatten()
        if self.block == 1:
            return units + self.offset if self.offset else units
        within = torch.arange(self.offset, self.offset + self.block, device=units.device)
        return (units[:, None] * self.block + within).flatten()

    def fill_(self, tensor: Tensor, units: Tensor, value: float) -> None:
        """Set the units' part of ``tensor``, which is shaped like a parameter of the module, to ``value``."""
        self.check_sharding(tensor)
        fill_slices(tensor, self.dim_of(tensor), self.index(units), value, self.groups)

    def copy_(self, tensor: Tensor, source: Tensor, units: Tensor) -> None:
        """Copy the units' part of ``source`` into ``tensor``; both are shaped like a parameter of the module."""
        self.check_sharding(tensor)
        copy_slices(tensor, source, self.dim_of(tensor), self.index(units), self.groups)

    def write_(self, units: Tensor, rows: Tensor) -> None:
        """Set the weights of ``units`` to ``rows``, of shape (k, *rest) or (k * block, *rest)."""
        weight = self.weight.detach()
        local, index, kept = dtensor.locate_local(weight, self.dim, self.index(units))
        rows = rows.reshape(-1, *self.rest)
        rows = dtensor.narrow_to_local(rows if kept is None else rows[kept], weight, self.dim)
        local.index_copy_(self.dim, index, rows.movedim(0, self.dim))

    def write_biases_(self, units: Tensor, values: Tensor) -> None:
        """Set the biases of ``units`` to ``values``, of shape (k * block,)."""
        assert self.bias is not None
        local, index, kept = dtensor.locate_local(self.bias.detach(), 0, self.index(units))
        local.index_copy_(0, index, values if kept is None else values[kept])

    def mean_magnitude(self, tensor: Tensor | None = None, *, squared: bool = False) -> Tensor:
        """Mean of |w| over all dimensions but the units': (num_units, block), in float32 or wider.

        For a consumer this is the mean outgoing weight magnitude of each position, for a producer the mean over the
        fan-in. For a sharded weight it is this process's share of the mean.

        Args:
            tensor: a tensor shaped and placed like the weight, such as its gradient, in place of the weight.
            squared: the mean of w^2 instead.
        """
        weight = dtensor.local_part((self.weight if tensor is None else tensor).detach())
        dtype = None if weight.element_size() >= 4 else torch.float32
        weight = (
            weight.square() if squared and dtype is None else weight.to(dtype).square() if squared else weight.abs()
        )
        if self.groups == 1:
            other_dims = [d for d in range(weight.ndim) if d != self.dim]
            mean = weight.mean(other_dims, dtype=dtype)
            if dtensor.is_dtensor(self.weight):
                mean = dtensor.local_share_of_mean(mean, self.weight, self.dim)
        else:
            self.check_sharding(self.weight)
            by_channel = self._by_channel(weight)
            mean = by_channel.mean(list(range(2, by_channel.ndim)), dtype=dtype).flatten()
            mean = mean / dtensor.num_replicas(self.weight) if dtensor.is_dtensor(self.weight) else mean
        return self.of_units(mean, 0)

    def of_units(self, tensor: Tensor, dim: int) -> Tensor:
        """Select the units' part along ``dim`` of a tensor and split that dimension into (num_units, block)."""
        if self.positions is not None:
            tensor = tensor.index_select(dim, self.positions.flatten().to(tensor.device))
        elif tensor.shape[dim] != self.num_units * self.block:
            tensor = tensor.narrow(dim, self.offset, self.num_units * self.block)
        shape = tensor.shape
        return tensor.view(*shape[:dim], self.num_units, self.block, *shape[dim + 1 :])

    def weighted_sum(self, units: Tensor, values: Tensor) -> Tensor:
        """Contribution of constant features ``values`` (k,) of ``units`` to the consumer's outputs: (out,).

        This is the sum of w * value over units and kernel. For a convolution it holds at interior positions, where the
        whole kernel lies inside the input. For a sharded weight the result covers the outputs of this process.
        """
        weight = self.weight.detach()
        values = values.repeat_interleave(self.block) if self.block > 1 else values
        if self.groups == 1:
            local, index, kept = dtensor.locate_local(weight, self.dim, self.index(units))
            columns = local.movedim(self.dim, 1).index_select(1, index).to(values.dtype)
            if columns.ndim > 2:
                columns = columns.flatten(2).sum(2)
            # a product and a sum instead of a matrix product, which autocast would round to half precision
            total = (columns * (values if kept is None else values[kept])).sum(1)
            return dtensor.all_reduce_shards_(total, weight, self.dim)
        group, channel = self._channel_index(units)
        columns = self._by_channel(weight)[group, channel].to(values.dtype)
        columns = columns.flatten(2).sum(2) if columns.ndim > 2 else columns
        per_unit = columns * values[:, None]
        out = per_unit.new_zeros(self.groups, per_unit.shape[1])
        return out.index_add_(0, group, per_unit).flatten()

    def size_in(self, tensor: Tensor) -> int:
        """Number of elements that one unit owns in a tensor shaped like a parameter of the module."""
        positions = tensor.shape[self.dim_of(tensor)] * (self.groups if tensor.ndim > 1 else 1)
        return self.block * tensor.numel() // positions

    def dim_of(self, tensor: Tensor) -> int:
        """The units' dimension of a tensor shaped like a parameter of the module."""
        return self.dim if tensor.ndim > 1 else 0

    def check_sharding(self, tensor: Tensor) -> None:
        """Raise TypeError for a sharded tensor of a grouped convolution.

        There the row determines which unit a column belongs to, so a shard of it cannot be indexed by unit.
        """
        if self.groups > 1 and dtensor.is_split(tensor):
            raise TypeError(f"{self.name!r} reads the units in {self.groups} groups: its weight cannot be sharded")

    def _by_channel(self, tensor: Tensor) -> Tensor:
        """A weight of a grouped convolution as (groups, in / groups, out / groups, *kernel)."""
        self.check_sharding(tensor)
        return by_channel(tensor, self.groups)

    def _channel_index(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Group, and channel within the group, of each input position of ``units``."""
        return channel_index(self.index(units), self.weight.shape[1])

    def __str__(self) -> str:
        side = "entries" if self.values is not None else "rows" if self.dim == 0 else "columns"
        extra = f", {self.block} per unit" if self.block > 1 else ""
        extra += f", offset={self.offset}" if self.offset else ""
        extra += ", scattered" if self.positions is not None else ""
        extra += f", groups={self.groups}" if self.groups > 1 else ""
        return f"{self.name} {type(self.module).__name__} ({side}{extra})"
