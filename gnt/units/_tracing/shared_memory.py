"""Which tensors of a model share memory, so that writing to one changes the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gnt.units._memory_range import MemoryRange


class TensorSpan(NamedTuple):
    """The memory of a tensor, and the module and name that hold it."""

    memory: MemoryRange
    module: nn.Module
    path: str
    key: str


class SharedMemory:
    """Memory ranges of all tensors of a model: parameters, buffers, and plain attributes."""

    def __init__(self, model: nn.Module) -> None:
        self._by_storage: dict[int, list[TensorSpan]] = {}
        for path, module in model.named_modules():
            for key, tensor in _tensors(module):
                memory = MemoryRange.of(tensor)
                self._by_storage.setdefault(memory.storage, []).append(TensorSpan(memory, module, path, key))

    def shared_with(self, module: nn.Module, key: str) -> str | None:
        """Path of a module, or name of a tensor, that shares memory with tensor ``key`` of ``module``, or None.

        A buffer or attribute of ``module`` itself is included, because an operation may read it.
        """
        memory = MemoryRange.of(getattr(module, key))
        for other in self._by_storage.get(memory.storage, ()):
            if other.memory.overlaps(memory):
                name = f"{other.path}.{other.key}".lstrip(".")
                if other.module is not module:
                    return other.path if other.path and other.key in ("weight", "bias") else name
                if other.key != key and other.key not in module._parameters:
                    return name
        return None

    def is_shared_outside(self, module: nn.Module, path: str) -> bool:
        """True if a parameter of ``module`` shares memory with a tensor of a module that is not below ``path``."""
        for parameter in module._parameters.values():
            if parameter is not None:
                memory = MemoryRange.of(parameter)
                for other in self._by_storage.get(memory.storage, ()):
                    inside = f"{other.path}.".startswith(f"{path}.")
                    if not inside and other.memory.overlaps(memory):
                        return True
        return False


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Named tensors of a module; sparse ones are left out."""
    for tensors in (module._parameters, module._buffers, vars(module)):
        for key, tensor in tensors.items():
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                yield key, tensor
