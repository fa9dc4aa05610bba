"""Features that wait for an update: what the forwards of one step leave behind, each forward once.

Activation checkpointing runs a forward again in the backward. Where the first run was recorded (use_reentrant=False)
the second is dropped; where it ran without grad (use_reentrant=True) the second is the one to keep.

Under `torch.compile` the recording is part of the compiled code. A chain of pairs is extended without being read,
so nothing there depends on how many features wait: no recompilation, no graph break.
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import torch
from torch import Tensor

from gnt._utils.recording import recording_paused

_MANY_FORWARDS = 1000

Chain = Any  # None, or (the latest feature, the chain before it)


def in_backward() -> bool:
    """Whether a backward is running: a forward that is run now is run again."""
    return bool(torch._C._current_graph_task_id() != -1)


class Waiting:
    """The features of one group that wait for the next update.

    >>> import torch
    >>> waiting = Waiting("0")
    >>> waiting.add(torch.ones(2, 3)), waiting.add(torch.zeros(1, 3))
    (None, None)
    >>> [tuple(feature.shape) for feature in waiting.take()], waiting.waiting
    ([(2, 3), (1, 3)], False)
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self.witnessed = True  # whether it is watched what becomes of each forward: a call in each backward
        self._learned: list[Tensor] = []  # these had their backward
        self._chain: Chain = None  # and these not yet
        self._proper = False  # some of them were recorded in the forward itself
        self._count = 0

    def add(self, feature: Any) -> None:
        """Keep what one forward read."""
        if torch.compiler.is_compiling():
            if torch.compiler.is_dynamo_compiling():  # else torch.export, which computes nothing
                self._chain = (feature.detach(), self._chain)
                self._proper = True
            return
        if recording_paused() or (in_backward() and self._proper):
            return
        self._proper = self._proper or not in_backward()
        self._chain = (_Forward(feature) if self.witnessed else feature.detach(), self._chain)
        self._count += 1
        if self._count == _MANY_FORWARDS:
            warnings.warn(
                f"{_MANY_FORWARDS} forwards of the consumer of group {self.group!r} are waiting for an update: call "
                "GnT.step() after each optimizer step, or close() the engine",
                stacklevel=3,
            )

    @property
    def only(self) -> Tensor | None:
        """What waits, if it is of a single forward; it goes on waiting."""
        if self._chain is None:
            return self._learned[0] if len(self._learned) == 1 else None
        kept, before = self._chain
        if before is not None or self._learned:
            return None
        feature: Tensor = kept.feature if isinstance(kept, _Forward) else kept
        return feature

    def take(self) -> list[Tensor]:
        """What waits, oldest first; it is forgotten here."""
        taken = self._learned + self._unlearned()
        self.forget()
        return taken

    def forget(self) -> None:
        """Forget what waits."""
        self._learned, self._chain, self._proper, self._count = [], None, False, 0

    def after_backward(self, *, anew: bool) -> None:
        """What waits now has its gradients; where they began ``anew``, what had its own before was given up."""
        if anew:
            self._learned = []
        if self._chain is not None:
            self.forget_given_up()
            self._learned += self._unlearned()
            self._chain = None

    @property
    def waiting(self) -> bool:
        """Whether anything waits."""
        return self._chain is not None or bool(self._learned)

    def _unlearned(self) -> list[Tensor]:
        features, chain = [], self._chain
        while chain is not None:
            kept, chain = chain
            features.append(kept.feature if isinstance(kept, _Forward) else kept)
        return features[::-1]

    def forget_given_up(self) -> None:
        """Forget forwards whose graph is gone and was never gone back through: nothing was learned from them."""
        kept, chain = [], self._chain
        if chain is None:
            return
        while chain is not None:
            forward, chain = chain
            if not (isinstance(forward, _Forward) and forward.given_up):
                kept.append(forward)
        self._chain = None
        for forward in reversed(kept):
            self._chain = (forward, self._chain)


class _Forward:
    """What one forward read, and what became of its graph."""

    def __init__(self, feature: Tensor) -> None:
        self.feature = feature.detach()
        self._arrived: list[bool] = []
        self._graph: weakref.ref[Any] | None = None
        if feature.requires_grad:
            arrived = self._arrived

            def gradient_came(_: Tensor) -> None:
                arrived.append(True)

            register: Any = feature.register_hook
            register(gradient_came)
            self._graph = weakref.ref(gradient_came)  # the graph alone holds it

    @property
    def given_up(self) -> bool:
        return self._graph is not None and self._graph() is None and not self._arrived
