"""What leaves a forward, as a list of tensors: what it returns, and what it keeps in attributes of its modules.

torch.export takes no dataclasses and distributions, and forgets what was assigned to an attribute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


class Leaving:
    """A forward hook of the whole model: in place of its output all tensors in it, however deep, each once, and after
    the first ``returned`` of them those that stand newly in attributes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._before = {id(tensor) for tensor in _kept(model)}
        self.returned = 0

    def __call__(self, module: nn.Module, args: Any, output: Any) -> list[Tensor]:
        """What torch.export shall take for the output."""
        seen: set[int] = set()
        returned = list(_tensors(output, seen))
        self.returned = len(returned)
        new = {id(tensor): tensor for tensor in _kept(module) if id(tensor) not in self._before | seen}
        return returned + list(new.values())


def _kept(model: nn.Module) -> Iterator[Tensor]:
    """Tensors in plain attributes of the modules, and in lists and dicts that stand there."""
    own = vars(nn.Module()).keys()  # parameters, buffers, hooks, submodules
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in own:
                held = value.values() if isinstance(value, Mapping) else value
                several = isinstance(value, (Mapping, list, tuple, set))
                yield from (one for one in (held if several else [value]) if isinstance(one, Tensor))


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if id(value) in seen or isinstance(value, (nn.Module, type, str, bytes)):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for held in value.values():
            yield from _tensors(held, seen)
    elif isinstance(value, (list, tuple, set)):
        for held in value:
            yield from _tensors(held, seen)
    else:
        slots = [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
        for held in (*getattr(value, "__dict__", {}).values(), *slots):
            yield from _tensors(held, seen)
