"""`PackedNetwork`: the parameters of a network with their owners, and which of them training forwards have run."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gnt._utils.recording_switch import is_paused
from gnt.protection._forward_hook import ForwardHook
from gnt.protection._packed_parameter import RUNNING_NORMS, PackedParameter, packed_parameters
from gnt.protection._unused_layers import runs_as_module
from gnt.protection._unused_outputs import has_gradient, is_unused


class PackedNetwork:
    """The parameters of a network and the running statistics of its norms, with owners.

    Args:
        net: the network, without wrappers.
        optimizer: must hold every parameter that requires a gradient; None: not checked.

    Attributes:
        parameters: those found so far; `find_new` adds others.
        watches: True while a task is trained: training forwards are noted.

    Raises:
        ValueError: no weight of a linear or convolution layer, a lazy parameter, or one that the optimizer lacks.
    """

    def __init__(self, net: nn.Module, optimizer: Optimizer | None) -> None:
        self._net, self._optimizer = net, optimizer
        self.parameters = self._checked(list(packed_parameters(net)))
        self.watches = False
        self._ran: dict[nn.Module, None] = {}  # those that a training forward of this task ran, the first one first
        self._reached: set[nn.Module] = set()  # those at which a gradient was seen after a step of this task
        self._fixed_norms: set[nn.Module] = set()
        self._add_hooks()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_hooked": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._add_hooks()

    @property
    def prunable(self) -> list[PackedParameter]:
        """The weights of linear and convolution layers."""
        return [each for each in self.parameters if each.prunable]

    def with_new(self) -> list[PackedParameter]:
        """The parameters as they are now: those known, and new ones without owners. Nothing is changed.

        Raises:
            ValueError: a parameter that has changed its shape, or that the optimizer lacks.
        """
        self.check_current()
        known = {id(each.tensor): each for each in self.parameters}
        return self._checked([known.get(id(each.tensor), each) for each in packed_parameters(self._net)])

    def take(self, parameters: list[PackedParameter]) -> None:
        """Use the result of `with_new`, in a task of which no forward has run yet."""
        self.parameters = parameters
        self._hook_modules()
        self._ran.clear()
        self._reached.clear()

    def check_current(self) -> None:
        """Raise ValueError for a parameter that is another tensor, or of another shape, than before."""
        now = dict(self._net.named_parameters(remove_duplicate=False)) | dict(self._net.named_buffers())
        for each in self.parameters:
            each.follow_tensor()
            tensor = now.get(each.name)
            if tensor is not each.tensor or tensor.shape != each.held.shape:
                got = "is gone" if tensor is None else f"is another tensor now, of shape {tuple(tensor.shape)}"
                raise ValueError(f"parameter {each.name}, of shape {tuple(each.held.shape)} for PackNet, {got}")

    def has_run(self, parameter: PackedParameter) -> bool:
        """True if a training forward of this task has run a module of the parameter."""
        return not self._ran.keys().isdisjoint(parameter.modules)

    def note_gradients(self) -> None:
        """Note which modules have gradients, after a step."""
        self._reached.update(module for module in self._ran.keys() - self._reached if has_gradient(module))

    def used(self) -> list[PackedParameter]:
        """The parameters that this task has used: it changed them, or ran their modules.

        A plain layer that was run and got no gradient, such as a head of another task, is not used.
        """
        changed = [each for each in self.parameters if each.has_changed()]
        reached = self._reached.union(*(each.modules for each in changed))
        return [
            each
            for each in self.parameters
            if each in changed or (self.has_run(each) and not self._is_unused(each, reached))
        ]

    def _is_unused(self, parameter: PackedParameter, reached: set[nn.Module]) -> bool:
        """True for a parameter of a plain layer whose output was not used, by the modules that gradients reached."""
        if not runs_as_module(parameter.modules) or not parameter.tensor.requires_grad:
            return False
        earlier = itertools.takewhile(lambda module: module not in parameter.modules, self._ran)
        return reached.isdisjoint(parameter.modules) and is_unused(earlier, reached.__contains__)

    def set_run(self, ran: Sequence[bool]) -> None:
        """Set `has_run` of all parameters."""
        self._ran.clear()
        self._reached.clear()
        for each, flag in zip(self.parameters, ran, strict=True):
            self._ran.update(dict.fromkeys(each.modules if flag else ()))

    @torch.no_grad()
    def restore(self) -> None:
        """Set the fixed entries to their held values."""
        for each in self.parameters:
            each.restore()

    @torch.no_grad()
    def keep_values(self) -> None:
        """Restore fixed entries, then take the values of all as those to hold."""
        for each in self.parameters:
            each.restore()
            each.follow_tensor()
            each.held = each.tensor.detach().clone()

    def hold(self, current: int) -> None:
        """Fix what tasks own, but for the parameters that belong as a whole to the current one.

        Args:
            current: number of the task that is trained; between tasks the next one.
        """
        for each in self.parameters:
            if each.prunable or current not in each.owner:
                each.hold_owned(all_used=not self.watches)
            else:
                each.release()
        fixed = (each for each in self.parameters if each.fixed is not None and not each.prunable)
        self._fixed_norms = {module for each in fixed for module in each.modules if isinstance(module, RUNNING_NORMS)}

    def use_optimizer(self, optimizer: Optimizer | None) -> None:
        """Check new parameters with another optimizer from now on; ValueError if it lacks a parameter."""
        _check_held(self.parameters, optimizer)
        self._optimizer = optimizer

    def _checked(self, parameters: list[PackedParameter]) -> list[PackedParameter]:
        for each in parameters:
            if is_lazy(each.tensor):
                raise ValueError(f"parameter {each.name} is lazy and has no values yet: run one forward before")
        if not any(each.prunable for each in parameters):
            raise ValueError(f"{type(self._net).__name__} has no weight of a linear or convolution layer to prune")
        _check_held(parameters, self._optimizer)
        return parameters

    def _add_hooks(self) -> None:
        self._hooked: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._hook_modules()

    def _hook_modules(self) -> None:
        for module in {module for each in self.parameters for module in each.modules}:
            if module not in self._hooked:
                self._hooked.add(module)
                module.register_forward_pre_hook(ForwardHook(self._before_forward))

    def _before_forward(self, module: nn.Module) -> None:
        if self.watches and self._net.training and torch.is_grad_enabled() and not is_paused():
            self._ran[module] = None
        if module in self._fixed_norms and module.training:
            module.training = False


def _check_held(parameters: list[PackedParameter], optimizer: Optimizer | None) -> None:
    """Raise ValueError for a parameter that requires a gradient and that the optimizer, if there is one, lacks."""
    if optimizer is None:
        return
    held = {id(p) for options in optimizer.param_groups for p in options["params"]}
    for each in parameters:
        if each.tensor.requires_grad and id(each.tensor) not in held:
            raise ValueError(f"the optimizer does not hold parameter {each.name}: optimizer.add_param_group")
