"""`units`: the unit groups of the networks in a loss module of TorchRL."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from tensordict.nn import TensorDictModuleBase  # type: ignore[import-not-found,unused-ignore]
from torch import nn
from torchrl.modules import MLP  # type: ignore[import-not-found,unused-ignore]
from torchrl.objectives import LossModule, REDQLoss  # type: ignore[import-not-found,unused-ignore]

from gnt.units import WEIGHT_LAYERS, UnitGroup, walk

_SUFFIX = "_params"


def units(loss: LossModule, networks: Sequence[str] | None = None) -> list[UnitGroup]:
    """Return the hidden units of the networks of a loss module, such as ``ClipPPOLoss`` and ``DQNLoss``::

        optimizer = gnt.optim.CBPAdam(list(loss.parameters()), lr=3e-4, layers=units(loss), replacement_rate=1e-4)

    Networks are lists of layers (``torchrl.modules.MLP``, ``nn.Sequential``) in a TensorDictModule; groups are named
    "<network>.<layer>". Target networks are left alone. The last layer of each list is not replaced, as its outputs go
    into the tensordict.

    Losses such as ``SACLoss`` and ``TD3Loss`` stack the weights of several critics in tensors of their own and run them
    under vmap. Layers do not see their features then, so such critics are refused: name the other networks,
    ``units(loss, networks=["actor_network"])``. ``REDQLoss`` runs the actor so, too, and is refused altogether.

    Args:
        loss: the loss module.
        networks: names of the networks; None: all.

    Raises:
        TypeError: not a loss module; a network that is no list of layers: find its units by `gnt.walk` or `gnt.trace`.
        ValueError: stacked networks; a name that the loss module does not have; no hidden layer.

    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.modules import MLP, QValueActor
    >>> from torchrl.objectives import DQNLoss
    >>> net = QValueActor(MLP(4, 2, num_cells=[16, 8]), in_keys=["observation"], action_space="categorical")
    >>> [group.name for group in units(DQNLoss(net, action_space="categorical"))]
    ['value_network.0', 'value_network.2']
    """
    if not isinstance(loss, LossModule):
        raise TypeError(f"loss must be a LossModule of TorchRL, got {type(loss).__name__}")
    kind = type(loss).__name__
    found = {
        name[: -len(_SUFFIX)]: parameters
        for name, parameters in loss.named_children()
        if name.endswith(_SUFFIX) and not name.startswith("target_")
    }
    chosen = list(found) if networks is None else [networks] if isinstance(networks, str) else list(networks)
    unknown = [name for name in chosen if name not in found]
    if unknown:
        raise ValueError(f"{kind} has no network {', '.join(unknown)}; networks are {', '.join(found)}")
    stacked = [name for name in found if found[name].batch_size]
    if isinstance(loss, REDQLoss):  # runs the actor stacked with its target
        stacked = list(found)
    if refused := [name for name in chosen if name in stacked]:
        others = [name for name in chosen if name not in stacked]
        raise ValueError(
            f"{', '.join(refused)} of {kind} cannot be replaced: the weights of several networks are stacked and run "
            "under vmap, where layers do not see their features" + (f"; pass networks={others}" if others else "")
        )
    if not found:
        raise ValueError(f"{kind} has no networks of its own: with functional=False, pass gnt.walk([...]) of yours")
    groups: list[UnitGroup] = []
    seen: set[int] = set()
    for name in chosen:
        lists = list(_lists_of_layers(name, getattr(loss, name)))
        for path, inner in lists:
            if id(inner) not in seen:
                seen.add(id(inner))
                prefix = f"{name}.{path}" if len(lists) > 1 else name
                layers = list(_flat(inner))
                last = max(number for number, layer in enumerate(layers) if _has_weights(layer))
                layers = layers[: last + 1]  # without what computes mean and deviation of the outputs
                groups += (dataclasses.replace(group, name=f"{prefix}.{group.name}") for group in walk(layers))
    if not groups:
        raise ValueError(f"{', '.join(chosen) or kind} has no hidden layer")
    return groups


def _flat(layers: nn.Sequential) -> Iterator[nn.Module]:
    """The layers of a list, and of the lists in it that run one layer after the other."""
    for layer in layers:
        if isinstance(layer, MLP) or (
            isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward
        ):
            yield from _flat(layer)
        else:
            yield layer


def _has_weights(layer: nn.Module) -> bool:
    return any(isinstance(each, WEIGHT_LAYERS) for each in layer.modules())


def _lists_of_layers(name: str, network: nn.Module) -> Iterator[tuple[str, Any]]:
    """The lists of at least two weight layers in the TensorDictModules of a network, each with its path."""
    for path, module in network.named_modules():
        inner = getattr(module, "module", None) if isinstance(module, TensorDictModuleBase) else None
        if inner is None or isinstance(inner, (TensorDictModuleBase, nn.ModuleList)):
            continue
        if sum(isinstance(each, WEIGHT_LAYERS) for each in inner.modules()) < 2:  # no hidden layer
            continue
        if not isinstance(inner, nn.Sequential):
            raise TypeError(
                f"{name} contains a {type(inner).__name__}, which is no list of layers: pass its units as "
                "layers=gnt.walk([...]) or layers=gnt.trace(module, inputs)"
            )
        yield path, inner
