"""`walk`: unit groups from an explicit list of layers.

The list is read in the order of computation: a weight layer, the layers that its units pass through, and the next
weight layer, which reads them. The layers between must keep the units separate; they are recognised, probed, or refused
with name and reason. A list cannot show shortcuts or a second consumer, so it must contain the complete path of its
units through the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gnt.names import ActivationName
from gnt.units._activations import Activation, activation_gain, parse_activation
from gnt.units._containers import opened_containers
from gnt.units._errors import WalkError
from gnt.units._group import UnitGroup
from gnt.units._layer_types import CONV_LAYERS, WEIGHT_LAYERS, has_torch_forward, num_outputs, weight_fault
from gnt.units._memory_range import MemoryRange
from gnt.units._passthrough import Passthrough
from gnt.units._slot import Slot
from gnt.units._unwrap import unwrap
from gnt.units._validation import check_groups

Layer = nn.Module | Callable[..., Any]
Layers = nn.Module | Iterable[Layer]


def walk(layers: Layers, *, activation: ActivationName | None = None, frozen: bool = False) -> tuple[UnitGroup, ...]:
    """Find the unit groups of a list of layers given in the order of computation.

    Args:
        layers: an ``nn.Sequential``, an ``nn.ModuleList``, a list of modules and plain functions such as ``F.relu``, or
            a model with ``.layers``. Nested containers are opened. Weight layers are ``Linear`` and
            ``Conv1d/2d/3d``; BatchNorm, LayerNorm, GroupNorm, InstanceNorm, RMSNorm, activations, pooling, dropout and
            Flatten may stand between them. The Flatten between a convolution and a linear layer may be left out,
            except in an ``nn.Sequential``, which does only what it lists: the linear layer then has a block of columns
            for each channel.
        activation: name of the activation for groups whose list contains none (because the model applies it in its
            ``forward``). Norms that are only applied in ``forward`` cannot be seen: include them in the list.
        frozen: accept layers with frozen weights (requires_grad=False), whose units can be measured
            (`gnt.metrics.Probe`, `gnt.importance.Importance`) and not replaced.

    Returns:
        One `UnitGroup` for each weight layer except the last, in order.

    Raises:
        WalkError (a ValueError): no hidden layer, a list that ends in an activation, a module used twice, tied weights,
            lazy, parametrized or (without ``frozen``) frozen weights, sizes that do not fit, or a layer that may not
            keep units separate.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 2))
    >>> print(walk(net)[0])
    0: 6 units, relu
      producer  0 Conv2d (rows)
      consumer  4 Linear (columns, 9 per unit)
    """
    layers = unwrap(layers) if isinstance(layers, nn.Module) else layers
    layers = list(layers) if isinstance(layers, Iterator) else layers
    named_layers = list(flatten_layers(layers))
    given = parse_activation(activation) if activation is not None else None
    is_exact = isinstance(layers, nn.Sequential) and has_torch_forward(layers)  # computes what it lists, and no more
    default = given or (("identity", None) if is_exact else None)
    groups: list[UnitGroup] = []
    between: Passthrough | None = None
    for name, layer in named_layers:
        if isinstance(layer, WEIGHT_LAYERS):
            _check_weights(name, layer, frozen)
            if between is not None:
                consumer = _consumer(between, name, layer, exact=is_exact)
                groups.append(_group(between, consumer, given, default))
            between = Passthrough(Slot(name, layer, num_outputs(layer)))
        elif between is not None:
            between.append(name, layer)
    if between is None:
        raise WalkError(f"no Linear or Conv layer among {_kinds(named_layers)}: there are no units to replace")
    between.check_end_of_list()
    if not groups:
        raise WalkError(
            f"no hidden layer: {between.producer.name!r} is the only weight layer among {_kinds(named_layers)}, and "
            "its units are outputs; give at least two weight layers"
        )
    if given is not None and all(group.activation != given for group in groups):
        raise ValueError(f"activation={activation!r} would be ignored: the list shows the activation of every group")
    _check_used_once(groups, layers)
    containers = tuple(opened_containers(layers))
    return tuple(dataclasses.replace(group, containers=containers) for group in groups)


def groups_for_engine(
    layers: Layers | Iterable[UnitGroup], activation: ActivationName | None, *, frozen: bool = False
) -> tuple[UnitGroup, ...]:
    """The unit groups for an engine: copies of given groups, or the groups of a list of layers.

    Given groups are copied because an engine writes its state into its groups. ``frozen``: accept frozen weights.
    """
    if isinstance(layers, UnitGroup):
        raise TypeError(f"layers must be a list of unit groups, got one: pass [group] for group {layers.name!r}")
    if not isinstance(layers, Iterable) or isinstance(layers, nn.Module):
        return walk(layers, activation=activation, frozen=frozen)
    groups: list[Any] = list(layers)
    others = [type(item).__name__ for item in groups if not isinstance(item, UnitGroup)]
    if len(others) == len(groups):
        return walk(groups, activation=activation, frozen=frozen)
    if others:
        raise TypeError(f"layers must be a list of layers or a list of unit groups, got both: also {', '.join(others)}")
    check_groups(groups, frozen=frozen)
    default = parse_activation(activation) if activation is not None else None
    without_gain = [group for group in groups if group.activation is None or activation_gain(group.activation) is None]
    if default is not None and not without_gain:
        raise ValueError(f"activation={activation!r} would be ignored: the unit groups have their own")
    return tuple(
        dataclasses.replace(group, activation=default if default and group in without_gain else group.activation)
        for group in groups
    )


def flatten_layers(layers: Layers, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield (name, layer) for all layers in order, opening containers."""
    if isinstance(layers, (nn.Sequential, nn.ModuleList)):
        # named_children() skips repeated modules, which must be refused
        children: Iterable[tuple[str, Any]] = [item for item in layers._modules.items() if item[1] is not None]
    elif isinstance(layers, nn.Module):
        inner = getattr(layers, "layers", None)
        if not isinstance(inner, (nn.Module, list, tuple)):
            raise WalkError(
                "layers must be a Sequential, a ModuleList, a list of modules, or a model with .layers; "
                f"{type(layers).__name__} has no .layers; gnt.trace(model, inputs) finds the units of any model: "
                "pass what it returns as layers (for a learner layers=gnt.trace(model, inputs))"
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
                f"{prefix + name!r} ({type(child).__name__}) has a custom forward, which may do more than its layers"
            )
        if isinstance(child, (nn.Sequential, nn.ModuleList, list, tuple)):
            yield from flatten_layers(child, f"{prefix}{name}.")
        elif callable(child):
            yield f"{prefix}{name}", child
        else:
            raise TypeError(f"layer {prefix + name!r} must be a module or a function, got {type(child).__name__}")


