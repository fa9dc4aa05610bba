"""The steps of all CBP layers of an optimizer, by hooks that torch calls around each optimizer's step.

All layers of one optimizer act together: all are evaluated before any unit is replaced.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gnt._utils.dynamo import not_compiled
from gnt.importance import (
    FeatureBatch,
    Signals,
    TapFeatures,
    average_over_processes,
    restore_generators_on_error,
    step_was_skipped,
)
from gnt.replacement.engine import GnT
from gnt.replacement.no_features_warning import WARN_AFTER, warn_without_features
from gnt.units import UnitGroup


class SteppedLayer(Protocol):
    """What the hooks need of a CBP layer: `CBPLayer`."""

    engine: GnT
    number: int
    order: int

    @property
    def features(self) -> TapFeatures:
        """The features recorded since the last step."""

    @property
    def group(self) -> UnitGroup:
        """The units between the two layers."""

    def takes_part(self) -> bool:
        """True if the layer has features that a backward has reached."""

    def take_features(self) -> FeatureBatch:
        """Return the features recorded since the last step, and forget them."""

    def discard(self) -> None:
        """Drop the recorded features."""

    def watch_backward(self) -> None:
        """Watch the gradients of the layers around."""

    def check_use(self, *, optimizer_has_stepped: bool = False) -> None:
        """Raise RuntimeError if the network does not run both layers."""


class _Layers(NamedTuple):
    """The layers of an optimizer.

    Attributes:
        params: all parameters of the optimizer.
        own: the layers whose producer's weight is among them.
        readers: the layers of which only the consumer's weight is, as after a producer was replaced in the network and
            an optimizer of the network's present parameters was built.
    """

    params: list[Tensor]
    own: list[weakref.ref[SteppedLayer]]
    readers: list[weakref.ref[SteppedLayer]]


_layers: weakref.WeakSet[SteppedLayer] = weakref.WeakSet()
_layers_by_optimizer: weakref.WeakKeyDictionary[Optimizer, _Layers] = weakref.WeakKeyDictionary()
_steps_without_features: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
numbers = itertools.count()  # for `SteppedLayer.number` and `SteppedLayer.order`
_hooks: list[Any] = []


def register(layer: SteppedLayer) -> None:
    """Step the layer after the step of its optimizer."""
    _layers.add(layer)
    _layers_by_optimizer.clear()
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before_any_step))
        _hooks.append(register_optimizer_step_post_hook(_after_any_step))


def look_up_again() -> None:
    """Look up the layers of each optimizer again, after a layer has got other weights."""
    _layers_by_optimizer.clear()


def _look_up(optimizer: Optimizer) -> _Layers:
    """The layers of an optimizer; looked up again if there are other layers or parameters."""
    params = [p for options in optimizer.param_groups for p in options["params"]]
    known = _layers_by_optimizer.get(optimizer)
    if known is None or len(known.params) != len(params) or not all(map(operator.is_, known.params, params)):
        ids = set(map(id, params))
        held = [
            (layer, _weight_id(layer.group.producer) in ids, _weight_id(layer.group.consumers[0]) in ids)
            for layer in sorted(_layers, key=lambda each: each.number)
        ]
        own = [weakref.ref(layer) for layer, produces, _ in held if produces]
        readers = [weakref.ref(layer) for layer, produces, reads in held if reads and not produces]
        known = _layers_by_optimizer[optimizer] = _Layers(params, own, readers)
        for layer in (*_alive(own), *_alive(readers)):
            layer.watch_backward()  # in a copy this was not possible before the whole network was copied
    return known


def _weight_id(module: nn.Module) -> int:
    return id(module._parameters.get("weight"))


def _alive(references: Sequence[weakref.ref[SteppedLayer]]) -> list[SteppedLayer]:
    return [layer for reference in references if (layer := reference()) is not None]


def _layers_of(optimizer: Optimizer) -> list[SteppedLayer]:
    """The layers whose producer's weight the optimizer has."""
    return _alive(_look_up(optimizer).own)


