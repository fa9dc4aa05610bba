"""Where in the training a piece of work lies: stage, epoch, batches."""

from __future__ import annotations

from typing import NamedTuple


class Piece(NamedTuple):
    """A piece of work: some batches of an epoch of a stage, all counted from 0."""

    stage: int
    classes: int
    """told apart in this stage"""
    epoch: int
    first: int
    """batch"""
    last: int
    """batch, not included"""
    ends_epoch: bool
    ends_stage: bool


class Stages:
    """The stages, each with some classes more.

    Args:
        classes: all there are; the last stage has all of them.
        step: classes more in each stage.
        epochs: in each stage.
        images: of each class.
        batch: images in a batch; an epoch's last one may be smaller.
        piece: batches in a piece of work.

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
        self._pieces = [-(-batches // piece) for batches in self._batches]  # of an epoch
        self.total = epochs * sum(self._pieces)

    def __len__(self) -> int:
        return len(self.classes)

    def piece(self, done: int) -> Piece:
        """Of the piece that comes after so many."""
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