def _consumer(between: Passthrough, name: str, layer: nn.Module, *, exact: bool) -> Slot:
    """The slot of the columns of ``layer`` that read the producer's units; WalkError if the sizes do not fit.

    Args:
        between: the producer, and the layers after it.
        name, layer: the consumer.
        exact: the model does nothing that the list does not show.
    """
    producer = between.producer
    between.check_layers()
    if isinstance(layer, CONV_LAYERS):
        if not isinstance(producer.module, CONV_LAYERS) or between.flattened:
            raise WalkError(f"{name!r} ({type(layer).__name__}) cannot read the flat features of {producer.name!r}")
        if layer.weight.ndim != producer.weight.ndim:
            kind = type(producer.module).__name__
            raise WalkError(f"{name!r} ({type(layer).__name__}) cannot read the features of {producer.name!r} ({kind})")
        num_inputs, groups = layer.in_channels, layer.groups
        fits = num_inputs == producer.num_units
    else:
        num_inputs, groups = int(layer.in_features), 1  # type: ignore[arg-type]
        flat = isinstance(producer.module, CONV_LAYERS)
        fits = num_inputs % producer.num_units == 0 if flat else num_inputs == producer.num_units
        between.resolve_inner_norms(num_inputs)
        if flat and exact and not between.flattened:
            raise WalkError(
                f"{name!r} (Linear) reads the last dimension of what {producer.name!r} "
                f"({type(producer.module).__name__}) computes, which is not that of its channels: put nn.Flatten() "
                "before it. If your own forward flattens, pass the layers as a list, list(net)"
            )
    if not fits:
        raise WalkError(
            f"{name!r} ({type(layer).__name__}) reads {num_inputs} inputs, which does not fit the {producer.num_units} "
            f"units of {producer.name!r} ({type(producer.module).__name__}) before it: is the list complete and in the "
            "order of computation?"
        )
    return Slot(name, layer, producer.num_units, dim=1, block=num_inputs // producer.num_units, groups=groups)


def _group(between: Passthrough, consumer: Slot, given: Activation | None, default: Activation | None) -> UnitGroup:
    listed = between.activation
    return UnitGroup(
        name=between.producer.name,
        num_units=between.producer.num_units,
        incoming=(between.producer,),
        outgoing=(consumer,),
        scales=tuple(between.scales),
        activation=default if listed is None else given if given and activation_gain(listed) is None else listed,
        couplings=between.couplings,
    )


def _check_weights(name: str, layer: nn.Module, frozen: bool) -> None:
    kind = f"{name!r} ({type(layer).__name__})"
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():
        raise WalkError(f"{kind} is lazy and has no weights yet: run one forward before building the engine")
    weight = layer._parameters.get("weight")
    if weight is None:
        raise WalkError(
            f"the weight of {kind} is not a plain parameter (it is parametrized): it cannot be reset row by row"
        )
    if not has_torch_forward(layer):
        raise WalkError(f"{kind} has a custom forward: gnt does not know how it uses its weight")
    if layer.bias is not None and "bias" not in layer._parameters:
        raise WalkError(f"the bias of {kind} is not a plain parameter (it is parametrized): it cannot be reset")
    extra = [key for key, _ in layer.named_parameters() if key not in ("weight", "bias")]
    if extra:
        raise WalkError(
            f"{kind} has extra parameters ({', '.join(extra)}), and gnt does not know which of them belong to a unit"
        )
    fault = weight_fault(weight, frozen_allowed=frozen)
    if fault is not None:
        raise WalkError(f"the weight of {kind} {fault}; remove the layer from the list")


def _check_used_once(groups: list[UnitGroup], layers: Layers) -> None:
    """Refuse modules that are used twice and parameters that two modules share."""
    slots = [slot for group in groups for slot in (*group.incoming, *group.scales)] + [groups[-1].outgoing[0]]
    seen: dict[int, str] = {}
    for slot in slots:
        first = seen.setdefault(id(slot.module), slot.name)
        if first != slot.name:
            raise WalkError(
                f"{first!r} and {slot.name!r} are one module used twice: its units have two consumers, and replacing a "
                "unit for the first would change the second"
            )
    owners: dict[int, list[tuple[MemoryRange, Slot]]] = {}
    for slot in slots:
        for memory, _ in _memory_of_parameters(slot.module):
            owners.setdefault(memory.storage, []).append((memory, slot))
    others = layers.named_modules() if isinstance(layers, nn.Module) else ()
    for name, module in [*((slot.name, slot.module) for slot in reversed(slots)), *others]:
        for memory, key in _memory_of_parameters(module):
            for own, slot in owners.get(memory.storage, ()):
                if slot.module is not module and own.overlaps(memory):
                    raise WalkError(
                        f"{slot.name!r} and {name!r} share their {key} (tied weights): replacing a unit in one would "
                        "also replace it in the other"
                    )


def _memory_of_parameters(module: nn.Module) -> Iterator[tuple[MemoryRange, str]]:
    for key, parameter in module._parameters.items():
        if parameter is not None and parameter.layout == torch.strided and not is_lazy(parameter):
            yield MemoryRange.of(parameter), key


def _kinds(named_layers: list[tuple[str, Layer]]) -> str:
    kinds = [getattr(layer, "__name__", type(layer).__name__) for _, layer in named_layers]
    return f"[{', '.join(kinds)}]" if kinds else "the empty list"
