"""Sharded tensors (DTensor, of FSDP2 and tensor parallel plans): which part of a tensor lies on this process.

Everything here is the identity for plain tensors. Of a DTensor each process touches just its own part, at the global
positions that the placements say; what needs the other parts goes through one sum over the processes.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    # a DTensor can only exist once its module was imported, which by itself takes a while
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory."""
    if not is_sharded(tensor):
        return tensor
    part = tensor._local_tensor if not tensor.requires_grad else tensor.detach()._local_tensor  # type: ignore[attr-defined]
    assert isinstance(part, Tensor)
    return part


def is_cut(tensor: Tensor) -> bool:
    """Whether a tensor lies in parts on several processes; the same answer on each of them."""
    return is_sharded(tensor) and replicas(tensor) < processes(tensor)


def extent(tensor: Tensor, dim: int) -> tuple[int, int]:
    """Where this process's part begins along ``dim`` of the whole tensor, and how long it is."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    whole: Any = tensor
    shape, offset = compute_local_shape_and_global_offset(whole.shape, whole.device_mesh, whole.placements)
    return int(offset[dim]), int(shape[dim])


def locate(tensor: Tensor, dim: int, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The local part, where in it those positions of ``index`` lie that it has, and which they are (None: all)."""
    if not is_sharded(tensor):
        return tensor, index, None
    part = local(tensor)
    if part.shape[dim] == tensor.shape[dim]:
        return part, index, None
    start, length = extent(tensor, dim)
    kept = (index >= start) & (index < start + length)
    return part, index[kept] - start, kept


def like_part(rows: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Of ``rows``, (k, shape of ``weight`` without ``dim``), what this process's part of ``weight`` holds."""
    if is_sharded(weight):
        others = [d for d in range(weight.ndim) if d != dim]
        for place, other in enumerate(others, start=1):
            if local(weight).shape[other] != weight.shape[other]:
                start, length = extent(weight, other)
                rows = rows.narrow(place, start, length)
    return rows


def part_of(values: Tensor, tensor: Tensor) -> Tensor:
    """Of ``values``, for each position along dimension 0 of ``tensor`` or for those of this process, the latter."""
    if not is_sharded(tensor) or len(values) == len(local(tensor)):
        return values
    return values.narrow(0, *extent(tensor, 0))


def spread(feature: Tensor, dim: int) -> tuple[Tensor, Tensor | None]:
    """This process's part of a feature, 0 at those positions along ``dim`` that lie elsewhere; and, where some do, what
    the means of each position weigh here, so that they can be summed over all processes: (positions,).
    """
    whole: Any = feature
    dim %= feature.ndim
    if any(placement.is_partial() for placement in whole.placements):
        raise ValueError(f"a consumer reads a feature with placements {whole.placements}: partial sums are no features")
    part = local(feature)
    sizes = zip(whole.device_mesh.shape, whole.placements, strict=True)
    shares = math.prod(size for size, placement in sizes if placement.is_shard(dim))
    if shares == 1:
        return part, None
    start, length = extent(feature, dim)
    padded = part.new_zeros(*part.shape[:dim], feature.shape[dim], *part.shape[dim + 1 :])
    padded.narrow(dim, start, length).copy_(part)
    weight = torch.zeros(feature.shape[dim], dtype=torch.float32, device=part.device)
    # the samples of all processes are counted, and so many processes see the same ones, each at other positions
    weight[start : start + length] = shares
    return padded, weight


def processes(tensor: Tensor) -> int:
    """The number of processes of a DTensor's mesh."""
    whole: Any = tensor
    return int(whole.device_mesh.size())


def replicas(tensor: Tensor) -> float:
    """On how many processes each element of a DTensor lies."""
    whole: Any = tensor
    copies = 1
    for size, placement in zip(whole.device_mesh.shape, whole.placements, strict=True):
        copies *= size if placement.is_replicate() else 1
    return copies


def share_of_mean(mean: Tensor, weight: Tensor, dim: int) -> Tensor:
    """From ``mean`` over this part's other dimensions: what this process adds to the mean over the whole, (positions,).

    The sum of all processes' shares is the mean.
    """
    part = local(weight)
    here, whole = part.numel() // max(part.shape[dim], 1), weight.numel() // weight.shape[dim]
    share = mean.new_zeros(weight.shape[dim])
    if part.numel():
        start, length = extent(weight, dim)
        share[start : start + length] = mean * (here / whole / replicas(weight))
    return share


def sum_over_shards_(values: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Sum ``values`` over the processes that hold other positions along ``dim`` of ``weight``, in place."""
    if is_sharded(weight):
        whole: Any = weight
        for mesh_dim, placement in enumerate(whole.placements):
            if placement.is_shard(dim):
                dist.all_reduce(values, group=whole.device_mesh.get_group(mesh_dim))
    return values
