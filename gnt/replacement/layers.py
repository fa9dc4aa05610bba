"""CBPLinear and CBPConv: continual backpropagation as layers inside a network.

Each is the identity, placed after the activation of ``in_layer``; it notes the features that pass, and after the step
of whichever optimizer holds ``in_layer``'s weight it updates, selects and replaces, with an engine of its own. Nothing
happens during backward. All layers of one optimizer act together: all are tested before any unit is regenerated.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from gnt._utils.dynamo import not_compiled
from gnt._utils.validation import check_known_settings
from gnt.importance._backward_watch import Backwards, skipped
from gnt.importance._feature_buffer import Waiting, in_backward
from gnt.importance._intake import Prepared
from gnt.importance._signals import Signals, undrawn_on_error
from gnt.importance._validation import check_feature
from gnt.replacement.engine import ENGINE_SETTINGS, GnT
from gnt.units import CONV_LAYERS, UnitGroup, walk

_SETTINGS = tuple(name for name in ENGINE_SETTINGS if name != "activation")  # that one is the layer's own


class CBPLayer(nn.Module):
    """What the two kinds have in common: the identity, with an engine over the group of units between two layers."""

    looks_after_units = True
    _producers: tuple[type[nn.Module], ...] = ()
    _consumers: tuple[type[nn.Module], ...] = ()

    def __init__(
        self,
        in_layer: nn.Module,
        out_layer: nn.Module,
        *,
        norms: nn.Module | Sequence[nn.Module] = (),
        activation: str = "relu",
        **settings: Any,
    ) -> None:
        super().__init__()
        for role, layer, allowed in (
            ("in_layer", in_layer, self._producers),
            ("out_layer", out_layer, self._consumers),
        ):
            if not isinstance(layer, allowed):
                kinds = ", ".join(kind.__name__ for kind in allowed)
                raise TypeError(f"{role} of {type(self).__name__} must be one of {kinds}, got {type(layer).__name__}")
        check_known_settings(settings, type(self).__name__, _SETTINGS)
        between = [norms] if isinstance(norms, nn.Module) else list(norms)
        groups = walk([in_layer, *between, out_layer], activation=activation)
        if len(groups) != 1:
            raise ValueError(f"norms of {type(self).__name__} must be norms, got {[type(m).__name__ for m in between]}")
        kind = type(in_layer).__name__
        groups[0].name = f"{type(self).__name__} of {kind} with {groups[0].num_units} units"
        # plain attributes of the engine: the layers are submodules of the network, not of this one
        self.engine = GnT(groups, record=False, **settings)
        self._waiting = Waiting(groups[0].name)
        self._order = next(_serial)
        self._backwards: Backwards | None = None
        _watch(self)
        self._watch_backwards()

    @property
    def group(self) -> UnitGroup:
        """The units that this layer looks after."""
        return self.engine.groups[0]

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x``; in training mode with grad enabled its values are noted until the optimizer's step."""
        if torch.compiler.is_compiling():
            if self.training and torch.is_grad_enabled():
                self._waiting.add(self._as_read(x.detach()))
            return x
        # layers act in the order in which the network computes, not in that of a checkpoint's backward
        if self.training and not self._waiting.waiting and not in_backward():
            self._order = next(_serial)
        if self.training and torch.is_grad_enabled():
            self.engine.follow_network()
            feature = self._as_read(x.detach())
            check_feature(feature, self.group, self.group.outgoing[0])
            self._waiting.add(feature)
        return x

    def take(self) -> Prepared:
        """What passed since the last step, checked and arranged; it is forgotten here."""
        return self.engine.take_features([self._waiting.take()])

    def discard(self) -> None:
        """Forget what passed in forwards that no step will follow."""
        self._waiting.take()

    def after_backward(self, *, anew: bool) -> None:
        """As `gnt.waiting.Waiting.after_backward`."""
        self._waiting.after_backward(anew=anew)

    def _watch_backwards(self) -> None:
        param = self.group.incoming[0].weight
        if self._backwards is None and param.requires_grad:
            self._backwards = Backwards(self, param)

    def _as_read(self, feature: Tensor) -> Tensor:
        """The feature as the consumer reads it, where a flatten still lies ahead."""
        flat = isinstance(self.group.producer, CONV_LAYERS) and not isinstance(self.group.consumers[0], CONV_LAYERS)
        return feature.flatten(1) if flat and feature.ndim > 2 else feature

    def get_extra_state(self) -> dict[str, Any]:
        """The engine's state, saved with the network's."""
        return self.engine.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.engine.load_state_dict(state)
        self.discard()

    def extra_repr(self) -> str:
        """The engine's settings, in the network's own listing."""
        return repr(self.engine)

    def __getstate__(self) -> dict[str, Any]:
        # a copy of the network is not stepped by this one's optimizer, and shall not carry it along
        engine = copy.copy(self.engine)
        engine.optimizer = None
        waiting = Waiting(self._waiting.group)
        return {**self.__dict__, "_waiting": waiting, "_backwards": None, "engine": engine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        _watch(self)


class CBPLinear(CBPLayer):
    """Continual backpropagation for the units between two linear layers; put it after the activation of ``in_layer``.

    Args:
        in_layer: the ``nn.Linear`` whose output features are the units.
        out_layer: the ``nn.Linear`` that reads them.
        norms: norm or norms between the two, whose per-unit parts are made fresh too.
        activation: name of the activation, for the gain of fresh weights; "relu" if it is not told.
        settings: of `GnT`: replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate, bias_transfer,
            generator.

    The layer acts after ``optimizer.step()`` of the optimizer that holds ``in_layer.weight``, whose state it resets. It
    changes nothing in eval mode, without grad, or while an optimizer steps without a forward before. Its state is saved
    in the network's state_dict.

    Raises:
        TypeError: other kinds of layers, or an optimizer whose state cannot be reset per unit (at its first step).
        ValueError: sizes that do not fit, or settings outside their range.

    >>> import torch, gnt
    >>> from torch import nn
    >>> fc1, fc2 = nn.Linear(4, 16), nn.Linear(16, 1)
    >>> net = nn.Sequential(fc1, nn.ReLU(), gnt.CBPLinear(fc1, fc2, replacement_rate=0.1, maturity_threshold=2), fc2)
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> for _ in range(5):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    >>> net[2].group.state.replaced
    4
    """

    _producers = (nn.Linear,)
    _consumers = (nn.Linear,)


class CBPConv(CBPLayer):
    """Continual backpropagation for the channels of a convolution; put it after the activation (and pooling) of
    ``in_layer``.

    Args:
        in_layer: the ``nn.Conv1d``, ``Conv2d`` or ``Conv3d`` whose output channels are the units.
        out_layer: the convolution of the same kind, or the ``nn.Linear``, that reads them. For a linear layer each
            channel owns its block of columns; the layer may stand before or after the flatten.
        norms, activation, settings: as for `CBPLinear`.

    >>> import torch, gnt
    >>> from torch import nn
    >>> conv, fc = nn.Conv2d(1, 6, 3), nn.Linear(54, 2)
    >>> net = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), gnt.CBPConv(conv, fc), nn.Flatten(), fc)
    >>> net(torch.randn(2, 1, 8, 8)).shape
    torch.Size([2, 2])
    """

    _producers = CONV_LAYERS
    _consumers = (*CONV_LAYERS, nn.Linear)


_layers: weakref.WeakSet[CBPLayer] = weakref.WeakSet()
_held: weakref.WeakKeyDictionary[Optimizer, tuple[int, list[weakref.ref[CBPLayer]]]] = weakref.WeakKeyDictionary()
_serial = itertools.count()
_hooks: list[Any] = []


def _watch(layer: CBPLayer) -> None:
    """From now on, look for the layer after every optimizer's step."""
    _layers.add(layer)
    _held.clear()
    if not _hooks:
        _hooks.append(register_optimizer_step_post_hook(_after_any_step))


def _layers_of(optimizer: Optimizer) -> list[CBPLayer]:
    """The layers whose producer the optimizer holds; looked up anew when either side grows."""
    size = sum(len(options["params"]) for options in optimizer.param_groups)
    known = _held.get(optimizer)
    if known is None or known[0] != size:
        params = {id(p) for options in optimizer.param_groups for p in options["params"]}
        mine = [layer for layer in _layers if id(layer.group.incoming[0].weight) in params]
        for mate in mine:
            mate._watch_backwards()  # a copy could not before: its network was not whole
        known = _held[optimizer] = (size, [weakref.ref(layer) for layer in mine])
    return [layer for reference in known[1] if (layer := reference()) is not None]


@not_compiled
@torch.no_grad()
def _after_any_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    layers = [layer for layer in _layers_of(optimizer) if layer._waiting.waiting]
    if layers and skipped(optimizer):
        for layer in layers:
            layer.discard()
        return
    layers.sort(key=lambda layer: layer._order)
    for layer in layers:
        if layer.engine.optimizer is not optimizer:
            layer.engine.optimizer = optimizer
    taken = [(layer.engine, layer.take()) for layer in layers]
    learned = _share([(engine, engine.signals(batch)) for engine, batch in taken])
    with undrawn_on_error(engine.generator for engine, _ in learned):
        for engine, signals in learned:
            engine.evaluate(signals)
    for engine, _ in learned:
        engine.advance()
    due = [engine.select() for engine, _ in learned]
    for (engine, _), units in zip(learned, due, strict=True):
        engine.replace(units)


def _share(several: list[tuple[GnT, list[Signals]]]) -> list[tuple[GnT, list[Signals]]]:
    """Those with samples; with several processes all of them together, in one exchange."""
    ranks = [engine.join_processes() for engine, _ in several]
    if ranks and ranks[0] is not None:
        return several if ranks[0].share([each for _, signals in several for each in signals]) else []
    return [(engine, signals) for engine, signals in several if all(each.batch.size for each in signals)]
