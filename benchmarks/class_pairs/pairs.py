"""The pair of classes of each task, and its images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..datasets.classes import ClassSource, sample_images
from ..errors import CannotRun
from ..seeds import stream


def draw_pairs(tasks: int, classes: int, seed: int) -> Tensor:
    """An ordered pair of different classes for each task: int64 of (tasks, 2).

    Each pair is uniform among all pairs except that of the previous task in either order. Earlier pairs can recur.

    Raises:
        ValueError: there are fewer than three classes.

    >>> draw_pairs(3, 10, seed=0)
    tensor([[8, 3],
            [4, 3],
            [3, 5]])
    """
    if classes < 3:
        raise ValueError(f"classes must be at least 3, got {classes}")
    generator = stream(seed, "pairs")
    pairs: list[list[int]] = []
    while len(pairs) < tasks:
        pair = torch.randperm(classes, generator=generator)[:2].tolist()
        if not pairs or set(pair) != set(pairs[-1]):
            pairs.append(pair)
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)


class Pair(NamedTuple):
    """Images, float32 of (N, channels, size, size) in [0, 1], and labels: 0 for the pair's first class, 1 for the
    second.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def make_pair(classes: ClassSource, pair: list[int], train: int, test: int, generator: torch.Generator) -> Pair:
    """The images of one pair: ``train`` and ``test`` images of each class, drawn at random.

    Raises:
        CannotRun: a class has fewer images.
    """
    xs: list[list[Tensor]] = [[], []]
    for label in pair:
        splits = classes.splits(label)
        for part, count, name, into in zip(splits, (train, test), splits._fields, xs, strict=True):
            if len(part) < count:
                raise CannotRun(f"class {label} has {len(part)} images to {name}, fewer than the {count} asked for.")
            into.append(sample_images(part, count, generator).in_unit_range())
    labels = torch.tensor([0, 1])
    return Pair(torch.cat(xs[0]), labels.repeat_interleave(train), torch.cat(xs[1]), labels.repeat_interleave(test))
