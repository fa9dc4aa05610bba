"""Recording of features by forward pre-hooks on consumers, once for all readers.

Only training forwards in training mode with grad enabled are recorded (`gnt.importance._training_forwards`).

A consumer has one hook however many engines and other readers there are. A forward is recorded once, as a detached
feature and a mark that shows whether a backward has reached it. Each reader keeps both in a list of its own
(`gnt.importance._tap_features`) and takes them when it makes an update.

If some reader keeps gradients of features, the mark keeps the gradient that the ordinary backward computes. Then each
consumer reads a view of its own, so that the gradient is that of the loss through the consumers of the tap only, and
not also through consumers that read a function of the same feature, which is another tap.

Activation checkpointing runs a forward a second time during the backward. If the first run was recorded
(use_reentrant=False) the second is ignored; if the first ran without grad (use_reentrant=True) the second is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gnt._utils.recording_switch import switch
from gnt.importance._tap_features import TapFeatures
from gnt.importance._training_forwards import BackwardMark, OwnWeights


def record(
    taps: Sequence[TapFeatures], feature: Any, own: OwnWeights, node: Tensor | None = None, *, gradients: bool = False
) -> Tensor | None:
    """Add the feature of one forward to taps of several readers.

    Args:
        taps: one tap of each reader.
        feature: what the consumer reads.
        own: the weights of consumer and producers, to find out whether a backward of the loss reaches the feature.
        node: the tensor in the network's graph, if ``feature`` is not.
        gradients: some reader keeps gradients. The result is a view of ``node`` that the consumer must read in place of
            it: the gradient of this view is that of the loss through this consumer alone. None: nothing is recorded.
    """
    if torch.compiler.is_compiling():
        record_compiled(taps, feature)
        return None
    node = feature if node is None else node
    if switch.pauses or not own.are_used_by(node):
        return None
    recomputed, differentiable = torch._C._current_graph_task_id() != -1, node.requires_grad
    value = mark = view = frozen = None
    if gradients and differentiable and any(tap.gradients and not tap.resting for tap in taps):
        node = view = node.view_as(node)
    for tap in taps:
        if tap.skips_frozen:
            frozen = own.are_frozen if frozen is None else frozen
            if frozen:
                continue
        if tap.rests is not None and tap.rests():
            tap.note_forward()
            continue
        if recomputed:
            if tap.recorded_in_forward:
                continue
        else:
            tap.recorded_in_forward = True
        if differentiable and tap.several_consumers and tap.is_latest(feature, own, view):
            continue
        if mark is None and differentiable:
            mark = BackwardMark(node, own, view is not None)
        if value is None:
            value = feature.detach()
        tap.add(value, mark)
    return view


def record_compiled(taps: Sequence[TapFeatures], feature: Any) -> None:
    """As `record`, in code that is compiled or exported."""
    if torch.compiler.is_dynamo_compiling():  # otherwise torch.export, which computes nothing
        value = feature.detach()
        for tap in taps:
            tap.add_compiled(value)


class Recorder:
    """A forward pre-hook that records what its module reads.

    Args:
        own: the weights of the module and of the producers.
        consumers: those of all modules that read the same value.
        samples_first: the function of the module that brings what it reads to the layout of features, if it reads them
            in another one.
    """

    handle: RemovableHandle

    def __init__(
        self,
        own: OwnWeights,
        consumers: Sequence[OwnWeights],
        samples_first: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._own, self._consumers, self._samples_first = own, consumers, samples_first
        self._taps: tuple[TapFeatures, ...] = ()  # replaced as a whole: a forward may run in another thread
        self._gradients = False

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not module.training or not torch.is_grad_enabled():
            return None
        if self._samples_first is not None:
            record(self._taps, self._samples_first(args[0]), self._own, args[0])
            return None
        if not self._gradients:
            record(self._taps, args[0] if args else next(iter(kwargs.values())), self._own)
            return None
        name, feature = (None, args[0]) if args else next(iter(kwargs.items()))
        view = record(self._taps, feature, self._own, gradients=True)
        if view is None:
            return None
        return ((view, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: view})

    def serves(self, own: OwnWeights, consumers: Sequence[OwnWeights]) -> bool:
        """True if this records for the same modules."""
        mine = (self._own, *self._consumers)
        return len(mine) == 1 + len(consumers) and all(map(OwnWeights.of_same_modules, mine, (own, *consumers)))

    def subscribe(self, tap: TapFeatures) -> None:
        """Record for one more reader."""
        self._set_taps((*self._taps, tap))

    def unsubscribe(self, tap: TapFeatures) -> None:
        """Stop recording for a reader; without readers the hook is removed."""
        self._set_taps(tuple(each for each in self._taps if each is not tap))
        if not self._taps:
            self.handle.remove()

    @property
    def taps(self) -> tuple[TapFeatures, ...]:
        """A tap of each reader; another tuple if readers come or go."""
        return self._taps

    def _set_taps(self, taps: tuple[TapFeatures, ...]) -> None:
        self._taps, self._gradients = taps, any(tap.gradients for tap in taps)

    @property
    def __name__(self) -> str:  # torch.jit.script asks for it, and cannot compile a recording hook
        raise AttributeError(
            "torch.jit.script cannot compile a network while an engine records its features: close() the engine first"
        )

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return _unpickle_hook, (self.handle.id,)


class Subscription:
    """The recording of one module's features for one reader."""

    def __init__(self, recorder: Recorder, tap: TapFeatures) -> None:
        self._recorder, self._tap = recorder, tap
        recorder.subscribe(tap)

    def remove(self) -> None:
        """Stop the recording."""
        self._recorder.unsubscribe(self._tap)


