"""Interval: every so many steps, over several fits."""

from __future__ import annotations


class Interval:
    """Says when a multiple of a number of steps has been reached, counted over all fits.

    A trainer's step may rise by more than one at a time, as with several optimizers, stay the same while gradients are
    accumulated, and begin at 0 again in a further fit.
    """

    def __init__(self) -> None:
        self._offset = self._total = 0

    def begin(self, step: int) -> None:
        """A fit begins, or continues from a checkpoint, at this step of the trainer."""
        self._offset = self._total - step if step < self._total else 0
        self._total = step + self._offset

    def is_due(self, step: int, every: int) -> bool:
        """True if a multiple of ``every`` has been reached since the last call."""
        before, self._total = self._total, step + self._offset
        return self._total // every > before // every

    @property
    def total(self) -> int:
        """The number of steps of all fits."""
        return self._total
