"""The members of an ensemble, each measured by itself: its network, its parameters and its part of the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class EnsembleNet(Protocol):
    """What is needed of the network of `gnt.Ensemble`."""

    members: int

    def member(self, number: int) -> nn.Module:
        """A copy of one member's network."""

    def parameters_of(self, member: nn.Module) -> list[tuple[nn.Parameter, str]]:
        """Each parameter of all members, with the name in a member's network of the part that is the member's."""


def is_ensemble(net: Any) -> bool:
    """True for the network of an ensemble."""
    return isinstance(getattr(net, "members", None), int) and callable(getattr(net, "parameters_of", None))


def member_with_names(net: Any, number: int, parameters: Sequence[Tensor]) -> tuple[nn.Module, list[str]]:
    """A copy of one member's network, and the names in it of the parts of ``parameters``."""
    member = net.member(number)
    names = {id(parameter): name for parameter, name in net.parameters_of(member)}
    return member, [names[id(parameter)] for parameter in parameters]


def by_member(data: Any, members: int) -> list[Any]:
    """The data of each member: tensors with the members first, in any of the forms that `consolidate` takes.

    Raises:
        ValueError: a tensor whose first dimension is not that of the members.
    """
    if not isinstance(data, (Tensor, Mapping, tuple, str, bytes)) and isinstance(data, Iterable):
        batches = list(data)
        return [[_part(batch, number, members) for batch in batches] for number in range(members)]
    return [_part(data, number, members) for number in range(members)]


def _part(data: Any, number: int, members: int) -> Any:
    if isinstance(data, Tensor):
        if not data.ndim or len(data) != members:
            raise ValueError(
                f"data of an ensemble must have its {members} members first, (members, samples, ...), got a tensor of "
                f"shape {tuple(data.shape)}"
            )
        return data[number]
    if isinstance(data, Mapping):
        return {name: _part(each, number, members) for name, each in data.items()}
    if isinstance(data, (tuple, list)):
        return tuple(_parts(data, number, members))
    return data  # refused as data of one network are


def _parts(data: Iterable[Any], number: int, members: int) -> Iterator[Any]:
    return (_part(each, number, members) for each in data)
