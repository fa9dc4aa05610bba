"""MemberEngine: the engine of a rule such as `SNR` for the network of an ensemble, with the units of all members.

The rule decides for each unit by itself, so members may differ in how many units they replace in a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.generators import MemberGenerators
from gnt.initialization import init_name
from gnt.replacement.engine import GnT
from gnt.units import UnitGroup


class MemberEngine(GnT):
    """A `GnT` without selection for units of several networks, which draws for each from its own generator.

    Args:
        groups: unit groups that hold the units of all members, member by member.
        optimizer: the optimizer of all members.
        generators: a generator for each member.
        settings: as for `GnT`.

    Attributes:
        members: number of members.
        generators: as given.
    """

    def __init__(
        self,
        groups: Sequence[UnitGroup],
        optimizer: Optimizer | None,
        generators: Sequence[torch.Generator],
        **settings: Any,
    ) -> None:
        self.members, self.generators = len(generators), list(generators)
        super().__init__(groups, optimizer, generator=generators[0], process_group=False, **settings)
        vars(self)["generator"] = self.host_generator = MemberGenerators(self.generators)  # type: ignore[assignment]
        self.importance.generator = self.host_generator

    def counts_by_member(self, group: UnitGroup, units: Tensor) -> Sequence[int]:
        """How many of these units each member has; reads the device."""
        counts: list[int] = (units // (group.num_units // self.members)).bincount(minlength=self.members).tolist()
        return counts

    def draw_generators(self) -> Sequence[torch.Generator]:
        """The members' generators."""
        return self.generators

    def follow(self, follower: Any, *, network: nn.Module | None = None) -> MemberEngine:
        """As `GnT.follow`; other engines of the ensemble are refused."""
        _refuse_engines([follower])
        return super().follow(follower, network=network)

    def rebind(self, layers: Any) -> MemberEngine:
        """Refused: the layers of all members are stacked when the ensemble is built."""
        raise RuntimeError("the network of an ensemble cannot be changed for another one: build a new Ensemble")


def engine_of_members(net: Any, optimizer: Optimizer | None, settings: dict[str, Any]) -> MemberEngine:
    """The engine of the network of a `gnt.Ensemble`.

    Args:
        net: the network, with ``members`` and ``stacked_groups``.
        optimizer: the optimizer of all members.
        settings: those of the rule.

    Raises:
        TypeError: generators, ``init``, a process group or followers that an ensemble cannot have.
        ValueError: a generator that is given twice.
    """
    given, members = settings["generator"], net.members
    generators = list(given) if isinstance(given, (list, tuple)) else []
    if len(generators) != members or not all(isinstance(each, torch.Generator) for each in generators):
        got = f"{len(given)} objects" if isinstance(given, (list, tuple)) else repr(given)
        raise TypeError(
            f"generator must be a list of {members} torch.Generators for this network of an ensemble, one for each "
            f"member, got {got}"
        )
    if len(set(map(id, generators))) < members:
        raise ValueError(
            "generator holds a generator twice: members that share one would not draw what they draw alone"
        )
    if not isinstance(settings["init"], str):
        raise TypeError(
            f"init must be a name for the network of an ensemble, got {init_name(settings['init'])}: a function would "
            "get the slot of all members together"
        )
    if settings["process_group"]:
        raise TypeError("process_group must be None for the network of an ensemble, which one process trains")
    _refuse_engines(settings["follow"])
    own = {name: value for name, value in settings.items() if name not in ("generator", "process_group")}
    return MemberEngine(net.stacked_groups(settings["activation"]), optimizer, generators, **own)


def _refuse_engines(followers: Iterable[Any]) -> None:
    for each in followers:
        if isinstance(each, GnT):
            raise TypeError(
                f"{type(each).__name__} cannot follow a rule on the network of an ensemble: it replaces equally many "
                "units of each member, and their ages would differ between members"
            )
