"""An explicit list of layers -> unit groups.

The list is read in the order of computation: a weight layer, whatever its units pass through, the next weight layer
that reads them. What stands between must keep units apart; it is recognised, or probed, or refused by name and reason.
A list cannot show shortcuts or a second reader, so it must be the whole way of these units through the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from gnt.units import _validation as given_groups
from gnt.units._activations import Activation, activation_gain, parse_activation
from gnt.units._group import CONV_LAYERS, WEIGHT_LAYERS, Slot, UnitGroup
from gnt.units._passthrough import Passage, WalkError, has_torch_forward
from gnt.units._unwrap import unwrap

Layer = nn.Module | Callable[..., Any]
Layers = nn.Module | Iterable[Layer]


def walk(layers: Layers, *, activation: str | None = None) -> tuple[UnitGroup, ...]:
    """Turn a list of layers, in the order of computation, into the groups of units between its weight layers.

    Args:
        layers: an ``nn.Sequential``, an ``nn.ModuleList``, a list of modules and plain functions such as ``F.relu``, or
            a model with ``.layers``. Nested containers are walked too. Weight layers are ``Linear`` and
            ``Conv1d/2d/3d``; between them may stand BatchNorm, LayerNorm, GroupNorm, InstanceNorm, RMSNorm, any
            activation, pooling, dropout, Flatten. A list without its Flatten works as well: a linear layer that reads a
            convolution owns a block of columns for each channel.
        activation: name of the activation for groups whose list shows none (the model applies it in its ``forward``).
            Norms that stand in ``forward`` alone cannot be seen: put them into the list.

    Returns:
        One `UnitGroup` for each weight layer but the last, in order.

    Raises:
        WalkError (a ValueError): no hidden layer, a list that ends in an activation, a module used twice, tied weights,
            frozen or lazy or parametrized weights, sizes that do not fit, or a layer that gnt does not know to keep
            units apart.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 2))
    >>> print(walk(net)[0])
    0: 6 units, relu
      producer  0 Conv2d (rows)
      consumer  4 Linear (columns, 9 per unit)
    """
    layers = unwrap(layers) if isinstance(layers, nn.Module) else layers
    named = list(flatten_layers(layers))
    given = parse_activation(activation) if activation is not None else None
    unlisted = given or _literal(layers)
    groups: list[UnitGroup] = []
    passage: Passage | None = None
    for name, layer in named:
        if isinstance(layer, WEIGHT_LAYERS):
            _check_weights(name, layer)
            if passage is not None:
                consumer = _consumer(passage, name, layer)
                groups.append(_group(passage, consumer, given, unlisted))
            passage = Passage(Slot(name, layer, _units(layer)))
        elif passage is not None:
            passage.append(name, layer)
    if passage is None:
        raise WalkError(f"no Linear or Conv layer among {_listed(named)}: there is nothing to walk")
    passage.check_end()
    if not groups:
        raise WalkError(
            f"no hidden layer: {passage.producer.name!r} is the only weight layer among {_listed(named)}, and its "
            "units are outputs; give at least two weight layers"
        )
    if given is not None and all(group.activation != given for group in groups):
        raise ValueError(f"activation={activation!r} would be ignored: the list shows the activation of every group")
    _check_used_once(groups, layers)
    return tuple(groups)


def groups_for_engine(layers: Layers | Iterable[UnitGroup], activation: str | None) -> tuple[UnitGroup, ...]:
    """The groups of an engine: given ones, copied so that no other engine writes its state there, or walked."""
    if isinstance(layers, UnitGroup):
        raise TypeError(f"layers must be a list of unit groups, got one: give [group] for group {layers.name!r}")
    if not isinstance(layers, Iterable) or isinstance(layers, nn.Module):
        return walk(layers, activation=activation)
    given: list[Any] = list(layers)
    others = [type(each).__name__ for each in given if not isinstance(each, UnitGroup)]
    if len(others) == len(given):
        return walk(given, activation=activation)
    if others:
        raise TypeError(f"layers must be a list of layers or a list of unit groups, got both: also {', '.join(others)}")
    given_groups.check(given)
    named = parse_activation(activation) if activation is not None else None
    without = [group for group in given if group.activation is None or activation_gain(group.activation) is None]
    if named is not None and not without:
        raise ValueError(f"activation={activation!r} would be ignored: unit groups have their own")
    return tuple(
        dataclasses.replace(group, activation=named if named and group in without else group.activation)
        for group in given
    )


def flatten_layers(layers: Layers, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Names and layers in order, containers opened."""
    if isinstance(layers, (nn.Sequential, nn.ModuleList)):
        children: Iterable[tuple[str, Any]] = ((name, child) for name, child in _children(layers))
    elif isinstance(layers, nn.Module):
        inner = getattr(layers, "layers", None)
        if not isinstance(inner, (nn.Module, list, tuple)):
            raise WalkError(
                "layers must be a Sequential, a ModuleList, a list of modules, or a model with .layers; "
                f"{type(layers).__name__} has no .layers; gnt.trace(model, inputs) finds the units of any model"
            )
        yield from flatten_layers(inner, f"{prefix}layers.")
        return
    elif isinstance(layers, Iterable) and not isinstance(layers, (str, bytes, dict, Tensor)):
        children = ((str(i), child) for i, child in enumerate(layers))
    else:
        raise TypeError(
            "layers must be a Sequential, a ModuleList, a list of modules, or a model with .layers, got "
            f"{type(layers).__name__}"
        )
    for name, child in children:
        child = unwrap(child) if isinstance(child, nn.Module) else child
        if isinstance(child, nn.Sequential) and not has_torch_forward(child):
            raise WalkError(
                f"{prefix + name!r} ({type(child).__name__}) has a forward of its own, which may be more than its list"
            )
        if isinstance(child, (nn.Sequential, nn.ModuleList, list, tuple)):
            yield from flatten_layers(child, f"{prefix}{name}.")
        elif callable(child):
            yield f"{prefix}{name}", child
        else:
            raise TypeError(f"layer {prefix + name!r} must be a module or a function, got {type(child).__name__}")


