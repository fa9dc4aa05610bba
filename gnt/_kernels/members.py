"""What kernels read of the parameters of an ensemble, each of which holds the weights of all members in turn."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor


def member_layout(
    lists: Sequence[Sequence[Tensor]], members: int, more: Sequence[tuple[int, ...]] | None = None
) -> array[int]:
    """For each member and parameter the addresses in all lists, the number of elements, and more numbers.

    Args:
        lists: the parameters, and other tensors of the same sizes.
        members: number of members; 1 for a single network.
        more: further numbers for each member and parameter, member by member.
    """
    parts = [
        ([each.data_ptr() for each in own], own[0].numel() // members, own[0].element_size())
        for own in zip(*lists, strict=True)
    ]
    fields = [
        [*(address + member * size * width for address in addresses), size]
        for member in range(members)
        for addresses, size, width in parts
    ]
    return array("q", [n for each, own in zip(fields, more or [()] * len(fields), strict=True) for n in (*each, *own)])


def noise_keys(generators: Sequence[torch.Generator]) -> list[int]:
    """The key of each member's noise (``random_normal.h``) in one step, drawn from the member's generator."""
    return [int(torch.empty((), dtype=torch.int64, device=g.device).random_(generator=g)) for g in generators]
