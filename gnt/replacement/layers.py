"""CBPLinear and CBPConv: continual backpropagation as layers inside a network.

Each layer is the identity, placed after the activation of ``in_layer``. It records the features that pass, and after
each step of the optimizer that has ``in_layer``'s weight it updates, selects and replaces units with an engine of its
own. Nothing happens during the backward. All layers of one optimizer act together: all are evaluated before any unit is
replaced.
"""

from __future__ import annotations

import copy
import itertools
import operator
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gnt._utils.dynamo import not_compiled
from gnt._utils.validation import check_known_settings
from gnt.importance import (
    BackwardWatch,
    FeatureBatch,
    OwnWeights,
    Signals,
    TapFeatures,
    average_over_processes,
    check_feature,
    in_backward,
    record,
    record_compiled,
    restore_generators_on_error,
    step_was_skipped,
)
from gnt.replacement._config import ENGINE_SETTINGS
from gnt.replacement.engine import GnT
from gnt.replacement.no_features_warning import WARN_AFTER, warn_without_features
from gnt.units import CONV_LAYERS, UnitGroup, walk

_SETTINGS = tuple(name for name in ENGINE_SETTINGS if name != "activation")  # named by the layer itself


class CBPLayer(nn.Module):
    """Base of the two layers: the identity, with an engine for the group of units between two layers."""

    has_own_engine = True
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
        # the engine is not a module: the two layers are submodules of the network, not of this layer
        self.engine = GnT(groups, record=False, **settings)
        self.engine.feature_buffer.require_backward()
        self._own_weights: OwnWeights | None = None
        self.number = self.order = next(_order)  # number of its construction, and of its latest forward
        self._backward_watch: BackwardWatch | None = None
        _register(self)
        self.watch_backward()

    @property
    def features(self) -> TapFeatures:
        """The features recorded since the last step."""
        return self.engine.feature_buffer.taps[0]

    @property
    def group(self) -> UnitGroup:
        """The units between the two layers."""
        return self.engine.groups[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``; in training mode with grad enabled, record it until the optimizer's step."""
        if torch.compiler.is_compiling():
            if self.training and torch.is_grad_enabled():
                record_compiled((self.features,), self._as_consumer_reads(x.detach()))
            return x
        # layers act in the order of the network's forward, not in that of a checkpoint's recomputation
        if self.training and not self.features.waiting and not in_backward():
            self.order = next(_order)
        if self.training and torch.is_grad_enabled():
            self.engine.follow_network()
            feature = self._as_consumer_reads(x.detach())
            check_feature(feature, self.group, self.group.outgoing[0])
            if self._own_weights is None:  # not at once: in a copy the two layers are not complete yet
                self._own_weights = OwnWeights(self.group.consumers[0], self.group.producer)
            gradients = self.features.gradients
            view = record((self.features,), feature, self._own_weights, node=x, gradients=gradients)
            return x if view is None else view
        return x

    def takes_part(self) -> bool:
        """True if the layer has features that a backward has reached, or for which this cannot be seen."""
        return self.features.waiting and self.engine.feature_buffer.trained

    def take_features(self) -> FeatureBatch:
        """Return the checked features recorded since the last step, and forget them."""
        return self.engine.take_features()

    def discard(self) -> None:
        """Drop the recorded features of forwards that no step will follow."""
        self.engine.discard()

    def watch_backward(self) -> None:
        """Watch the producer's gradient, to find out that features were abandoned."""
        param = self.group.incoming[0].weight
        if self._backward_watch is None and param.requires_grad:
            self._backward_watch = BackwardWatch(self.engine.feature_buffer, param)

    def _as_consumer_reads(self, feature: Tensor) -> Tensor:
        """The feature in the shape that the consumer reads: flat, if a flatten follows this layer."""
        flat = isinstance(self.group.producer, CONV_LAYERS) and not isinstance(self.group.consumers[0], CONV_LAYERS)
        return feature.flatten(1) if flat and feature.ndim > 2 else feature

    def get_extra_state(self) -> dict[str, Any]:
        """The engine's state, saved in the network's state_dict."""
        return self.engine.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load the engine's state from the network's state_dict."""
        self.engine.load_state_dict(state)

    def extra_repr(self) -> str:
        """The engine's settings."""
        return repr(self.engine)

    def __getstate__(self) -> dict[str, Any]:
        # a copied network is not stepped by the original's optimizer, which must not be copied with it
        engine = copy.copy(self.engine)
        engine.optimizer = None
        return {**self.__dict__, "_backward_watch": None, "_own_weights": None, "engine": engine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        _register(self)


class CBPLinear(CBPLayer):
    """Continual backpropagation for the units between two linear layers; put it after the activation of ``in_layer``.

    Args:
        in_layer: the ``nn.Linear`` whose output features are the units.
        out_layer: the ``nn.Linear`` that reads them.
        norms: norm or norms between the two, whose per-unit parts are reset too.
        activation: name of the activation, for the gain of new weights.
        settings: those of `GnT`: replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate,
            bias_transfer, generator, protect.

    The layer acts after ``optimizer.step()`` of the optimizer that has ``in_layer.weight``, and resets its state. It
    changes nothing in eval mode, without grad, or after a step without a forward before it. Other objects that keep
    numbers per weight take part in replacements after ``layer.engine.follow(obj)`` (`GnT.follow`).

    The layer's state is saved in the network's state_dict. A damaged state is refused by name and does not change this
    layer; as torch loads a network module by module, other modules may have been loaded before.

    Raises:
        TypeError: layers of other types, or an optimizer whose state cannot be reset per unit (at its first step).
        ValueError: sizes that do not match, or settings outside their range.

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
            channel owns its block of columns; the CBP layer may be before or after the flatten.
        norms, activation, settings: see `CBPLinear`.

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
# for each optimizer its parameters, and the layers whose producer's weight is among them
_layers_by_optimizer: weakref.WeakKeyDictionary[Optimizer, tuple[list[Tensor], list[weakref.ref[CBPLayer]]]] = (
    weakref.WeakKeyDictionary()
)
_steps_without_features: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
_order = itertools.count()
_hooks: list[Any] = []


def _register(layer: CBPLayer) -> None:
    """Step the layer after the step of its optimizer."""
    _layers.add(layer)
    _layers_by_optimizer.clear()
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before_any_step))
        _hooks.append(register_optimizer_step_post_hook(_after_any_step))


def _layers_of(optimizer: Optimizer) -> list[CBPLayer]:
    """The layers whose producer's weight the optimizer has; looked up again if there are other layers or parameters."""
    params = [p for options in optimizer.param_groups for p in options["params"]]
    known = _layers_by_optimizer.get(optimizer)
    if known is None or len(known[0]) != len(params) or not all(map(operator.is_, known[0], params)):
        ids = set(map(id, params))
        layers = [each for each in _layers if id(each.group.incoming[0].weight) in ids]
        for layer in layers:
            layer.watch_backward()  # in a copy this was not possible before the whole network was copied
        known = _layers_by_optimizer[optimizer] = (params, [weakref.ref(layer) for layer in layers])
    return [alive for reference in known[1] if (alive := reference()) is not None]


def _acting_layers(optimizer: Optimizer) -> list[CBPLayer]:
    """The layers that act after a step of this optimizer, which their engines then know, in the order of their action.

    With several processes, these are all its layers: other processes may have features of layers that have none here.
    """
    layers = _layers_of(optimizer)
    if layers and layers[0].engine.has_other_processes:
        layers.sort(key=lambda each: each.number)
    else:
        layers = sorted(filter(CBPLayer.takes_part, layers), key=lambda each: each.order)
    for layer in layers:
        if layer.engine.optimizer is not optimizer:
            layer.engine.optimizer = optimizer
    return layers


@not_compiled
def _before_any_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for layer in _acting_layers(optimizer):
        layer.engine.check_structure()


def _count_step(optimizer: Optimizer, acting: Sequence[CBPLayer]) -> None:
    """Count the optimizer's steps in a row in which no layer had features, and warn once if there are many."""
    count = 0 if acting else _steps_without_features.get(optimizer, 0) + 1
    _steps_without_features[optimizer] = count
    if count == WARN_AFTER:
        warn_without_features([layer.group for layer in _layers_of(optimizer)])


@not_compiled
@torch.no_grad()
def _after_any_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not (own := _layers_of(optimizer)):
        return
    if any(layer.features.waiting for layer in own) and step_was_skipped(optimizer):
        for layer in own:
            _leave_out(layer)
        return
    layers = _acting_layers(optimizer)
    _count_step(optimizer, layers)
    for layer in own:
        if layer not in layers:
            _leave_out(layer)
    if not layers:
        return
    batches = [(layer.engine, layer.take_features()) for layer in layers]
    work = _with_samples([(engine, batch, engine.signals(batch)) for engine, batch in batches])
    for engine, *_ in work:
        engine.read_protection()
    with restore_generators_on_error(engine.generator for engine, *_ in work):
        for engine, batch, signals in work:
            engine.evaluate(batch, signals if signals[0].shared else None)
    for engine, *_ in work:
        engine.advance()
    due = [engine.select_due() for engine, *_ in work]
    for (engine, *_), units in zip(work, due, strict=True):
        engine.replaced = units
        engine.replace_units(units, [None], selected=True)


def _leave_out(layer: CBPLayer) -> None:
    """Drop what the layer has recorded, which no backward has reached or no step of the optimizer has followed."""
    layer.discard()
    layer.engine.replaced = layer.engine.no_units()


Work = tuple[GnT, FeatureBatch, list[Signals]]


def _with_samples(work: list[Work]) -> list[Work]:
    """The entries that have samples; with several processes, means of all engines are exchanged together."""
    processes = [engine.join_processes() for engine, *_ in work]
    if processes and processes[0] is not None:
        signals = [each for *_, signals in work for each in signals]
        average_over_processes(signals, processes[0])
        return [entry for entry in work if entry[2][0].takes_part]
    return [(engine, batch, signals) for engine, batch, signals in work if not batch.empty]
