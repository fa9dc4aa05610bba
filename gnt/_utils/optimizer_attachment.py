"""Hooks on an optimizer by which a method against forgetting acts around each step, in any training loop.

Before a step the method changes the gradients (it adds a penalty's, or projects them), after it the method may look at
the new weights, and its state is part of the optimizer's ``state_dict``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt._utils.dynamo import not_compiled
from gnt._utils.optimizer_hooks import register_hooks, unused_key

STATE_KEY = "gnt_memory"


class AttachableMethod(Protocol):
    """What the hooks need of a method."""

    def before_optimizer_step(self, scale: Tensor | None) -> None:
        """Change the gradients; ``scale``: by what a GradScaler has multiplied them, None for nothing."""

    def after_optimizer_step(self, skipped: bool) -> None:
        """Called after the step; ``skipped``: a GradScaler made it do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """The method's state."""

    def checked_state(self, state_dict: Any) -> Any:
        """Check a saved state, changing nothing; the result goes to `load_checked_state`."""

    def load_checked_state(self, state: Any) -> None:
        """Load a checked state."""


class OptimizerAttachment:
    """The hooks of one method on one optimizer.

    Methods act in the order in which they were attached; those that project gradients act after those that add to them.
    A closure is evaluated before the gradients are changed.

    Args:
        method: the method.
        optimizer: the optimizer.
        projects: True for a method that projects gradients.

    Attributes:
        key: the name of the method's state in the optimizer's state_dict: "gnt_memory", "gnt_memory_1", ...
        optimizer: the optimizer.

    Raises:
        TypeError: not an optimizer.
        ValueError: the method is attached to this optimizer already.
    """

    key: str

    def __init__(self, method: AttachableMethod, optimizer: Optimizer, *, projects: bool = False) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"attach takes a torch.optim.Optimizer, got {type(optimizer).__name__}")
        others = _attachments(optimizer)
        if any(each.method is method for each in others):
            raise ValueError(f"this {type(method).__name__} is attached to this {type(optimizer).__name__} already")
        self.method: AttachableMethod = method
        self.optimizer, self.projects = optimizer, projects
        self.key = unused_key(STATE_KEY, {each.key for each in others})
        self._state_to_load: Any = None
        self._handles = register_hooks(
            optimizer,
            before_step=self._before_step,
            after_step=self._after_step,
            save=self._save,
            check=self._check,
            load=self._load,
        )
        hooks = optimizer._optimizer_step_pre_hooks
        for number in [n for n, hook in hooks.items() if getattr(_owner(hook), "projects", False)]:
            hooks[number] = hooks.pop(number)

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    @not_compiled
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self.method.before_optimizer_step(getattr(optimizer, "grad_scale", None))
            return None

        def changed(*inputs: Any, **settings: Any) -> Any:
            value = closure(*inputs, **settings)
            with torch.no_grad():
                self.method.before_optimizer_step(getattr(optimizer, "grad_scale", None))
            return value

        if "closure" in kwargs:
            return args, {**kwargs, "closure": changed}
        return (args[0], changed, *args[2:]), kwargs

    @not_compiled
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found = getattr(optimizer, "found_inf", None)
        self.method.after_optimizer_step(found is not None and bool(found.item()))

    def _save(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, self.key: self.method.state_dict()}

    def _check(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Check the method's state before the optimizer loads its own."""
        self._state_to_load = None
        if self.key in state_dict:
            self._state_to_load = (self.method.checked_state(state_dict[self.key]),)
        else:
            warnings.warn(
                f"this state_dict of {type(optimizer).__name__} was saved without a {type(self.method).__name__}, "
                "which keeps its present state",
                stacklevel=5,
            )
        return {name: value for name, value in state_dict.items() if name != self.key}

    def _load(self, optimizer: Optimizer) -> None:
        state, self._state_to_load = self._state_to_load, None
        if state is not None:
            self.method.load_checked_state(*state)


def require_parameters(optimizer: Optimizer, parameters: Sequence[Tensor], names: Sequence[str], method: str) -> None:
    """Raise ValueError unless the optimizer has all of these parameters."""
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, each in zip(names, parameters, strict=True) if id(each) not in own]
    if missing:
        raise ValueError(
            f"this {type(optimizer).__name__} does not have parameter {missing[0]} of {method} "
            f"({len(missing)} of {len(names)} are missing): attach it to the optimizer that steps its parameters"
        )


def _attachments(optimizer: Optimizer) -> list[OptimizerAttachment]:
    hooks: list[Callable[..., Any]] = list(optimizer._optimizer_step_pre_hooks.values())
    return [owner for hook in hooks if isinstance(owner := _owner(hook), OptimizerAttachment)]


def _owner(hook: Any) -> Any:
    return getattr(hook, "__self__", None)
