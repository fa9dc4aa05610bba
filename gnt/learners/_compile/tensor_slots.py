"""Sites: where a network's tensors hang, so that traced ones can hang there for the time of a tracing."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Site = tuple[dict[str, Any], str]

_PLAIN = (bool, int, float, str, type(None), torch.dtype)


class Sites:
    """Every tensor of some modules (parameters, buffers, plain attributes), each once, with all places that hold it."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list({id(module): module for module in modules}.values())
        self._held: dict[int, tuple[Tensor, list[Site]]] = {}
        for module in self.modules:
            for holder in (module._parameters, module._buffers, module.__dict__):
                for name, value in holder.items():
                    if isinstance(value, Tensor):
                        self.add(value, (holder, name))

    def add(self, tensor: Tensor, site: Site) -> None:
        """One more place that holds the tensor."""
        self._held.setdefault(id(tensor), (tensor, []))[1].append(site)

    def tensors(self) -> list[Tensor]:
        """Each tensor once."""
        return [tensor for tensor, _ in self._held.values()]

    def now(self) -> list[Any]:
        """What hangs there now: as `tensors`, but for what was put in their place."""
        return [holder.get(name) for holder, name in self._firsts]

    def hang(self, tensors: Sequence[Tensor]) -> None:
        """Put other tensors in the places of `tensors`."""
        for tensor, (_, places) in zip(tensors, self._held.values(), strict=True):
            for holder, name in places:
                holder[name] = tensor

    @functools.cached_property
    def _firsts(self) -> list[Site]:
        return [places[0] for _, places in self._held.values()]

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Whatever hangs there meanwhile, afterwards everything is as it was."""
        try:
            yield
        finally:
            self.hang(self.tensors())


def plain_sites(modules: Iterable[nn.Module]) -> list[Site]:
    """Where modules keep plain values: what their forward may ask, such as ``training`` or a dropout's rate."""
    return [(m.__dict__, name) for m in modules for name, value in m.__dict__.items() if _is_plain(value)]


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(v, _PLAIN) for v in value))


Attributes = dict[tuple[int, str], tuple[str, Any]]


def attributes(modules: Iterable[nn.Module]) -> Attributes:
    """What each attribute of each module is, and a name for it."""
    return {
        (number, name): (f"{name!r} of {type(module).__name__}", value)
        for number, module in enumerate(modules)
        for name, value in module.__dict__.items()
    }


def set_between(before: Attributes, after: Attributes) -> list[str]:
    """The names of attributes that are other objects now."""
    return [name for key, (name, value) in after.items() if key not in before or before[key][1] is not value]


def restore(modules: Sequence[nn.Module], before: Attributes) -> None:
    """Undo what changed; what is new is taken away."""
    for number, module in enumerate(modules):
        for name in [name for name in module.__dict__ if (number, name) not in before]:
            del module.__dict__[name]
    for (number, name), (_, value) in before.items():
        modules[number].__dict__[name] = value
