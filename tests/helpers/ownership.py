"""Ownership of weights: for each tensor of a Sequential, the unit that each of its elements belongs to.

Derived from the layers, independently of gnt, so that tests can check which elements gnt changes. An owner map has the
shape of its tensor and holds unit numbers, or -1 where an element belongs to none of the layer's units.

>>> net = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten(), nn.Linear(6, 1))
>>> layer, = hidden_layers(net)
>>> layer.owners["2.weight"]
tensor([[0, 0, 1, 1, 2, 2]])
>>> layer.owners["0.bias"]
tensor([0, 1, 2])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
NO_UNIT = -1


class HiddenLayer(NamedTuple):
    """One hidden layer, described by the names of its tensors in the network.

    ``incoming`` and ``outgoing`` name the weights of producer and consumer, ``scales`` the tensors of norms (and PReLU)
    with an entry for each unit, ``bias`` the producer's bias, if it has one. ``owners`` has a map for each of them.
    ``exchange_class`` numbers the classes of interchangeable units: units in the same convolution groups and the same
    GroupNorm group.
    """

    units: int
    producer: nn.Module
    consumer: nn.Module
    incoming: str
    outgoing: str
    bias: str | None
    consumer_bias: str | None
    scales: tuple[str, ...]
    owners: dict[str, Tensor]
    exchange_class: Tensor


def hidden_layers(net: nn.Sequential) -> list[HiddenLayer]:
    """The hidden layers of a flat Sequential, in order."""
    modules = list(net)
    at = [i for i, module in enumerate(modules) if isinstance(module, WEIGHT_LAYERS)]
    return [_hidden_layer(modules, a, b) for a, b in pairwise(at)]


def owned(layers: Sequence[HiddenLayer], chosen: Iterable[Tensor | None]) -> dict[str, Tensor]:
    """For each tensor with an owner map, a bool mask of its shape: which elements belong to the chosen units."""
    masks: dict[str, Tensor] = {}
    for layer, units in zip(layers, chosen, strict=True):
        for name, owner in layer.owners.items():
            mask = torch.isin(owner, torch.as_tensor([] if units is None else units, dtype=torch.int64))
            masks[name] = masks[name] | mask if name in masks else mask
    return masks


def _hidden_layer(modules: list[nn.Module], a: int, b: int) -> HiddenLayer:
    producer, consumer = modules[a], modules[b]
    units = producer.weight.shape[0]
    exchange_class = _group_of(units, getattr(producer, "groups", 1)) * 1000
    owners = {f"{a}.weight": _spread(torch.arange(units), producer.weight, 0)}
    if producer.bias is not None:
        owners[f"{a}.bias"] = torch.arange(units)
    flat = isinstance(producer, nn.Linear)
    scales: dict[str, Tensor] = {}
    for i in range(a + 1, b):
        flat = flat or isinstance(modules[i], nn.Flatten)
        if isinstance(modules[i], nn.GroupNorm):
            exchange_class = exchange_class * 1000 + _group_of(units, modules[i].num_groups)
        for key in NORM_TENSORS:
            tensor = getattr(modules[i], key, None)
            if isinstance(tensor, Tensor):
                scales[f"{i}.{key}"] = _entries(modules[i], tensor, producer, units, flat)
    owners |= scales
    owners[f"{b}.weight"] = _columns(consumer, units)
    if isinstance(consumer, nn.Linear):
        readers = torch.zeros(units, dtype=torch.int64)
    else:
        readers = _group_of(units, consumer.groups)
    return HiddenLayer(
        units=units,
        producer=producer,
        consumer=consumer,
        incoming=f"{a}.weight",
        outgoing=f"{b}.weight",
        bias=None if producer.bias is None else f"{a}.bias",
        consumer_bias=None if consumer.bias is None else f"{b}.bias",
        scales=tuple(scales),
        owners=owners,
        exchange_class=exchange_class * 1000 + readers,
    )


def _group_of(units: int, groups: int) -> Tensor:
    return torch.arange(units) // (units // groups)


def _spread(owner: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """A map of the shape of ``tensor`` in which position i along ``dim`` belongs to ``owner[i]``."""
    sizes = [1] * tensor.ndim
    sizes[dim] = len(owner)
    return owner.view(sizes).expand(tensor.shape).clone()


def _entries(module: nn.Module, tensor: Tensor, producer: nn.Module, units: int, flat: bool) -> Tensor:
    """The owner map of a tensor of a norm or PReLU between producer and consumer."""
    if isinstance(module, nn.PReLU) and tensor.numel() == 1:
        return torch.full_like(tensor, NO_UNIT, dtype=torch.int64)  # one slope shared by all units
    if isinstance(module, nn.LayerNorm):
        if flat:
            return _spread(torch.arange(tensor.shape[-1]) // (tensor.shape[-1] // units), tensor, -1)
        if tensor.ndim < producer.weight.ndim - 1:
            return torch.full_like(tensor, NO_UNIT, dtype=torch.int64)  # normalizes over the pixels of a channel
        return _spread(torch.arange(units), tensor, 0)
    return torch.arange(len(tensor)) // (len(tensor) // units)


def _columns(consumer: nn.Module, units: int) -> Tensor:
    """The owner map of a consumer's weight: columns, blocks of columns, or the input channels of each group."""
    weight = consumer.weight
    if isinstance(consumer, nn.Linear):
        return _spread(torch.arange(weight.shape[1]) // (weight.shape[1] // units), weight, 1)
    owner = torch.empty(weight.shape, dtype=torch.int64)
    for out in range(weight.shape[0]):
        group = out // (weight.shape[0] // consumer.groups)
        for channel in range(weight.shape[1]):
            owner[out, channel] = group * weight.shape[1] + channel
    return owner
