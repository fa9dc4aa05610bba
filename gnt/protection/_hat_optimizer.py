"""`HATOptimizer`: the hooks of a `HAT` on one optimizer."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Adagrad, Optimizer

from gnt._utils.dynamo import not_compiled
from gnt._utils.optimizer_hooks import unused_key
from gnt._utils.stack_level import user_level
from gnt.importance import step_was_skipped
from gnt.protection._coverage import CoveredParameter
from gnt.replacement import unwrap_optimizer

Closure = Callable[[], Any] | None  # what computes loss and gradients within a step


class HATOptimizer:
    """Calls functions before and after each step of an optimizer, in front of other hooks after the step.

    Args:
        optimizer: the optimizer, or a wrapper around it.
        before: called before each step with its closure, or None; returns the closure to be called in its place.
        after: called after each step that was made; True: it had a closure.
        active: False: as after `deactivate`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        before: Callable[[Closure], Closure],
        after: Callable[[bool], None],
        *,
        active: bool = True,
    ) -> None:
        own: Optimizer = unwrap_optimizer(optimizer)
        self._reference, self._held = weakref.ref(own), own if active else None
        self._before, self._after = before, after
        after_handle = own.register_step_post_hook(self._after_step)
        self._handles = [own.register_step_pre_hook(self._before_step), after_handle]
        # an engine that replaces units after this step must see weights that have their values back
        hooks: Any = own._optimizer_step_post_hooks
        hooks.move_to_end(after_handle.id, last=False)

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer without wrappers; None if it is not active and has been freed."""
        return self._reference()

    @property
    def active(self) -> bool:
        """False: a step raises RuntimeError, because no task is open or it has another optimizer."""
        return self._held is not None

    def deactivate(self) -> None:
        """Refuse steps from now on, and no longer keep the optimizer with its state in memory."""
        self._held = None

    @not_compiled
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if not self.active:
            raise RuntimeError(
                f"no task is open for this {type(optimizer).__name__}, and a step would change what earlier tasks "
                "need: call begin(task, optimizer, steps_per_epoch=...) of the HAT, or close() it"
            )
        given = _closure(args, kwargs)
        closure = self._before(given)
        if closure is given:
            return None
        if len(args) > 1:  # the optimizer is the first
            return (args[0], closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure}

    @not_compiled
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not step_was_skipped(optimizer):
            self._after(_closure(args, kwargs) is not None)

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def _closure(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Closure:
    """The closure among the arguments of a step, of which the optimizer is the first."""
    closure: Closure = args[1] if len(args) > 1 else kwargs.get("closure")
    return closure


def check_optimizer(optimizer: Any, parameters: Sequence[CoveredParameter], embedding: Tensor) -> None:
    """Raise an error unless this optimizer holds all trained parameters of the groups, and can hold the embedding.

    Warns if it decays the embedding.
    """
    if not isinstance(unwrap_optimizer(optimizer), Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    held = _held(optimizer)
    missing = [
        each.name
        for each in parameters
        if each.of_groups and each.parameter.requires_grad and id(each.parameter) not in held
    ]
    if missing:
        raise ValueError(
            f"this {type(optimizer).__name__} does not hold {', '.join(missing)} of the groups' layers: give it all "
            "parameters that the task trains"
        )
    if isinstance(unwrap_optimizer(optimizer), LBFGS) and id(embedding) not in held:
        raise ValueError(
            "LBFGS takes one list of parameters only, to which the embedding cannot be added later: make it as "
            "LBFGS([*net.parameters(), hat.embedding])"
        )
    _warn_of_decay(unwrap_optimizer(optimizer), embedding)


def _warn_of_decay(optimizer: Optimizer, embedding: Tensor) -> None:
    for options in optimizer.param_groups:
        if options.get("weight_decay") and any(each is embedding for each in options["params"]):
            warnings.warn(
                f"this {type(optimizer).__name__} decays the embedding of the HAT (weight_decay="
                f"{options['weight_decay']}), which turns gates to 0.5: put it into a group with weight_decay=0, "
                "or leave it to begin()",
                stacklevel=user_level(),
            )


def embedding_group(optimizer: Optimizer, embedding: nn.Parameter) -> dict[str, Any]:
    """The group of the embedding, without weight decay; under a new name in an optimizer with names."""
    optimizer = unwrap_optimizer(optimizer)
    no_decay = {"weight_decay": 0.0} if "weight_decay" in optimizer.defaults else {}
    names = [name for options in optimizer.param_groups for name in options.get("param_names", ())]
    named = (unused_key("hat.embedding", names), embedding) if names else embedding
    return {"params": [named], **no_decay}


def add_embedding(optimizer: Optimizer, embedding: nn.Parameter) -> None:
    """Give the optimizer the group of the embedding, unless it holds it."""
    if id(embedding) not in _held(optimizer):
        unwrap_optimizer(optimizer).add_param_group(embedding_group(optimizer, embedding))


def reset_embedding_state(optimizer: Optimizer, embedding: nn.Parameter) -> None:
    """Drop the state that the optimizer keeps for the embedding."""
    optimizer.state.pop(embedding, None)
    other = next((state for state in optimizer.state.values() if state), None)
    if isinstance(optimizer, Adagrad) and other is not None:
        # early versions of torch fill Adagrad's state only when it is constructed
        initial = next(o for o in optimizer.param_groups if any(p is embedding for p in o["params"]))
        total = torch.full_like(embedding, initial["initial_accumulator_value"])
        optimizer.state[embedding] = {"step": torch.zeros_like(other["step"]), "sum": total}


def _held(optimizer: Optimizer) -> set[int]:
    return {id(p) for options in unwrap_optimizer(optimizer).param_groups for p in options["params"]}
