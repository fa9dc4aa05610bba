"""The step of `UPGD` in pieces that fit into a processor's cache, instead of passes over whole parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

PIECE = 2**16  # weights; a multiple of 16, as torch draws normal numbers in blocks of 16


def fits_pieces(*lists: Sequence[Tensor]) -> bool:
    """Whether tensors are large, contiguous, on the CPU and of one dtype, float32 or float64."""
    first = lists[0][0]
    return (
        sum(each.numel() for each in lists[0]) >= 2 * PIECE
        and first.dtype in (torch.float32, torch.float64)
        and all(t.device.type == "cpu" and t.dtype is first.dtype and t.is_contiguous() for own in lists for t in own)
    )


@torch.no_grad()
def change_in_pieces(
    options: Mapping[str, Any],
    params: Sequence[Tensor],
    directions: Sequence[Tensor],
    utilities: Sequence[Tensor],
    divisors: Sequence[Tensor],
    generator: torch.Generator,
) -> None:
    """Change parameters, with the same results as by whole tensors.

    Args:
        options: those of the parameter group.
        params: the parameters.
        directions: their gradients, or Adam's steps.
        utilities: their utilities.
        divisors: what utilities are divided by: 1 - U = sigmoid(utility / divisor).
        generator: generator of the noise.
    """
    decay, alpha = 1.0 - options["lr"] * options["weight_decay"], -options["factor"] * options["lr"]
    sigma, protecting = options["sigma"], options["protecting"]
    flat = [[each.detach().view(-1) for each in own] for own in (params, directions, utilities)]
    shares, drawn = params[0].new_empty(2, 2 * PIECE)
    for total, parts in _pieces([each.numel() for each in params]):
        if sigma:
            drawn[:total].normal_(0.0, sigma, generator=generator)
        used = 0
        for number, start, stop in parts:
            weights, direction, utility = (own[number][start:stop] for own in flat)
            step, used = drawn[used : used + stop - start], used + stop - start
            share = torch.div(utility, divisors[number], out=shares[: stop - start]).sigmoid_()
            if protecting:
                step = step.add_(direction).mul_(share) if sigma else share.mul_(direction)
            else:
                step = step.mul_(share).add_(direction) if sigma else direction
            if decay != 1.0:
                weights.mul_(decay)
            weights.add_(step, alpha=alpha)


def _pieces(sizes: Sequence[int]) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
    """Cut tensors, one after the other, into pieces -> the size of each, and its parts (number of tensor, start, stop).

    The last piece has between PIECE and 2 * PIECE weights, as torch draws few normal numbers in another way.
    """
    left = sum(sizes)
    piece: list[tuple[int, int, int]] = []
    room = total = PIECE if left >= 2 * PIECE else left
    for number, size in enumerate(sizes):
        start = 0
        while start < size:
            stop = min(size, start + room)
            piece.append((number, start, stop))
            room, left, start = room - (stop - start), left - (stop - start), stop
            if not room:
                yield total, piece
                piece = []
                room = total = PIECE if left >= 2 * PIECE else left
