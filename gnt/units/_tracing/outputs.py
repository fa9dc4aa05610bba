"""The outputs of a forward as a list of tensors: returned values and tensors stored in attributes of modules.

torch.export does not accept dataclasses and distributions as outputs. It ignores tensors assigned to attributes, or
refuses them (torch 2.6), so that attributes are restored after each forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from gnt.units._tracing.isolation import Restore, restorers_of_attributes
from gnt.units._tracing.reachable import reachable


class OutputCollector:
    """A forward hook of the model that replaces its output by a flat list of tensors, each included once.

    The first ``num_returned`` are the tensors in the returned value, at any depth. The others are tensors that the
    forward stored in attributes of modules.
    """

    def __init__(self, model: nn.Module) -> None:
        self._before = {id(tensor) for tensor in _attribute_tensors(model)}
        self._restorers: list[Restore] = []
        self.num_returned = 0

    def start(self, module: nn.Module, args: Any) -> None:
        """Note the attributes of the model; a forward pre-hook."""
        self._restorers = restorers_of_attributes(module)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> list[Tensor]:
        """Return the list of tensors that torch.export takes as the output, and restore the attributes."""
        seen: set[int] = set()
        returned = list(_tensors(output, seen))
        self.num_returned = len(returned)
        new = {id(tensor): tensor for tensor in _attribute_tensors(module) if id(tensor) not in self._before | seen}
        for restore in self._restorers:
            restore()
        return returned + list(new.values())

    def phrase(self, position: int) -> str:
        """How the tensor at a position of the list leaves the forward."""
        return "the model's output" if position < self.num_returned else "stored in an attribute of the model"


def _attribute_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Tensors in plain attributes of the modules, at any depth, and in other places where a forward may keep them."""
    yield from (value for value in reachable(model, hooks=False) if isinstance(value, Tensor))


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """All tensors in a value at any depth, including those in attributes of objects."""
    if id(value) in seen or isinstance(value, (nn.Module, type, str, bytes)):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item, seen)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _tensors(item, seen)
    else:
        slots = [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
        for item in (*getattr(value, "__dict__", {}).values(), *slots):
            yield from _tensors(item, seen)
