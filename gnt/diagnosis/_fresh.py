"""What the copies learn: fresh labels, permuted inputs, or the data as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import torch
from torch import Tensor

from gnt.diagnosis._batches import Batch
from gnt.names import FreshTask

FRESH = get_args(FreshTask)
PASSES = 50  # over the samples, for labels that can only be learned by heart


def pool_size(fresh: str, steps: int) -> int:
    """Number of batches to learn from: labels without a rule need several passes over few samples."""
    return max(1, steps // PASSES) if fresh == "labels" else steps


def fresh_task(batches: Sequence[Batch], fresh: str, seed: int) -> list[Batch]:
    """The batches of one seed.

    "labels": the targets in a random order, so that each sample has the target of another one; over all batches if
    their shapes allow that, otherwise within each batch. "permutation": the entries of each sample of a tensor x in a
    random order, the same for all samples. "data": unchanged.

    Raises:
        ValueError: "permutation" of inputs that are not one floating-point tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    if fresh == "labels":
        targets = [batch.y for batch in batches]
        if len({target.shape[1:] for target in targets}) == 1:
            joined = torch.cat(targets)
            targets = list(torch.split(_shuffled(joined, generator), [len(each) for each in targets]))
        else:
            targets = [_shuffled(target, generator) for target in targets]
        return [Batch(batch.x, target) for batch, target in zip(batches, targets, strict=True)]
    if fresh == "permutation":
        first = batches[0].x
        if not isinstance(first, Tensor) or not first.is_floating_point() or first.ndim < 2:
            raise ValueError(
                "fresh='permutation' needs inputs that are one floating-point tensor (batch, ...): use fresh='labels'"
            )
        order = torch.randperm(first[0].numel(), generator=generator, device="cpu")
        return [Batch(_permuted(batch.x, order), batch.y) for batch in batches]
    return list(batches)


def in_passes(batches: Sequence[Batch], steps: int, seed: int) -> Iterator[Batch]:
    """``steps`` batches: all of them in a random order, and again in another one."""
    generator = torch.Generator().manual_seed(seed)
    taken = 0
    while taken < steps:
        for number in torch.randperm(len(batches), generator=generator, device="cpu").tolist()[: steps - taken]:
            yield batches[number]
            taken += 1


def _shuffled(target: Tensor, generator: torch.Generator) -> Tensor:
    return target[torch.randperm(len(target), generator=generator, device="cpu").to(target.device)]


def _permuted(x: object, order: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim < 2 or x[0].numel() != len(order):
        raise ValueError("fresh='permutation' needs inputs of the same shape in all batches")
    return x.flatten(1)[:, order.to(x.device)].reshape(x.shape)