def subscribe(tap: TapFeatures, consumers: Sequence[nn.Module], producers: Sequence[nn.Module]) -> list[Subscription]:
    """Record for a tap what its consumers read, by the hooks of earlier readers of the same tap if there are any.

    Args:
        tap: keeps the features.
        consumers: the modules that read the value of the tap.
        producers: the modules that produce the units.
    """
    weights = [OwnWeights(consumer, *producers) for consumer in consumers]
    recorders = (_recorder_of(consumer, own, weights) for consumer, own in zip(consumers, weights, strict=True))
    return [Subscription(recorder, tap) for recorder in recorders]


def _recorder_of(module: nn.Module, own: OwnWeights, consumers: Sequence[OwnWeights]) -> Recorder:
    """The recorder of a module, registered if it has none; inactive copies of other networks' hooks are removed."""
    hooks = module._forward_pre_hooks
    for hook in reversed(hooks.values()):
        if isinstance(hook, Recorder):
            if hook.serves(own, consumers):
                return hook
        elif hook is not _inactive_hook:
            break  # hooks before this one may see another input
    for key in [key for key, hook in hooks.items() if hook is _inactive_hook]:
        del hooks[key]
        module._forward_pre_hooks_with_kwargs.pop(key, None)
    recorder = Recorder(own, consumers, getattr(type(module), "samples_first", None))
    recorder.handle = module.register_forward_pre_hook(recorder, with_kwargs=True)
    return recorder


def _inactive_hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Stands for a recording hook in a copied network, where no engine would take what it records."""


def _unpickle_hook(hook_id: int) -> Callable[..., None]:
    # as torch's own handles do: in a new process the id must not be given to another hook of the same module
    RemovableHandle.next_id = max(RemovableHandle.next_id, hook_id + 1)
    return _inactive_hook


def is_recording_hook(hook: object) -> bool:
    """True for a forward pre-hook that records features, or its inactive copy."""
    return isinstance(hook, Recorder) or hook is _inactive_hook


def recorders(modules: Iterable[nn.Module]) -> list[Recorder]:
    """The recorders of modules."""
    hooks = (hook for module in modules for hook in module._forward_pre_hooks.values())
    return [hook for hook in hooks if isinstance(hook, Recorder)]
