"""StepContext: the modules and settings around a step, and the key of the graph that a step needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from gnt._kernels import layout_check
from gnt.learners._compile.functional_optimizers import functional_optimizer
from gnt.learners._compile.functional_update import FunctionalUpdate
from gnt.learners._compile.guards import tensor_slots_of
from gnt.learners._compile.recorded_features import OtherReaders
from gnt.learners._compile.tensor_slots import plain_attribute_slots
from gnt.learners._training_step import TrainingStep

_GRADIENT_HOOKS = attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")


class StepContext:
    """What a graph is built for, compared before each step.

    Attributes:
        functional_optimizer: the functional form of the optimizer.
        update: the engine's update if it is part of the graph, otherwise None.
        slots: where all tensors are stored that a step reads.
        readers: what reads features of the network outside the graph.
    """

    def __init__(self, step: TrainingStep) -> None:
        roots = [step.network, step.loss] if isinstance(step.loss, nn.Module) else [step.network]
        self._with_hooks = [each for root in roots for each in root.parameters()]  # whose hooks a backward calls
        self._methods, self._methods_need_gradients = step.methods, step.methods.need_gradients
        self._gradients_needed = self._needs_gradients(step)
        self.functional_optimizer = functional_optimizer(step.optimizer, gradients_needed=self._gradients_needed)
        in_graph = self.functional_optimizer.in_graph
        self.update = FunctionalUpdate(step.engine) if in_graph and step.engine is not None else None
        self.slots = tensor_slots_of(step, self.update)
        self._built_for = (step.network, step.optimizer, step.loss)
        self.readers = OtherReaders(self.slots.modules, step.engine if in_graph else None)
        self._groups = step.engine.groups if step.engine is not None else None
        modules = self.slots.modules
        self._children = [(m._modules, dict(m._modules)) for m in modules if m._modules]
        self._modules, self._types = modules, list(map(type, modules))
        self._attributes = [m.__dict__ for m in modules]
        self._num_attributes = list(map(len, self._attributes))
        plain = plain_attribute_slots(modules)
        self._plain_holders, self._plain_names = [holder for holder, _ in plain], [name for _, name in plain]
        self._hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
        self._parameters = [t for t in self.slots.tensors() if isinstance(t, nn.Parameter)]
        self._latest: _LatestKey | None = None

    def is_current(self, step: TrainingStep) -> bool:
        """True if network, optimizer, loss, readers and all submodules are the same objects, without new attributes,
        and gradients are needed outside the graph only if they were.
        """
        network, optimizer, loss = self._built_for
        return (
            step.network is network
            and step.optimizer is optimizer
            and step.loss is loss
            and self._needs_gradients(step) is self._gradients_needed
            and (step.engine is None or step.engine.groups is self._groups)
            and self.readers.are_current
            and list(map(type, self._modules)) == self._types
            and list(map(len, self._attributes)) == self._num_attributes
            and all(children == before for children, before in self._children)
        )

    def _needs_gradients(self, step: TrainingStep) -> bool:
        """True if something reads or changes gradients outside the graph: methods, or hooks."""
        if step.methods is not self._methods:
            self._methods, self._methods_need_gradients = step.methods, step.methods.need_gradients
        return self._methods_need_gradients or _has_step_hooks(step.optimizer) or _has_gradient_hooks(self._with_hooks)

    def key(self, step: TrainingStep, x: Tensor, y: Tensor) -> tuple[Any, ...]:
        """Everything that a step's graph depends on, apart from the values of tensors."""
        own = self._own_key(step)
        if self._latest is not None and self._latest.own == own and self._latest.fits(x, y, self._parameters):
            return self._latest.key
        device = x.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = (
            *(x.shape, x.stride(), x.dtype, x.device, y.shape, y.stride(), y.dtype, y.device, autocast),
            tuple([p.requires_grad for p in self._parameters]),
            *own,
        )
        self._latest = _LatestKey(key, own, x, y, self._parameters) if autocast is None else None
        return key

    def _own_key(self, step: TrainingStep) -> tuple[Any, ...]:
        """The part of the key that does not depend on tensors."""
        return (
            torch.get_default_dtype(),
            tuple(map(dict.get, self._plain_holders, self._plain_names)),
            tuple(map(len, self._hooks)),
            tuple([(*map(id, g["params"]), *self.functional_optimizer.flags(g)) for g in step.optimizer.param_groups]),
            self.update.constants if self.update is not None else None,
        )


def _has_step_hooks(optimizer: Optimizer) -> bool:
    """True if hooks run before or after each step, such as those of an attached engine, or in its place."""
    before = getattr(optimizer, "_optimizer_step_pre_hooks", None)
    after = getattr(optimizer, "_optimizer_step_post_hooks", None)
    step = vars(optimizer).get("step")  # schedulers of learning rates patch it, to know that it was called
    return (
        bool(before or after or (step is not None and not hasattr(step, "_wrapped_by_lr_sched")))
        or any(map(_is_of_others, _global_optimizer_pre_hooks.values()))
        or any(map(_is_of_others, _global_optimizer_post_hooks.values()))
    )


def _is_of_others(hook: object) -> bool:
    """True for a hook of all optimizers that is not one of torch's profiler or of gnt's layers."""
    return str(getattr(hook, "__module__", "")).partition(".")[0] not in ("gnt", "torch")


def _has_gradient_hooks(parameters: Iterable[Tensor]) -> bool:
    """True if a backward calls hooks on parameters."""
    return any(map(any, map(_GRADIENT_HOOKS, parameters)))


class _LatestKey:
    """The key of the latest step, with what recognizes tensors for which it is the same."""

    def __init__(
        self, key: tuple[Any, ...], own: tuple[Any, ...], x: Tensor, y: Tensor, params: Sequence[Tensor]
    ) -> None:
        self.key, self.own = key, own
        self._layouts = layout_check([x, y, *params])

    def fits(self, x: Tensor, y: Tensor, params: Sequence[Tensor]) -> bool:
        """True if x, y and the parameters have the layouts of the latest step."""
        return self._layouts.check(x, y, *params)
