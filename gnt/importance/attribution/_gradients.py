"""Attributions of one forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from gnt.importance.attribution._evaluation import Evaluation, gradients_of
from gnt.importance.attribution._operations import OnlyHomogeneous
from gnt.importance.attribution._reads import Read
from gnt.units import CONV_LAYERS, Slot


def gradient_activation(of: Evaluation) -> tuple[list[Read], list[Tensor]]:
    """H dF/dh of each read."""
    reads, gradients = of.gradients(of.x)
    return reads, [read.value.detach() * gradient for read, gradient in zip(reads, gradients, strict=True)]


def gradcam(of: Evaluation) -> tuple[list[Read], list[Tensor]]:
    """H times the mean of dF/dh over the places of the channel, flattened ones too; of units of one place h dF/dh."""
    reads, gradients = of.gradients(of.x)
    found = []
    for read, gradient in zip(reads, gradients, strict=True):
        slot = read.readers[0].slot
        if isinstance(slot.module, CONV_LAYERS):
            gradient = gradient.mean(list(range(2 - slot.weight.ndim, 0)), keepdim=True)
        for reader in read.readers:
            gradient = _mean_over_block(gradient, reader.slot)
        found.append(read.value.detach() * gradient)
    return reads, found


def _mean_over_block(gradient: Tensor, slot: Slot) -> Tensor:
    """The gradient with that of each position of a unit replaced by their mean."""
    if slot.block == 1:
        return gradient
    dim = 1 - slot.weight.ndim if isinstance(slot.module, CONV_LAYERS) else -1
    positions = slot.index(torch.arange(slot.num_units, device=gradient.device))
    of_units = gradient.index_select(dim, positions).unflatten(dim, (slot.num_units, slot.block))
    means = of_units.mean(dim, keepdim=True)
    return gradient.index_copy(dim, positions, means.expand_as(of_units).flatten(dim - 1, dim))


def lrp(of: Evaluation) -> tuple[list[Read], list[Tensor]]:
    """The relevance of each read: h dF/dh, where all activations between units and output are homogeneous."""
    with OnlyHomogeneous("lrp") as check:
        output, reads = of.output(of.x)
    check.check_seen(output)
    gradients = gradients_of(of.values(output), reads)
    return reads, [read.value.detach() * gradient for read, gradient in zip(reads, gradients, strict=True)]
