"""StackedNet: all members as one network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt.learners.ensemble.layers import MemberLinear
from gnt.learners.ensemble.members import Member
from gnt.learners.ensemble.stackable import Layer, LayerStack
from gnt.names import ActivationName
from gnt.units import Slot, UnitGroup, flatten_layers, walk

FeatureReader = Callable[[Tensor], Tensor]  # the input of a layer -> features, samples first


class StackedNet(nn.Module):
    """All members' networks as one: (members, batch, ...) -> (members, batch, ...).

    Attributes:
        members: number of members.
        dropout: for each member the generator of its dropout.
        keeps_gradients: backwards store the gradients of the features that `predict` has returned in their ``grad``.
    """

    keeps_gradients = False

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = len(members)
        self._template = [members[0].net]  # in a list, so that its parameters are not registered
        self.dropout = [member.dropout for member in members]
        stack = LayerStack(self.members, self.dropout)
        for position, (name, _) in enumerate(members[0].layers):
            stack.add(name, [member.layers[position][1] for member in members])
        stack.finish()
        self._steps: list[tuple[Layer, FeatureReader | None]] = [(layer, None) for layer, _ in stack.layers]
        self._stacked = [layer for layer, original in stack.layers if original is not None]  # by layer of the template
        self.layers = nn.ModuleList(layer for layer, _ in stack.layers if isinstance(layer, nn.Module))

    def groups(self, activation: ActivationName | None) -> tuple[UnitGroup, ...]:
        """The unit groups, as `stacked_groups`. From now on `predict` returns features."""
        groups = self.stacked_groups(activation)
        self._read_inputs_of([group.outgoing[0].module for group in groups])
        return groups

    def stacked_groups(self, activation: ActivationName | None) -> tuple[UnitGroup, ...]:
        """The unit groups: those of one member, with all members' units."""
        pairs = zip(flatten_layers(self._template[0]), self._stacked, strict=True)
        stacked = {id(layer): all_members for (_, layer), all_members in pairs}
        return tuple(self._stacked_group(group, stacked) for group in walk(self._template[0], activation=activation))

    def _stacked_group(self, group: UnitGroup, stacked: dict[int, Any]) -> UnitGroup:
        def stacked_slots(own: Sequence[Slot], *, outgoing: bool = False) -> tuple[Slot, ...]:
            return tuple(
                Slot(
                    slot.name,
                    stacked[id(slot.module)],
                    slot.num_units * self.members,
                    dim=slot.dim,
                    block=slot.block,
                    groups=slot.groups * self.members if outgoing else 1,
                    activation=slot.activation,
                )
                for slot in own
            )

        return UnitGroup(
            group.name,
            group.num_units * self.members,
            incoming=stacked_slots(group.incoming),
            outgoing=stacked_slots(group.outgoing, outgoing=True),
            scales=stacked_slots(group.scales),
            activation=group.activation,
            couplings=group.couplings,
            members=self.members,
        )

    def _read_inputs_of(self, consumers: Sequence[Any]) -> None:
        """Make `predict` return the inputs of these layers."""
        ids = {id(layer) for layer in consumers}
        self._steps = [(layer, _feature_reader(layer) if id(layer) in ids else None) for layer, _ in self._steps]

    def predict(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output, and for each group the features that its consumer reads: (batch, members * units...)."""
        features = []
        for layer, read in self._steps:
            if read is not None:
                features.append(read(x))
                if self.keeps_gradients and x.requires_grad:
                    x.register_hook(_GradientOf(features[-1], read))
            x = layer(x)
        return x, features

    def forward(self, x: Tensor) -> Tensor:
        """The output."""
        for layer, _ in self._steps:
            x = layer(x)
        return x

    def member(self, number: int) -> nn.Module:
        """A copy of one member's network in its current state, of the class that ``make_net`` returns."""
        net = copy.deepcopy(self._template[0])
        with torch.no_grad():
            for (_, own), stacked in zip(flatten_layers(net), self._stacked, strict=True):
                if not isinstance(own, nn.Module) or not isinstance(stacked, nn.Module):
                    continue
                own.train(stacked.training)
                for key, tensor in {**own._parameters, **own._buffers}.items():
                    if tensor is not None:
                        whole = getattr(stacked, key)
                        part = whole.unflatten(0, (self.members, -1))[number] if tensor.ndim else whole
                        tensor.data = part.detach().reshape(tensor.shape).clone()
        return net

    def parameters_of(self, member: nn.Module) -> list[tuple[nn.Parameter, str]]:
        """Each stacked parameter, with the name in a result of `member` of the part that is the member's."""
        names = {id(parameter): name for name, parameter in member.named_parameters()}
        return [
            (getattr(stacked, key), names[id(parameter)])
            for (_, own), stacked in zip(flatten_layers(member), self._stacked, strict=True)
            if isinstance(own, nn.Module) and isinstance(stacked, nn.Module)
            for key, parameter in own._parameters.items()
            if parameter is not None
        ]


class _GradientOf:
    """A hook of what a layer reads, which adds the gradient to the ``grad`` of the feature, in the feature's layout."""

    def __init__(self, feature: Tensor, read: FeatureReader) -> None:
        self._feature, self._read = feature, read

    def __call__(self, gradient: Tensor) -> None:
        own, earlier = self._read(gradient), self._feature.grad
        self._feature.grad = own if earlier is None else earlier + own


def _feature_reader(layer: Layer) -> FeatureReader:
    return MemberLinear.samples_first if isinstance(layer, MemberLinear) else Tensor.detach
