"""The images of split digits, by class."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from ..datasets import LabelledImages, mnist_images, mnist_or_fashion
from ..errors import CannotRun
from ..seeds import stream
from .scenarios import CLASSES, PER_TASK

_CHOICE_SEED: Final = 10  # fixed: the images are the same for all seeds of a run


class ClassImages(NamedTuple):
    """Training and test images of each class, (classes, images, pixels) in [0, 1]."""

    train: Tensor
    test: Tensor


def load_images(source: str, folder: str, train: int, test: int) -> ClassImages:
    """Equally many images of each class: ``train`` and ``test`` are numbers for a task of two classes.

    Raises:
        CannotRun: the data are missing, or have fewer images or other numbers of classes.
    """
    if source == "digits" and not folder:
        digits = mnist_images()
        each = _by_class(digits, (train + test) // PER_TASK, "digits")
        return ClassImages(each[:, : train // PER_TASK], each[:, train // PER_TASK :])
    data = mnist_or_fashion("fashion" if source == "digits" else source, folder)
    return ClassImages(
        _by_class(data.train, train // PER_TASK, "training images"),
        _by_class(data.test, test // PER_TASK, "test images"),
    )


def _by_class(data: LabelledImages, count: int, what: str) -> Tensor:
    generator = torch.Generator().manual_seed(_CHOICE_SEED)
    images = data.in_unit_range().flatten(1)
    chosen = []
    for label in range(CLASSES):
        of_class = (data.labels == label).nonzero().view(-1)
        if len(of_class) < count:
            raise CannotRun(f"there are {len(of_class)} {what} of class {label}, fewer than the {count} asked for")
        chosen.append(images[of_class[torch.randperm(len(of_class), generator=generator)[:count]]])
    return torch.stack(chosen)


def class_order(images: ClassImages, order: str, seed: int) -> Tensor:
    """The classes in the order in which they come, two in each task.

    Pairs are drawn by the seed. With another order than "random" they are sorted by the share of their training images
    that are nearer to the mean of the other class.
    """
    classes = torch.randperm(CLASSES, generator=stream(seed, "classes"))
    if order == "random":
        return classes
    pairs = classes.view(-1, PER_TASK)
    means = images.train.mean(1)
    errors = []
    for one, other in pairs.tolist():
        wrong = [
            (images.train[a] - means[b]).norm(dim=1) < (images.train[a] - means[a]).norm(dim=1)
            for a, b in ((one, other), (other, one))
        ]
        errors.append(float(torch.cat(wrong).double().mean()))
    ranked = sorted(range(len(pairs)), key=errors.__getitem__)
    return pairs[ranked if order == "easy_to_hard" else ranked[::-1]].flatten()