def _check_use(optimizer: Optimizer, *, optimizer_has_stepped: bool) -> None:
    """Check that the network still runs both layers around each of the optimizer's CBP layers.

    This comes before an engine takes its optimizer, which may hold the layers of the changed network only.
    """
    known = _look_up(optimizer)
    for layer in (*_alive(known.own), *_alive(known.readers)):
        layer.check_use(optimizer_has_stepped=optimizer_has_stepped)


def _acting_layers(optimizer: Optimizer) -> list[SteppedLayer]:
    """The layers that act after a step of this optimizer, which their engines then know, in the order of their action.

    With several processes, these are all its layers: other processes may have features of layers that have none here.
    """
    layers = _layers_of(optimizer)
    if layers and layers[0].engine.has_other_processes:
        layers.sort(key=lambda each: each.number)
    else:
        layers = sorted(filter(lambda each: each.takes_part(), layers), key=lambda each: each.order)
    for layer in layers:
        if layer.engine.optimizer is not optimizer:
            layer.engine.optimizer = optimizer
    return layers


@not_compiled
def _before_any_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    _check_use(optimizer, optimizer_has_stepped=False)
    for layer in _acting_layers(optimizer):
        layer.engine.check_structure()


def _count_step(optimizer: Optimizer, acting: Sequence[SteppedLayer]) -> None:
    """Count the optimizer's steps in a row in which no layer had features, and warn once if there are many."""
    count = 0 if acting else _steps_without_features.get(optimizer, 0) + 1
    _steps_without_features[optimizer] = count
    if count == WARN_AFTER:
        warn_without_features([layer.group for layer in _layers_of(optimizer)])


@not_compiled
@torch.no_grad()
def _after_any_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    own = _layers_of(optimizer)
    if any(layer.features.waiting for layer in own) and step_was_skipped(optimizer):
        for layer in own:
            _leave_out(layer)
        return
    _check_use(optimizer, optimizer_has_stepped=True)  # of a closure's backward
    if not own:
        return
    layers = _acting_layers(optimizer)
    _count_step(optimizer, layers)
    for layer in own:
        if layer not in layers:
            _leave_out(layer)
    if not layers:
        return
    batches = [(layer.engine, layer.take_features()) for layer in layers]
    for engine, _ in batches:
        if engine.updates == 0 and engine.optimizer_state is not None:
            engine.optimizer_state.check(engine.groups)  # the state exists now: not only at the first replacement
    work = _with_samples([(engine, batch, engine.signals(batch)) for engine, batch in batches])
    for engine, *_ in work:
        engine.read_protection()
    with restore_generators_on_error(engine.generator for engine, *_ in work):
        for engine, batch, signals in work:
            engine.evaluate(batch, signals if signals[0].shared else None)
    for engine, *_ in work:
        engine.advance()
    _replace_due([engine for engine, *_ in work])


def _replace_due(engines: Sequence[GnT]) -> None:
    """Select the units of all engines, then replace them; if an engine refuses, those after it replace none, either."""
    due = deque([(engine, engine.find_due()) for engine in engines])
    try:
        while due:
            engine, accumulated = due.popleft()
            engine.replace_due(accumulated)
    except BaseException:
        for engine, accumulated in due:
            engine.leave_due(accumulated)
        raise


def _leave_out(layer: SteppedLayer) -> None:
    """Drop what the layer has recorded, which no backward has reached or no step of the optimizer has followed."""
    layer.discard()
    layer.engine.replaced = layer.engine.no_units()


Work = tuple[GnT, FeatureBatch, list[Signals]]


def _with_samples(work: list[Work]) -> list[Work]:
    """The entries that have samples; with several processes, means of all engines are exchanged together."""
    processes = [engine.join_processes() for engine, *_ in work]
    if processes and processes[0] is not None:
        for _, batch, _ in work:
            batch.find_resting(processes[0])
        signals = [each for _, batch, signals in work if not batch.unmeasured for each in signals]
        if signals:
            average_over_processes(signals, processes[0])
        return [entry for entry in work if entry[1].resting or entry[2][0].takes_part]
    return [(engine, batch, signals) for engine, batch, signals in work if not batch.empty]
