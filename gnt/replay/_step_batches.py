"""The batches of an optimizer step, which a buffer gets once the step was made."""

from __future__ import annotations

from torch import Tensor


class StepBatches:
    """The batches of a step that was not made yet: one, or with gradient accumulation several.

    A batch takes the place of the one before, unless `keep` was called between them.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, ...]] = []
        self._latest: tuple[Tensor, ...] | None = None

    def note(self, *batch: Tensor) -> None:
        """Note the tensors of a batch."""
        self._latest = batch

    def keep(self) -> None:
        """Keep the batch that was noted: further ones of the same step follow."""
        if self._latest is not None:
            self._kept.append(self._latest)
            self._latest = None

    @property
    def kept(self) -> bool:
        """True if earlier batches of the same step are kept."""
        return bool(self._kept)

    def take(self) -> list[tuple[Tensor, ...]]:
        """Return all batches of the step, in order, and drop them here."""
        self.keep()
        batches, self._kept = self._kept, []
        return batches

    def drop(self) -> None:
        """Drop all batches."""
        self._kept, self._latest = [], None
