"""The stages, divided into pieces of work."""

from __future__ import annotations

from typing import NamedTuple


class Piece(NamedTuple):
    """A piece of work: some batches of an epoch of a stage, all counted from 0."""

    stage: int
    classes: int
    """number of classes in this stage"""
    epoch: int
    first: int
    """first batch"""
    last: int
    """last batch, exclusive"""
    ends_epoch: bool
    ends_stage: bool


class Stages:
    """The stages, each with more classes than the previous one.

    Args:
        classes: number of all classes, which are those of the last stage.
        step: number of classes added in each stage.
        epochs: number of epochs of each stage.
        images: number of images of each class.
        batch: number of images in a batch; the last of an epoch may be smaller.
        piece: number of batches in a piece of work.

    Attributes:
        total: number of pieces.

    >>> stages = Stages(classes=3, step=2, epochs=2, images=20, batch=10, piece=3)
    >>> stages.total
    8
    >>> stages.piece(5)
    Piece(stage=1, classes=3, epoch=0, first=3, last=6, ends_epoch=True, ends_stage=False)
    """

    def __init__(self, classes: int, step: int, epochs: int, images: int, batch: int, piece: int) -> None:
        self.classes = [min(first + step, classes) for first in range(0, classes, step)]
        self.epochs, self._piece = epochs, piece
        self._batches = [-(-images * seen // batch) for seen in self.classes]
        self._pieces = [-(-batches // piece) for batches in self._batches]  # pieces per epoch
        self.total = epochs * sum(self._pieces)

    def __len__(self) -> int:
        return len(self.classes)

    def piece(self, done: int) -> Piece:
        """The piece that follows after ``done`` pieces."""
        stage = 0
        while done >= self.epochs * self._pieces[stage]:
            done -= self.epochs * self._pieces[stage]
            stage += 1
        epoch, piece = divmod(done, self._pieces[stage])
        first = piece * self._piece
        last = min(first + self._piece, self._batches[stage])
        ends_epoch = last == self._batches[stage]
        ends_stage = ends_epoch and epoch + 1 == self.epochs
        return Piece(stage, self.classes[stage], epoch, first, last, ends_epoch, ends_stage)
