"""StepBackup: what a forward may change besides gradients, kept so that a step that fails leaves no trace.

Kept are buffers (running statistics) and the states of random generators. A small buffer is copied before each step,
and so is a large one that an earlier step has changed, or whose memory others may have the address of. Any other large
buffer is copied only in the step that changes it, by torch, before it is written (copy on write).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

SMALL = 4096  # elements; a copy of as many takes about as long as the call that makes it

Holder = dict[str, Tensor | None]  # the buffers of a module


class _Kept(NamedTuple):
    """A buffer before the step."""

    holder: Holder
    name: str
    tensor: Tensor | None
    value: Tensor | None
    on_write: bool = False  # the value shares the tensor's memory until one of them is written


class StepBackup:
    """The buffers and generators of some modules and their submodules, and torch's global generators.

    Args:
        roots: the modules.

    >>> norm = torch.nn.BatchNorm1d(2)
    >>> backup = StepBackup([norm])
    >>> backup.save()
    >>> _ = norm(torch.randn(4, 2))
    >>> backup.restore()
    >>> norm.running_mean, norm.num_batches_tracked
    (tensor([0., 0.]), tensor(0))
    """

    def __init__(self, roots: Iterable[nn.Module]) -> None:
        self._roots = list(roots)
        self._changing: set[tuple[int, str]] = set()  # large buffers that an earlier step has changed
        self._kept: list[_Kept] = []
        self._states: list[tuple[Any, Tensor]] = []
        self._find_modules()

    def _find_modules(self) -> None:
        self.modules = [module for root in self._roots for module in root.modules()]
        self._children = [module._modules for module in self.modules]
        self._children_before = [dict(children) for children in self._children]
        self._holders: list[Holder] = [module._buffers for module in self.modules]
        own = {id(each): each for module in self.modules for each in _generators_of(module)}
        device = next((p.device for root in self._roots for p in root.parameters()), torch.device("cpu"))
        self._generators: list[Any] = [torch.default_generator, *own.values()]
        if device.type not in ("cpu", "meta") and hasattr(backend := torch.get_device_module(device), "get_rng_state"):
            self._generators.append(_DeviceGenerator(backend, device))

    def is_of(self, roots: list[nn.Module]) -> bool:
        """True if these are the modules, and their submodules are the same objects as at the last call of `save`."""
        return len(roots) == len(self._roots) and all(map(is_, roots, self._roots))

    def save(self) -> None:
        """Keep the present state."""
        if self._children != self._children_before:
            self._find_modules()
        self._kept = kept = []
        for holder in filter(None, self._holders):
            kept += [self._keep(holder, name, tensor) for name, tensor in holder.items()]
        self._states = [(generator, generator.get_state()) for generator in self._generators]

    def _keep(self, holder: Holder, name: str, tensor: Tensor | None) -> _Kept:
        if tensor is None:
            return _Kept(holder, name, None, None)
        if tensor.numel() > SMALL and (id(holder), name) not in self._changing and _may_move(tensor):
            try:
                return _Kept(holder, name, tensor, torch._lazy_clone(tensor.detach()), on_write=True)
            except RuntimeError:  # memory that torch has not allocated
                pass
        return _Kept(holder, name, tensor, tensor.detach().clone())

    def accept(self) -> None:
        """Note after a step without an error which large buffers it changed."""
        for each in self._kept:
            if each.on_write and each.tensor is not None and not _is_shared(each.tensor):
                self._changing.add((id(each.holder), each.name))
        self._kept, self._states = [], []

    def restore(self) -> None:
        """Restore the state that `save` kept."""
        with torch.no_grad():
            for each in self._kept:
                each.holder[each.name] = each.tensor
                if each.tensor is None or each.value is None or (each.on_write and _is_shared(each.tensor)):
                    continue
                if each.tensor.shape == each.value.shape and each.tensor.dtype == each.value.dtype:
                    each.tensor.copy_(each.value)
                else:
                    each.tensor.data = each.value
        for generator, state in self._states:
            generator.set_state(state)
        self._kept, self._states = [], []


def _may_move(tensor: Tensor) -> bool:
    """True if nothing but this tensor is known to have its memory, which moves when the tensor is copied on write.

    Others are views, NumPy arrays (of whose memory torch does not change the size), DLPack and, on a GPU, CUDA graphs.
    """
    if type(tensor) is not Tensor or not tensor.is_cpu or tensor._use_count() != 1:  # type: ignore[attr-defined]
        return False
    storage = tensor.untyped_storage()  # the second reference
    return storage.resizable() and torch._C._storage_Use_Count(storage._cdata) == 2


def _is_shared(tensor: Tensor) -> bool:
    """True if a tensor that is copied on write has not been written."""
    return bool(torch._C._is_cow_tensor(tensor))  # type: ignore[attr-defined]


class _DeviceGenerator:
    """The global generator of a device."""

    def __init__(self, backend: Any, device: torch.device) -> None:
        self._backend, self._device = backend, device

    def get_state(self) -> Tensor:
        state: Tensor = self._backend.get_rng_state(self._device)
        return state

    def set_state(self, state: Tensor) -> None:
        self._backend.set_rng_state(state, self._device)


def _generators_of(module: nn.Module) -> Iterator[torch.Generator]:
    """The generators among a module's attributes, and in lists and tuples of it."""
    for value in module.__dict__.values():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(each, torch.Generator):
                yield each
