"""Writing the slices of a tensor, shaped like a parameter, that belong to some units: positions along a dimension.

The arguments are those of ``reset_units`` (`gnt.replacement.Follower`). Of a sharded tensor (DTensor) the part that
this process holds is written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnt.distributed import dtensor


def by_channel(tensor: Tensor, groups: int) -> Tensor:
    """A weight of a grouped convolution as (groups, in / groups, out / groups, *kernel), in the same memory."""
    # a view in any memory format, whereas reshape would copy a channels-last weight
    return torch.unflatten(dtensor.local_part(tensor), 0, (groups, -1)).transpose(1, 2)


def channel_index(index: Tensor, per_group: int) -> tuple[Tensor, Tensor]:
    """Group, and channel within the group, of each input channel."""
    return index // per_group, index % per_group


@torch.no_grad()
def fill_slices(tensor: Tensor, dim: int, index: Tensor, value: float, groups: int = 1) -> None:
    """Set slices of a tensor to a number.

    Args:
        tensor: a tensor shaped like the parameter; it is changed in place.
        dim: the dimension along which the units are.
        index: positions along ``dim``, int64.
        value: the number.
        groups: for ``dim`` 1 of a grouped convolution's weight (out, in / groups, *kernel) its number of groups;
            ``index`` then contains input channels 0..in-1.

    >>> import torch
    >>> tensor = torch.ones(2, 3)
    >>> fill_slices(tensor, 1, torch.tensor([0, 2]), 0.0)
    >>> tensor
    tensor([[0., 1., 0.],
            [0., 1., 0.]])
    """
    index = index.to(tensor.device)
    if groups == 1:
        local, index, _ = dtensor.locate_local(tensor, dim, index)
        local.index_fill_(dim, index, value)
    else:
        view = by_channel(tensor, groups)
        view.index_put_(channel_index(index, tensor.shape[1]), view.new_full((), value))


@torch.no_grad()
def copy_slices(tensor: Tensor, source: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
    """Copy slices of ``source`` into ``tensor``; both are shaped like the parameter.

    Args:
        tensor: it is changed in place. Its dtype and device may differ from those of ``source``.
        source: where the values come from.
        dim, index, groups: as for `fill_slices`.

    >>> import torch
    >>> tensor = torch.zeros(2, 3)
    >>> copy_slices(tensor, torch.ones(2, 3), 0, torch.tensor([1]))
    >>> tensor
    tensor([[0., 0., 0.],
            [1., 1., 1.]])
    """
    index = index.to(tensor.device)
    if groups == 1:
        local, index, _ = dtensor.locate_local(tensor, dim, index)
        values = dtensor.local_part(source).index_select(dim, index.to(source.device))
        local.index_copy_(dim, index, values.to(local.device, local.dtype))
    else:
        pair = channel_index(index, tensor.shape[1])
        values = by_channel(source, groups)[tuple(each.to(source.device) for each in pair)]
        by_channel(tensor, groups).index_put_(pair, values.to(tensor.device, tensor.dtype))


def read_slices(tensor: Tensor, dim: int, index: Tensor, groups: int = 1) -> Tensor:
    """Copy slices out of a tensor; `write_slices` with the same arguments puts values of their shape back.

    >>> import torch
    >>> read_slices(torch.arange(6).view(2, 3), 1, torch.tensor([2, 0]))
    tensor([[2, 0],
            [5, 3]])
    """
    index = index.to(tensor.device)
    if groups == 1 or dim != 1:
        local, index, _ = dtensor.locate_local(tensor, dim, index)
        return local.index_select(dim, index)
    return by_channel(tensor, groups)[channel_index(index, tensor.shape[1])]


@torch.no_grad()
def write_slices(tensor: Tensor, values: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
    """Set slices of a tensor to the values that `read_slices` has returned, or others of their shape."""
    index = index.to(tensor.device)
    if groups == 1 or dim != 1:
        local, index, _ = dtensor.locate_local(tensor, dim, index)
        local.index_copy_(dim, index, values)
    else:
        by_channel(tensor, groups).index_put_(channel_index(index, tensor.shape[1]), values)
