"""TensorSlots: where modules store their tensors, so that traced tensors can replace them while a step is captured."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

TensorSlot = tuple[dict[str, Any], str]  # a dict of a module's, and a key

_PLAIN_TYPES = (bool, int, float, str, type(None), torch.dtype)


class TensorSlots:
    """Every tensor of some modules (parameters, buffers, plain attributes), once, with all slots that hold it."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list({id(module): module for module in modules}.values())
        self._by_tensor: dict[int, tuple[Tensor, list[TensorSlot]]] = {}
        for module in self.modules:
            for holder in (module._parameters, module._buffers, module.__dict__):
                for name, value in holder.items():
                    if isinstance(value, Tensor):
                        self.add(value, (holder, name))

    def add(self, tensor: Tensor, slot: TensorSlot) -> None:
        """Add a slot that holds the tensor."""
        self._by_tensor.setdefault(id(tensor), (tensor, []))[1].append(slot)

    def tensors(self) -> list[Tensor]:
        """Each tensor once."""
        return [tensor for tensor, _ in self._by_tensor.values()]

    def current_values(self) -> list[Any]:
        """What the slots of `tensors` hold now, in the same order."""
        return [*map(dict.get, *self._first_slots)]

    def assigned(self) -> list[str]:
        """The names of slots that hold other tensors now."""
        return [
            name
            for tensor, slots in self._by_tensor.values()
            for holder, name in slots
            if holder.get(name) is not tensor
        ]

    def fill(self, tensors: Sequence[Tensor]) -> None:
        """Store other tensors in the slots of `tensors`, in the same order."""
        for tensor, (_, slots) in zip(tensors, self._by_tensor.values(), strict=True):
            for holder, name in slots:
                holder[name] = tensor

    @functools.cached_property
    def _first_slots(self) -> tuple[list[dict[str, Any]], list[str]]:
        first = [slots[0] for _, slots in self._by_tensor.values()]
        return [holder for holder, _ in first], [name for _, name in first]

    @contextlib.contextmanager
    def restored_afterwards(self) -> Iterator[None]:
        """Restore the original tensors at the end of the context."""
        try:
            yield
        finally:
            self.fill(self.tensors())


def plain_attribute_slots(modules: Iterable[nn.Module]) -> list[TensorSlot]:
    """Slots of plain values that a forward may depend on, such as ``training`` or the probability of a dropout."""
    return [(m.__dict__, name) for m in modules for name, value in m.__dict__.items() if is_plain(value)]


def is_plain(value: Any) -> bool:
    """True for values that are part of a step's key."""
    return isinstance(value, _PLAIN_TYPES) or (
        isinstance(value, tuple) and all(isinstance(each, _PLAIN_TYPES) for each in value)
    )


Attributes = dict[tuple[int, str], tuple[str, Any]]  # (number of the module, name) -> (description, value)


def attributes(modules: Iterable[nn.Module]) -> Attributes:
    """All attributes of the modules."""
    return {
        (number, name): (f"{name!r} of {type(module).__name__}", value)
        for number, module in enumerate(modules)
        for name, value in module.__dict__.items()
    }


def changed_attributes(before: Attributes, after: Attributes) -> list[str]:
    """Descriptions of attributes that are new, or other objects than before."""
    return [text for key, (text, value) in after.items() if key not in before or before[key][1] is not value]


def restore_attributes(modules: Sequence[nn.Module], before: Attributes) -> None:
    """Restore the attributes' values, and delete new attributes."""
    for number, module in enumerate(modules):
        for name in [name for name in module.__dict__ if (number, name) not in before]:
            del module.__dict__[name]
    for (number, name), (_, value) in before.items():
        modules[number].__dict__[name] = value
