"""`TrainedParameters`: which parameters the training of each task has used.

A forward shows that it runs a layer, and not that the loss uses the result: a network may compute the heads of all
tasks. Plain layers without units (heads) therefore count once they have a gradient, or if it is seen that they got none
because their output was detached. Layers with units, norms, frozen layers and others count once they have run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gnt._utils.dynamo import not_compiled
from gnt._utils.recording_switch import is_paused
from gnt.protection._coverage import CoveredParameter
from gnt.protection._forward_hook import ForwardHook
from gnt.protection._unused_layers import runs_as_module
from gnt.protection._unused_outputs import has_gradient, is_unused
from gnt.units import UnitGroup


class TrainedParameters:
    """Notes for each parameter whether the open task has used it.

    Args:
        parameters: the parameters.
        is_training: True in a training forward of the open task.

    Attributes:
        earlier: for each parameter whether a task that has ended used it.
        current: whether the open task did.
    """

    def __init__(self, parameters: list[CoveredParameter], is_training: Callable[[], bool]) -> None:
        self._parameters, self.is_training = parameters, is_training
        self.earlier = [False] * len(parameters)
        self.current = [False] * len(parameters)
        self._handles: dict[nn.Module, RemovableHandle] = {}
        self._order: dict[nn.Module, None] = {}  # the modules that the open task has run, the first one first
        self._waiting: set[int] = set()  # numbers of parameters that count once they have a gradient

    def begin(self) -> None:
        """A task begins."""
        self._set_current([False] * len(self._parameters))
        self.watch()

    def _set_current(self, current: list[bool]) -> None:
        self.current, self._waiting = current, set()
        self._order = dict.fromkeys(module for used, each in self._pairs() if used for module in each.modules)

    def watch(self) -> None:
        """Watch the modules that the open task has not run."""
        self.unwatch()
        for number, each in enumerate(self._parameters):
            for module in each.modules if not self.current[number] else ():
                if module not in self._handles:
                    self._handles[module] = module.register_forward_pre_hook(ForwardHook(self._note))

    @not_compiled
    def _note(self, module: nn.Module) -> None:
        if self.is_training() and torch.is_grad_enabled() and not is_paused():
            self._handles.pop(module).remove()
            self._order[module] = None
            for number, each in enumerate(self._parameters):
                if module in each.modules and not self.current[number]:
                    if each.parameter.requires_grad and not each.has_units and runs_as_module(each.modules):
                        self._waiting.add(number)
                    else:
                        self.current[number] = True

    def note_gradients(self) -> None:
        """Note the parameters that have a gradient: their module need not have run as a module."""
        if all(self.current):
            return
        for number, each in enumerate(self._parameters):
            if not self.current[number] and (each.parameter.grad is not None or self._was_detached(number)):
                self.current[number] = True
                self._waiting.discard(number)

    def _was_detached(self, number: int) -> bool:
        """True for a parameter whose module ran and is used, though it has no gradient in this step."""
        if number not in self._waiting:
            return False
        each = self._parameters[number]
        earlier = itertools.takewhile(lambda module: module not in each.modules, self._order)
        return not is_unused(each.sources or earlier, has_gradient)

    def without_forward(self) -> list[str]:
        """The names of the parameters of plain layers that the open task has trained without running the layer."""
        return [
            each.name
            for trained, each in self._pairs()
            if trained and runs_as_module(each.modules) and self._handles.keys() >= set(each.modules)
        ]

    def end(self) -> None:
        """The task has ended."""
        self.unwatch()
        frozen = [not each.parameter.requires_grad for each in self._parameters]  # their use may not be seen
        self.earlier = [any(each) for each in zip(self.earlier, self.current, frozen, strict=True)]

    def unwatch(self) -> None:
        """Remove the hooks."""
        for handle in self._handles.values():
            handle.remove()
        self._handles = {}

    def ran(self, group: UnitGroup) -> bool:
        """True if the open task used a producer of the group."""
        producers = {slot.module for slot in group.incoming}
        return any(now and not producers.isdisjoint(each.modules) for now, each in self._pairs())

    def _pairs(self) -> Iterable[tuple[bool, CoveredParameter]]:
        return zip(self.current, self._parameters, strict=True)

    def follow(self, parameters: list[CoveredParameter], *, new: bool) -> None:
        """Go on with the parameters as they are now.

        Args:
            parameters: the parameters.
            new: whether those that were not known before count as used by an earlier task.
        """
        known = {id(each.parameter): before for each, before in zip(self._parameters, self.earlier, strict=True)}
        self._parameters = parameters
        self.earlier = [known.get(id(each.parameter), new) for each in parameters]
        self._set_current([False] * len(parameters))

    def names(self, flags: list[bool]) -> list[str]:
        """The names of the parameters with a flag."""
        return [each.name for flag, each in zip(flags, self._parameters, strict=True) if flag]

    def load(self, earlier: list[str], current: list[str]) -> None:
        """Load the names of parameters that were used."""
        self.earlier = [each.name in earlier for each in self._parameters]
        self._set_current([each.name in current for each in self._parameters])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}, "is_training": None}
