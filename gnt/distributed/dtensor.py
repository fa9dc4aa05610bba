"""Access to this process's part of a DTensor (FSDP2, tensor parallel plans).

Functions that also take plain tensors leave those as they are. For a DTensor each process reads and writes only
its local part, at the global positions given by the placements; results that need the other parts are obtained by one
sum over the processes.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_dtensor(tensor: Tensor) -> bool:
    """True for a DTensor."""
    # a DTensor exists only if its module is imported already; importing it here would be slow
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, as a view of the same memory."""
    if not is_dtensor(tensor):
        return tensor
    part = tensor._local_tensor if not tensor.requires_grad else tensor.detach()._local_tensor  # type: ignore[attr-defined]
    assert isinstance(part, Tensor)
    return part


def is_split(tensor: Tensor) -> bool:
    """True if the elements of a tensor are distributed over several processes; the same on every process."""
    return is_dtensor(tensor) and num_replicas(tensor) < mesh_size(tensor)


def local_range(tensor: Tensor, dim: int) -> tuple[int, int]:
    """Start and length, along ``dim`` of the global tensor, of this process's part."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    whole: Any = tensor
    shape, offset = compute_local_shape_and_global_offset(whole.shape, whole.device_mesh, whole.placements)
    return int(offset[dim]), int(shape[dim])


def locate_local(tensor: Tensor, dim: int, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Local part, local positions of the entries of ``index`` that it holds, and their mask (None: all)."""
    if not is_dtensor(tensor):
        return tensor, index, None
    part = local_part(tensor)
    if part.shape[dim] == tensor.shape[dim]:
        return part, index, None
    start, length = local_range(tensor, dim)
    kept = (index >= start) & (index < start + length)
    return part, index[kept] - start, kept


def narrow_to_local(rows: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Narrow ``rows``, (k, shape of ``weight`` without ``dim``), to this process's part of ``weight``."""
    if is_dtensor(weight):
        others = [d for d in range(weight.ndim) if d != dim]
        for place, other in enumerate(others, start=1):
            if local_part(weight).shape[other] != weight.shape[other]:
                start, length = local_range(weight, other)
                rows = rows.narrow(place, start, length)
    return rows


def local_values(values: Tensor, tensor: Tensor) -> Tensor:
    """Values for this process's positions along dimension 0 of ``tensor``, from values for all of them or for these."""
    if not is_dtensor(tensor) or len(values) == len(local_part(tensor)):
        return values
    return values.narrow(0, *local_range(tensor, 0))


def pad_to_global(feature: Tensor, dim: int) -> tuple[Tensor, Tensor | None]:
    """Pad this process's part of a feature with zeros along ``dim`` to the global size.

    Returns:
        The padded feature and, if other processes hold some of the positions, the factors (positions,) by which the
        means of each position are multiplied here so that their sum over all processes is the global mean.
    """
    whole: Any = feature
    dim %= feature.ndim
    if any(placement.is_partial() for placement in whole.placements):
        raise ValueError(
            f"a consumer reads a feature with placements {whole.placements}; partial sums cannot be used as features"
        )
    part = local_part(feature)
    sizes = zip(whole.device_mesh.shape, whole.placements, strict=True)
    shares = math.prod(size for size, placement in sizes if placement.is_shard(dim))
    if shares == 1:
        return part, None
    start, length = local_range(feature, dim)
    padded = part.new_zeros(*part.shape[:dim], feature.shape[dim], *part.shape[dim + 1 :])
    padded.narrow(dim, start, length).copy_(part)
    weight = torch.zeros(feature.shape[dim], dtype=torch.float32, device=part.device)
    # the sample count includes these samples ``shares`` times, but each position only once
    weight[start : start + length] = shares
    return padded, weight


def mesh_size(tensor: Tensor) -> int:
    """Number of processes in the mesh of a DTensor."""
    whole: Any = tensor
    return int(whole.device_mesh.size())


def num_replicas(tensor: Tensor) -> float:
    """Number of processes that hold each element of a DTensor."""
    whole: Any = tensor
    copies = 1
    for size, placement in zip(whole.device_mesh.shape, whole.placements, strict=True):
        copies *= size if placement.is_replicate() else 1
    return copies


def local_share_of_mean(mean: Tensor, weight: Tensor, dim: int) -> Tensor:
    """This process's share of the global mean along ``dim``, from ``mean`` over the local part: (positions,).

    The sum of the shares of all processes is the global mean.
    """
    part = local_part(weight)
    here, whole = part.numel() // max(part.shape[dim], 1), weight.numel() // weight.shape[dim]
    share = mean.new_zeros(weight.shape[dim])
    if part.numel():
        start, length = local_range(weight, dim)
        share[start : start + length] = mean * (here / whole / num_replicas(weight))
    return share


def all_reduce_shards_(values: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Sum ``values``, in place, over the processes that hold the other positions along ``dim`` of ``weight``."""
    if is_dtensor(weight):
        whole: Any = weight
        for mesh_dim, placement in enumerate(whole.placements):
            if placement.is_shard(dim):
                dist.all_reduce(values, group=whole.device_mesh.get_group(mesh_dim))
    return values
