"""The members as one network, and one member's share of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt.learners.ensemble.layers import MemberLinear
from gnt.learners.ensemble.members import Member
from gnt.learners.ensemble.stackable import Layer, Stack
from gnt.units import Slot, UnitGroup, flatten_layers, walk

Read = Callable[[Tensor], Tensor]


class StackedNet(nn.Module):
    """All members' networks as one: (members, batch, ...) -> (members, batch, ...)."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = len(members)
        self._template = [members[0].net]  # in a list: its stale parameters are none of this network's
        self.dropout = [member.dropout for member in members]  # the generators of its draws
        stack = Stack(self.members, self.dropout)
        for position, (name, _) in enumerate(members[0].layers):
            stack.add(name, [member.layers[position][1] for member in members])
        stack.end()
        self._steps: list[tuple[Layer, Read | None]] = [(layer, None) for _, layer, _ in stack.steps]
        self._stacked = [layer for _, layer, own in stack.steps if own is not None]  # for each of the template's layers
        self.layers = nn.ModuleList(layer for _, layer, _ in stack.steps if isinstance(layer, nn.Module))

    def groups(self, activation: str | None) -> tuple[UnitGroup, ...]:
        """The unit groups of all members: those of one, with all members' units; `predict` records for them."""
        pairs = zip(flatten_layers(self._template[0]), self._stacked, strict=True)
        stacked = {id(layer): all_members for (_, layer), all_members in pairs}
        groups = tuple(self._grouped(group, stacked) for group in walk(self._template[0], activation=activation))
        self._read([group.outgoing[0].module for group in groups])
        return groups

    def _grouped(self, group: UnitGroup, stacked: dict[int, Any]) -> UnitGroup:
        def slots(own: Sequence[Slot], side: int) -> tuple[Slot, ...]:
            return tuple(
                Slot(
                    slot.name,
                    stacked[id(slot.module)],
                    slot.num_units * self.members,
                    dim=slot.dim,
                    block=slot.block,
                    groups=slot.groups * self.members if side else 1,
                    activation=slot.activation,
                )
                for slot in own
            )

        return UnitGroup(
            group.name,
            group.num_units * self.members,
            incoming=slots(group.incoming, 0),
            outgoing=slots(group.outgoing, 1),
            scales=slots(group.scales, 0),
            activation=group.activation,
        )

    def _read(self, consumers: Sequence[Any]) -> None:
        """From now on `predict` gives what these read."""
        wanted = {id(layer) for layer in consumers}
        self._steps = [
            (
                layer,
                (_samples_first if isinstance(layer, MemberLinear) else Tensor.detach) if id(layer) in wanted else None,
            )
            for layer, _ in self._steps
        ]

    def predict(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output, and the features that consumers read, samples first: (batch, members * units...)."""
        features = []
        for layer, read in self._steps:
            if read is not None:
                features.append(read(x))
            x = layer(x)
        return x, features

    def forward(self, x: Tensor) -> Tensor:
        """The output."""
        for layer, _ in self._steps:
            x = layer(x)
        return x

    def member(self, number: int) -> nn.Module:
        """A copy of one member's network, as ``make_net`` would give it, with its numbers of now."""
        net = copy.deepcopy(self._template[0])
        with torch.no_grad():
            for (_, mine), stacked in zip(flatten_layers(net), self._stacked, strict=True):
                if not isinstance(mine, nn.Module) or not isinstance(stacked, nn.Module):
                    continue
                mine.train(stacked.training)
                for key, tensor in {**mine._parameters, **mine._buffers}.items():
                    if tensor is not None:
                        whole = getattr(stacked, key)
                        part = whole.unflatten(0, (self.members, -1))[number] if tensor.ndim else whole
                        tensor.data = part.detach().clone()
        return net


def _samples_first(x: Tensor) -> Tensor:
    """Columns as the engine takes features: (members, features, batch) -> (batch, members * features)."""
    return x.detach().reshape(-1, x.shape[2]).t().contiguous()