def _children(container: nn.Sequential | nn.ModuleList) -> Iterator[tuple[str, nn.Module]]:
    # named_children() leaves out repetitions, which are just what must be refused
    yield from ((name, child) for name, child in container._modules.items() if child is not None)


def _literal(layers: Layers) -> Activation | None:
    """A Sequential computes just what it lists, so where it lists no activation there is none; others don't say."""
    return ("identity", None) if isinstance(layers, nn.Sequential) and has_torch_forward(layers) else None


def _units(layer: nn.Module) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def _consumer(passage: Passage, name: str, layer: nn.Module) -> Slot:
    """The slot of the columns of ``layer`` that read the passage's units; WalkError where the sizes do not fit."""
    producer = passage.producer
    passage.travel()
    if isinstance(layer, CONV_LAYERS):
        if not isinstance(producer.module, CONV_LAYERS) or passage.flattened:
            raise WalkError(f"{name!r} ({type(layer).__name__}) cannot read the flat features of {producer.name!r}")
        if layer.weight.ndim != producer.weight.ndim:
            kind = type(producer.module).__name__
            raise WalkError(f"{name!r} ({type(layer).__name__}) cannot read the features of {producer.name!r} ({kind})")
        reads, groups = layer.in_channels, layer.groups
        fits = reads == producer.num_units
    else:
        reads, groups = int(layer.in_features), 1  # type: ignore[arg-type]
        flat = isinstance(producer.module, CONV_LAYERS)
        fits = reads % producer.num_units == 0 if flat else reads == producer.num_units
        passage.settle(reads)
    if not fits:
        raise WalkError(
            f"{name!r} ({type(layer).__name__}) reads {reads} inputs, which does not fit the {producer.num_units} "
            f"units of {producer.name!r} ({type(producer.module).__name__}) before it: is the list in the order of "
            "computation, and whole?"
        )
    return Slot(name, layer, producer.num_units, dim=1, block=reads // producer.num_units, groups=groups)


def _group(passage: Passage, consumer: Slot, given: Activation | None, unlisted: Activation | None) -> UnitGroup:
    seen = passage.activation
    return UnitGroup(
        name=passage.producer.name,
        num_units=passage.producer.num_units,
        incoming=(passage.producer,),
        outgoing=(consumer,),
        scales=tuple(passage.scales),
        activation=unlisted if seen is None else given if given and activation_gain(seen) is None else seen,
    )


def _check_weights(name: str, layer: nn.Module) -> None:
    kind = f"{name!r} ({type(layer).__name__})"
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():
        raise WalkError(f"{kind} is lazy and has no weights yet: run one forward before building the engine")
    weight = layer._parameters.get("weight")
    if weight is None:
        raise WalkError(
            f"the weight of {kind} is not a plain parameter (it is parametrized): it cannot be reset row by row"
        )
    if not has_torch_forward(layer):
        raise WalkError(f"{kind} has a forward of its own: gnt does not know what its weight is to it")
    if layer.bias is not None and "bias" not in layer._parameters:
        raise WalkError(f"the bias of {kind} is not a plain parameter (it is parametrized): it cannot be reset")
    more = [key for key, parameter in layer.named_parameters() if key not in ("weight", "bias")]
    if more:
        raise WalkError(f"{kind} has parameters ({', '.join(more)}) of which gnt does not know what belongs to a unit")
    if weight.is_complex():
        raise WalkError(f"the weight of {kind} is complex; utilities are defined for real networks")
    if not weight.requires_grad:
        raise WalkError(
            f"the weight of {kind} is frozen (requires_grad=False): its replaced units could not learn; leave it out "
            "of the list"
        )


def _check_used_once(groups: list[UnitGroup], layers: Layers) -> None:
    """Refuse modules that are used twice and parameters that belong to two modules."""
    slots = [slot for group in groups for slot in (*group.incoming, *group.scales)] + [groups[-1].outgoing[0]]
    seen: dict[int, str] = {}
    for slot in slots:
        first = seen.setdefault(id(slot.module), slot.name)
        if first != slot.name:
            raise WalkError(
                f"{first!r} and {slot.name!r} are one module used twice: its units have two readers, and replacing one "
                "for the first would change the second"
            )
    owners = {
        _address(p): (slot.name, id(slot.module))
        for slot in slots
        for p in slot.module._parameters.values()
        if p is not None
    }
    others = layers.named_modules() if isinstance(layers, nn.Module) else ()
    for name, module in [*((slot.name, slot.module) for slot in slots), *others]:
        for key, parameter in module._parameters.items():
            owner = owners.get(_address(parameter)) if parameter is not None else None
            if owner is not None and owner[1] != id(module):
                raise WalkError(
                    f"{owner[0]!r} and {name!r} share their {key} (tied weights): a unit replaced in one would be "
                    "replaced in the other"
                )


def _address(parameter: Tensor) -> int:
    lazy = isinstance(parameter, UninitializedParameter)
    return id(parameter) if lazy else parameter.data_ptr() or id(parameter)


def _listed(named: list[tuple[str, Layer]]) -> str:
    kinds = [getattr(layer, "__name__", type(layer).__name__) for _, layer in named]
    return f"[{', '.join(kinds)}]" if kinds else "the empty list"
