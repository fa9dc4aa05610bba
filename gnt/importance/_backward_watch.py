"""Detection of optimizer steps that did not happen, so that their features are not counted.

A skipped optimizer step does not age or replace units and drops its features.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle, unserializable_hook

from gnt._utils.dynamo import not_compiled
from gnt._utils.running_backward import in_backward
from gnt.distributed import dtensor
from gnt.distributed.process_group import is_initialized
from gnt.importance._tap_features import GroupFeatures
from gnt.units import UnitGroup


def step_was_skipped(optimizer: Optimizer) -> bool:
    """True if a GradScaler made this step of a fused optimizer do nothing because a gradient was not finite.

    A GradScaler does not call the step of other optimizers at all in that case. Reading the flag waits for the device,
    as the scaler itself does for other optimizers.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())


class HoldsFeatures(Protocol):
    """An object that keeps features until an optimizer step."""

    def after_backward(self, *, restarted: bool) -> None:
        """Note that a backward has run; ``restarted``: gradients did not accumulate on earlier ones."""


class BackwardWatch:
    """Watches the gradient of one parameter to find out that features were abandoned.

    A GradScaler that skips a step does not call the optimizer. The only sign is the gradient: after ``zero_grad`` it
    starts again, whereas over accumulated micro-batches it is added to in place.

    With several processes, gradients are averaged in place and are views of shared buffers. There, gradients have
    restarted if the parameter had no gradient before the backward. With ``create_graph=True`` they are added up in new
    tensors. There, gradients have restarted unless that of the previous backward was unchanged before the backward.

    Args:
        features: told after each backward; held by a weak reference.
        param: the parameter whose gradient is watched.
    """

    def __init__(self, features: HoldsFeatures, param: Tensor) -> None:
        self._param = weakref.ref(param)
        self._features = weakref.ref(features)  # the hook outlives engine and optimizer if only the network is kept
        self._grad: weakref.ref[Tensor] | None = None
        self._version = 0
        self._accumulates: bool | None = None  # looked up before the backward; None: it was not
        self._looks_before = False
        register: Callable[..., RemovableHandle] = param.register_post_accumulate_grad_hook
        self._handles = [register(self._after_backward)]
        self._look_before_backward(param)

    def watches(self, param: Tensor) -> bool:
        """True if this is the parameter that is watched."""
        return self._param() is param

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _look_before_backward(self, param: Tensor) -> None:
        """Where the gradient afterwards does not tell, register a hook that looks at it before each backward."""
        if not (is_initialized() or _creates_graph()) or dtensor.is_dtensor(param):
            return
        self._looks_before = True
        reference = weakref.ref(param)
        register: Callable[..., RemovableHandle] = param.register_hook
        # the network is saved and copied without this hook, and without a warning about it
        hook: Any = unserializable_hook(lambda _: self._before_backward(reference()))
        self._handles.append(register(hook))

    def _before_backward(self, param: Tensor | None) -> None:
        grad = None if param is None else param.grad
        if grad is None or is_initialized():
            self._accumulates = grad is not None
        else:
            self._accumulates = self._is_latest(grad) and grad._version == self._version

    def _is_latest(self, grad: Tensor) -> bool:
        """True if this is the tensor that the previous backward left."""
        return self._grad is not None and self._grad() is grad

    @not_compiled
    def _after_backward(self, param: Tensor) -> None:
        grad = param.grad
        if self._accumulates is not None:
            accumulated, self._accumulates = self._accumulates, None
        elif grad is None:
            accumulated = False
        elif grad.__class__ is not Tensor and dtensor.is_dtensor(grad):
            accumulated = self._is_latest(grad)
        elif torch.is_grad_enabled():  # with create_graph=True, the first time; later ones are looked at before
            accumulated = self._grad is not None
        else:
            # one in-place addition and no other change since: neither zeroed in place nor unscaled
            before = self._grad
            accumulated = before is not None and before() is grad and grad._version == self._version + 1
        features = self._features()
        if features is not None:
            features.after_backward(restarted=not accumulated)
        if grad is not None:
            self._grad, self._version = weakref.ref(grad), grad._version
        # the process group may have been initialised after the engine was built
        if not self._looks_before and (is_initialized() or torch.is_grad_enabled()):
            self._look_before_backward(param)


class GroupWatches:
    """Watches the gradient of one parameter of each group: groups may be trained in turn.

    Groups whose parameters are all frozen are not watched.

    Args:
        groups: the unit groups.
        features: the features of each group.
    """

    def __init__(self, groups: Sequence[UnitGroup], features: Sequence[GroupFeatures]) -> None:
        by_param: dict[int, tuple[Tensor, list[GroupFeatures]]] = {}
        self._watched: list[_WatchedGroup] = []
        for group, own in zip(groups, features, strict=True):
            weights = [slot.weight for slot in (*group.incoming, *group.outgoing) if slot.weight.requires_grad]
            if weights:
                by_param.setdefault(id(weights[0]), (weights[0], []))[1].append(own)
                self._watched.append(_WatchedGroup([weakref.ref(weight) for weight in weights], own))
        joined = [(p, GroupFeatures([tap for each in own for tap in each.taps])) for p, own in by_param.values()]
        self._joined = [own for _, own in joined]  # kept alive: each watch has a weak reference
        self._watches: list[BackwardWatch] = []
        try:
            self._watches += (BackwardWatch(own, param) for param, own in joined)
        except Exception:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the hooks."""
        for watch in self._watches:
            watch.remove()

    def drop_abandoned(self) -> None:
        """Forget the features of groups that have no gradient although others have: their step was abandoned."""
        if len(self._watched) > 1:
            without = [group.features for group in self._watched if not group.was_trained]
            if len(without) < len(self._watched):
                for features in without:
                    features.clear()


class _WatchedGroup(NamedTuple):
    """A group of which a parameter is watched.

    Attributes:
        weights: those of producers, then of consumers, that require grad; the gradient of the first is watched.
        features: what was recorded of the group.
    """

    weights: list[weakref.ref[Tensor]]
    features: GroupFeatures

    @property
    def was_trained(self) -> bool:
        """True if the first weight has a gradient.

        Features that are detached give none to their producers: there, that of any weight counts.
        """
        first, *others = self.weights
        if _has_gradient(first):
            return True
        return any(tap.unmarked for tap in self.features.taps) and any(_has_gradient(each) for each in others)


def _has_gradient(weight: weakref.ref[Tensor]) -> bool:
    found = weight()
    return found is not None and found.grad is not None


def _creates_graph() -> bool:
    """True while a backward with ``create_graph=True`` is running."""
    return torch.is_grad_enabled() and in_backward()
