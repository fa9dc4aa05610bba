"""`MemoryRange`: the memory of a tensor, to find out which tensors share it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gnt.distributed import dtensor


class MemoryRange(NamedTuple):
    """The bytes from the first to the last element of a tensor; for a sharded one, of this process's part.

    Attributes:
        storage: number of the storage. A tensor without memory (meta device) is its own storage.
        start: address of the first byte.
        stop: address after the last byte.
    """

    storage: int
    start: int
    stop: int

    @classmethod
    def of(cls, tensor: Tensor) -> MemoryRange:
        """The range of a strided tensor."""
        local = dtensor.local_part(tensor)
        start = local.data_ptr()
        if not start:
            return cls(id(tensor), 0, 1)
        last = sum((size - 1) * stride for size, stride in zip(local.shape, local.stride(), strict=True))
        return cls(local.untyped_storage().data_ptr(), start, start + (last + 1) * local.element_size())

    def overlaps(self, other: MemoryRange) -> bool:
        """True if both contain a byte."""
        return self.storage == other.storage and self.start < other.stop and other.start < self.stop
