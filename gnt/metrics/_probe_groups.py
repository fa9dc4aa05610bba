"""The unit groups that a probe measures: those of an engine, of `walk` or `trace`, of layers, or of CBP layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from gnt.learners import EnsembleGnT, StackedNet
from gnt.replacement import CBPLayer, GnT
from gnt.units import Layers, UnitGroup, groups_for_engine, unwrap

ProbeTarget = GnT | Layers | Iterable[UnitGroup]


def checked_model(model: Any) -> nn.Module:
    """Return the model without its wrappers (torch.compile, DistributedDataParallel).

    Raises:
        TypeError: not a module, or the network of an ensemble.
        ValueError: a parameter is lazy.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    inner = unwrap(model)
    if isinstance(inner, StackedNet):
        raise TypeError("model must be one network, got an ensemble's: probe its members, Ensemble.member(number)")
    lazy = [name for name, parameter in inner.named_parameters() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise ValueError(f"model must have all its weights, {', '.join(lazy)} are lazy: run one forward first")
    return inner


def named_groups(model: nn.Module, target: ProbeTarget) -> dict[str, UnitGroup]:
    """Return the groups by name.

    Raises:
        TypeError: ``target`` is not an engine, layers or groups.
        ValueError: layers that cannot be walked, groups of another model, or two groups of the same name.
    """
    found = _find_groups(model, target)
    modules = {id(module) for module in model.modules()}
    for name, group in found:
        for slot in (*group.incoming, *group.outgoing):
            if id(slot.module) not in modules:
                raise ValueError(
                    f"groups must be of this model, got group {name!r} whose {slot.name!r} is not in it: has the model "
                    "been copied or rebuilt since?"
                )
    names = [name for name, _ in found]
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise ValueError(f"groups must have different names, got {', '.join(map(repr, repeated))} more than once")
    return dict(found)


def _find_groups(model: nn.Module, target: Any) -> list[tuple[str, UnitGroup]]:
    if isinstance(target, EnsembleGnT):
        raise TypeError("groups must be those of one network, got an ensemble's engine: probe its members")
    if isinstance(target, (str, bytes, dict, UnitGroup)) or not isinstance(target, (GnT, Iterable, nn.Module)):
        raise TypeError(
            f"groups must be an engine, a list of unit groups, or layers as GnT takes them, got {type(target).__name__}"
        )
    if isinstance(target, GnT):
        return [(group.name, group) for group in target.groups]
    if isinstance(target, Iterable) and not isinstance(target, (nn.Module, tuple)):
        target = list(target)  # it is iterated twice
    cbp_layers = _cbp_layers(target)
    if cbp_layers:
        paths = {id(module): path for path, module in model.named_modules()}
        return [(paths.get(id(layer.group.producer), layer.group.name), layer.group) for layer in cbp_layers]
    return [(group.name, group) for group in groups_for_engine(target, None, frozen=True)]


def _cbp_layers(layers: Any) -> list[CBPLayer]:
    """Return all CBP layers in ``layers`` and their submodules, each once."""
    given = [layers] if isinstance(layers, nn.Module) else layers if isinstance(layers, (list, tuple)) else []
    modules = [module for layer in given if isinstance(layer, nn.Module) for module in layer.modules()]
    return list(dict.fromkeys(module for module in modules if isinstance(module, CBPLayer)))
