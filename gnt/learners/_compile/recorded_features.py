"""RecordedFeatures: what `gnt.SNR` and others record in the forward, which a graph returns since it calls no hooks.

The learner's engine is one of them if its update is not part of the graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from gnt.importance import PastBackward, TapFeatures, recorders
from gnt.replacement import GnT


class OtherReaders:
    """What reads features of a network outside the graph.

    Args:
        modules: the network's modules.
        engine: the learner's engine if its update is part of the graph, otherwise None.

    Attributes:
        taps: a tap for each feature that one of them reads.
    """

    def __init__(self, modules: Sequence[nn.Module], engine: GnT | None) -> None:
        self._pre_hooks = [module._forward_pre_hooks for module in modules]
        self._num_hooks = self._count_hooks()
        self._recorders = recorders(modules)
        self._found = self._taps_of_recorders()
        own = set() if engine is None else set(map(id, engine.feature_buffer.all_taps))
        every = {id(tap): tap for taps in self._found for tap in taps}
        self.taps: list[TapFeatures] = [tap for number, tap in every.items() if number not in own]

    def _count_hooks(self) -> int:
        return sum(map(len, self._pre_hooks))

    def _taps_of_recorders(self) -> list[Any]:
        return [recorder.taps for recorder in self._recorders]

    @property
    def are_current(self) -> bool:
        """True if none has come or gone."""
        return self._count_hooks() == self._num_hooks and self._taps_of_recorders() == self._found

    @property
    def wait(self) -> bool:
        """True if one has a feature of a forward whose backward may still come."""
        return any(tap.awaits_backward for tap in self.taps)


class RecordedFeatures:
    """The features that taps get in each step of one graph, and their gradients for taps that keep them.

    Args:
        taps: the taps.
    """

    def __init__(self, taps: Sequence[TapFeatures]) -> None:
        self._taps = taps
        # for each feature of each tap in a step, whether it has a gradient; known once the graph is captured
        self._have_gradients: list[list[bool]] = [[] for _ in taps]

    def recorded(self) -> list[Tensor]:
        """The features of the step that is captured, each followed by its gradient if that is kept."""
        found: list[Tensor] = []
        for tap, have_gradients in zip(self._taps, self._have_gradients, strict=True):
            features = tap.recorded()
            gradients = tap.recorded_gradients() if tap.gradients else [None] * len(features)
            have_gradients[:] = [gradient is not None for gradient in gradients]
            pairs = zip(features, gradients, strict=True)
            found += [each for pair in pairs for each in pair if each is not None]
        return found

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        """Inside this context a step is captured: what taps record is kept apart from what waits in them."""
        with contextlib.ExitStack() as stack:
            for tap in self._taps:
                stack.enter_context(tap.apart())
            yield

    def record(self, returned: Sequence[Tensor]) -> None:
        """Record what the graph has returned, first of all the features."""
        rest = iter(returned)
        for tap, have_gradients in zip(self._taps, self._have_gradients, strict=True):
            resting = bool(have_gradients) and tap.resting
            if resting:
                tap.note_forward()
            for has_gradient in have_gradients:
                feature, gradient = next(rest), next(rest) if has_gradient else None
                if not resting:
                    tap.add(feature, PastBackward(gradient) if tap.gradients else None)

    def after_backward(self) -> None:
        """Note that the backward of these features has run."""
        for tap in self._taps:
            tap.after_backward(restarted=False)
