"""Which units a probe looks at: the groups of an engine, of `walk` or `trace`, of layers, or of CBP layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from gnt.learners import EnsembleGnT, StackedNet
from gnt.replacement.engine import GnT
from gnt.replacement.layers import CBPLayer
from gnt.units._group import UnitGroup
from gnt.units._unwrap import unwrap
from gnt.units._walk import Layers, own_groups

Groups = GnT | Layers | Iterable[UnitGroup]


def model_of(model: Any) -> nn.Module:
    """The model inside its wrappers; refuse what is none, what is not whole yet, and many models in one."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    inner = unwrap(model)
    if isinstance(inner, StackedNet):
        raise TypeError("model must be one network, got an ensemble's: probe its members, Ensemble.member(number)")
    lazy = [name for name, parameter in inner.named_parameters() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise ValueError(f"model must have all its weights, {', '.join(lazy)} are lazy: run one forward first")
    return inner


def groups_of(model: nn.Module, groups: Groups) -> dict[str, UnitGroup]:
    """The groups by their names.

    Raises:
        TypeError: nothing of the kind.
        ValueError: layers that cannot be walked, groups of another model, or two of one name.
    """
    found = _find(model, groups)
    inside = {id(module) for module in model.modules()}
    for name, group in found:
        for slot in (*group.incoming, *group.outgoing):
            if id(slot.module) not in inside:
                raise ValueError(
                    f"groups must be of this model, got group {name!r} whose {slot.name!r} is not in it: has the model "
                    "been copied or rebuilt since?"
                )
    names = [name for name, _ in found]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"groups must have different names, got {', '.join(map(repr, twice))} more than once")
    return dict(found)


def _find(model: nn.Module, groups: Any) -> list[tuple[str, UnitGroup]]:
    if isinstance(groups, EnsembleGnT):
        raise TypeError("groups must be those of one network, got an ensemble's engine: probe its members")
    if isinstance(groups, (str, bytes, dict, UnitGroup)) or not isinstance(groups, (GnT, Iterable, nn.Module)):
        raise TypeError(
            f"groups must be an engine, a list of unit groups, or layers as GnT takes them, got {type(groups).__name__}"
        )
    if isinstance(groups, GnT):
        return [(group.name, group) for group in groups.groups]
    if isinstance(groups, Iterable) and not isinstance(groups, (nn.Module, tuple)):
        groups = list(groups)  # it is asked twice
    own = _cbp_layers(groups)
    if own:
        paths = {id(module): path for path, module in model.named_modules()}
        return [(paths.get(id(layer.group.producer), layer.group.name), layer.group) for layer in own]
    return [(group.name, group) for group in own_groups(groups, None)]


def _cbp_layers(layers: Any) -> list[CBPLayer]:
    given = [layers] if isinstance(layers, nn.Module) else layers if isinstance(layers, (list, tuple)) else []
    modules = [each for layer in given if isinstance(layer, nn.Module) for each in layer.modules()]
    return list(dict.fromkeys(each for each in modules if isinstance(each, CBPLayer)))
