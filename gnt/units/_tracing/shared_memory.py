"""Which tensors of a model lie in the same memory: to write one of them is to write the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gnt.distributed import dtensor


class Held(NamedTuple):
    """A tensor of a module: its place in memory, and who has it under which name."""

    start: int
    stop: int
    module: nn.Module
    path: str
    key: str


class Memory:
    """All tensors that a model's modules hold: parameters, buffers, and plain attributes."""

    def __init__(self, model: nn.Module) -> None:
        self._by_storage: dict[int, list[Held]] = {}
        for path, module in model.named_modules():
            for key, tensor in _tensors(module):
                storage, start, stop = _place(tensor)
                self._by_storage.setdefault(storage, []).append(Held(start, stop, module, path, key))

    def sharing(self, module: nn.Module, key: str) -> str | None:
        """The path of another module, or the name of a tensor, that shares memory with tensor ``key`` of ``module``.

        A buffer or attribute of ``module`` itself counts, as an operation may read it.
        """
        storage, start, stop = _place(getattr(module, key))
        for held in self._by_storage.get(storage, ()):
            if held.start < stop and start < held.stop:
                name = f"{held.path}.{held.key}".lstrip(".")
                if held.module is not module:
                    return held.path if held.path and held.key in ("weight", "bias") else name
                if held.key != key and held.key not in module._parameters:
                    return name
        return None


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for held in (module._parameters, module._buffers, vars(module)):
        for key, tensor in held.items():
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                yield key, tensor


def _place(tensor: Tensor) -> tuple[int, int, int]:
    """(storage, first byte, byte after the last); without memory, such as on the meta device, the tensor itself."""
    local = dtensor.local_part(tensor)
    start = local.data_ptr()
    if not start:
        return id(tensor), 0, 1
    last = sum((size - 1) * stride for size, stride in zip(local.shape, local.stride(), strict=True))
    return local.untyped_storage().data_ptr(), start, start + (last + 1) * local.element_size()
