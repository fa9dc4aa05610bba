"""Recording of the features of one tap, by a forward pre-hook, until the next update.

Only forwards in training mode with grad enabled are recorded.

Activation checkpointing runs a forward a second time during the backward. If the first run was recorded
(use_reentrant=False) the second is ignored; if the first ran without grad (use_reentrant=True) the second is recorded.

Under `torch.compile` recording is part of the compiled code. Features are kept as a linked list of pairs, which is
extended without being read, so compiled code does not depend on how many features are waiting: no recompilation and no
graph break.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gnt._utils import recording_switch

MANY_FORWARDS = 1000  # warn once when this many forwards are waiting

LinkedList = Any  # None, or (the latest feature, the list before it)


def in_backward() -> bool:
    """True while a backward is running: a forward executed now is a recomputation."""
    return bool(torch._C._current_graph_task_id() != -1)


class TapFeatures:
    """The features of one tap, one tensor per forward, until the next update takes them.

    Args:
        group: name of the unit group, for messages.

    Attributes:
        track_abandoned: keep track of forwards whose graph is freed without a backward; costs one hook per forward.

    >>> import torch
    >>> features = TapFeatures("0")
    >>> features.add(torch.ones(2, 3)), features.add(torch.zeros(1, 3))
    (None, None)
    >>> [tuple(feature.shape) for feature in features.take()], features.waiting
    ([(2, 3), (1, 3)], False)
    """

    def __init__(self, group: str, *, track_abandoned: bool = True) -> None:
        self.group = group
        self.track_abandoned = track_abandoned
        self._with_gradient: list[Tensor] = []  # features whose backward has run
        self._pending: LinkedList = None  # features whose backward has not run yet
        self._recorded_in_forward = False
        self._count = 0

    def add(self, feature: Any) -> None:
        """Keep the feature of one forward."""
        if torch.compiler.is_compiling():
            if torch.compiler.is_dynamo_compiling():  # otherwise torch.export, which computes nothing
                self._pending = (feature.detach(), self._pending)
                self._recorded_in_forward = True
            return
        if recording_switch.pauses or (in_backward() and self._recorded_in_forward):
            return
        self._recorded_in_forward = self._recorded_in_forward or not in_backward()
        self._pending = (_TrackedFeature(feature) if self.track_abandoned else feature.detach(), self._pending)
        self._count += 1
        if self._count == MANY_FORWARDS:
            warnings.warn(
                f"{MANY_FORWARDS} forwards of the consumer of group {self.group!r} are waiting for an update: call "
                "GnT.step() after each optimizer step, or close() the engine",
                stacklevel=3,
            )

    def take(self) -> list[Tensor]:
        """Return the waiting features, oldest first, and forget them."""
        pending, features = self._pending, self._with_gradient
        if pending is not None and pending[1] is None and not features:  # one forward, as in most steps
            kept = pending[0]
            features = [kept.feature if kept.__class__ is _TrackedFeature else kept]
        else:
            features = features + self._pending_features()
        self._with_gradient, self._pending, self._recorded_in_forward, self._count = [], None, False, 0
        return features

    @property
    def waiting(self) -> bool:
        """True if at least one feature is waiting."""
        return self._pending is not None or bool(self._with_gradient)

    def after_backward(self, *, restarted: bool) -> None:
        """Note that a backward has run for the pending features.

        Args:
            restarted: gradients were zeroed or replaced before this backward, so features of earlier backwards belong
                to an abandoned step; they are forgotten.
        """
        if restarted:
            self._with_gradient = []
        if self._pending is not None:
            self.drop_abandoned()
            self._with_gradient += self._pending_features()
            self._pending = None

    def drop_abandoned(self) -> None:
        """Forget the features of forwards whose graph was freed without a backward."""
        kept, pending = [], self._pending
        if pending is None:
            return
        while pending is not None:
            feature, pending = pending
            if not (isinstance(feature, _TrackedFeature) and feature.abandoned):
                kept.append(feature)
        self._pending = None
        for feature in reversed(kept):
            self._pending = (feature, self._pending)

    def _pending_features(self) -> list[Tensor]:
        features, pending = [], self._pending
        while pending is not None:
            kept, pending = pending
            features.append(kept.feature if isinstance(kept, _TrackedFeature) else kept)
        return features[::-1]


class _TrackedFeature:
    """The feature of one forward, and whether its graph was freed."""

    def __init__(self, feature: Tensor) -> None:
        self.feature = feature.detach()
        self._gradients: list[bool] = []
        self._graph: weakref.ref[Any] | None = None
        if feature.requires_grad:
            gradients = self._gradients

            def gradient_arrived(_: Tensor) -> None:
                gradients.append(True)

            register: Any = feature.register_hook
            register(gradient_arrived)
            self._graph = weakref.ref(gradient_arrived)  # only the graph holds a strong reference to the hook

    @property
    def abandoned(self) -> bool:
        """True if the graph was freed and no gradient has arrived."""
        return self._graph is not None and self._graph() is None and not self._gradients


class RecordingHook(TapFeatures):
    """A forward pre-hook that keeps the input of its module."""

    handle: RemovableHandle

    def __init__(self, group: str) -> None:
        super().__init__(group, track_abandoned=False)

    def register(self, module: nn.Module) -> None:
        """Register the hook, and remove inactive copies of other engines' hooks."""
        hooks = module._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if hook is _inactive_hook]:
            del hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
        self.handle = module.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if module.training and torch.is_grad_enabled():
            self.add(args[0] if args else next(iter(kwargs.values())))

    @property
    def __name__(self) -> str:  # torch.jit.script asks for it, and cannot compile a recording hook
        raise AttributeError(
            "torch.jit.script cannot compile a network while an engine records its features: close() the engine first"
        )

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return _unpickle_hook, (self.handle.id,)


def _inactive_hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Stands for a recording hook in a copied network, where no engine would take what it records."""


def _unpickle_hook(hook_id: int) -> Callable[..., None]:
    # as torch's own handles do: in a new process the id must not be given to another hook of the same module
    RemovableHandle.next_id = max(RemovableHandle.next_id, hook_id + 1)
    return _inactive_hook


def is_recording_hook(hook: object) -> bool:
    """True for a forward pre-hook that an engine has registered, or its inactive copy."""
    return isinstance(hook, RecordingHook) or hook is _inactive_hook
