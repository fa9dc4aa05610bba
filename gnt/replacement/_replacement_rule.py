"""`ReplacementRule`: the base of methods that decide by themselves which units are replaced, such as `ReDo`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.known_attributes import known_attributes
from gnt.importance import Features, Signals, average_over_processes
from gnt.replacement._protect_setting import Protector, checked_protect, protectors
from gnt.replacement._top_units import TopUnits
from gnt.replacement.engine import GnT
from gnt.units import Layers, UnitGroup

Rule = TypeVar("Rule", bound="ReplacementRule")


@known_attributes()
class ReplacementRule:
    """A rule of replacement on a `GnT` engine that selects no unit itself.

    Args:
        layers, optimizer, settings: as for `GnT`.

    Attributes:
        groups: tuple of `UnitGroup`, in order; ``group.state.replaced`` counts replaced units.
        steps: number of steps so far.
        replaced: indices of the units replaced in the latest `step`, one tensor for each group.
    """

    def __init__(self, layers: Layers | Iterable[UnitGroup], optimizer: Optimizer | None, **settings: Any) -> None:
        self._refuse_top_units(settings["protect"])
        self._engine = self._make_engine(
            layers, optimizer, {**settings, "replacement_rate": 0.0, "bias_transfer": False}
        )
        self.groups = self._engine.groups
        self.steps = 0
        self.replaced = self._no_units()

    def _make_engine(
        self, layers: Layers | Iterable[UnitGroup], optimizer: Optimizer | None, settings: dict[str, Any]
    ) -> GnT:
        return GnT(layers, optimizer, **settings)

    def step(self, features: Features | None = None) -> list[Tensor]:
        """Count one step and replace units; see the subclass."""
        raise NotImplementedError

    def after_step(self) -> None:
        """`step`, as the hook of a learner's method."""
        self.step()

    def _signals(self, features: Features | None, settings: str) -> tuple[list[Signals], set[int]] | None:
        """What was recorded of each group, over all processes, and the groups without samples; None: all are.

        Args:
            features: as for `GnT.update`.
            settings: those that all processes must have in common, for the comparison.
        """
        batch = self._engine.take_features(features)
        signals, processes = self._engine.signals(batch), self._engine.join_processes(settings)
        if batch.empty if processes is None else not average_over_processes(signals, processes):
            batch.check_recorded()
            return None
        if processes is not None:
            return signals, {number for number, each in enumerate(signals) if not each.takes_part}
        return signals, set(batch.absent)

    def _replaceable(self, group: UnitGroup, units: Tensor) -> Tensor:
        """Those of the units that are not protected and may be replaced at present."""
        protected, available = group.state.protected, self._engine.protection.available(group)
        units = units if protected is None else units[~protected[units]]
        return units if available is None else units[available[units]]

    def _no_units(self) -> list[Tensor]:
        return [group.state.no_units for group in self.groups]

    @property
    def followers(self) -> tuple[Any, ...]:
        """The objects that take part in each replacement, besides the optimizer."""
        return self._engine.followers

    def follow(self: Rule, follower: Any, *, network: nn.Module | None = None) -> Rule:
        """Let an object take part in each replacement, as `GnT.follow`; returns this object."""
        self._engine.follow(follower, network=network)
        return self

    def unfollow(self: Rule, follower: Any) -> Rule:
        """Let an object take part in replacements no longer, as `GnT.unfollow`; returns this object."""
        self._engine.unfollow(follower)
        return self

    def restart_units(self, group: UnitGroup, units: Tensor) -> None:
        """Another engine, which this object follows, has replaced units: they are not judged by earlier features."""
        self._engine.restart_units(group, units)

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer whose state is reset for replaced units."""
        return self._engine.optimizer

    @property
    def protect(self) -> Any:
        """The objects that protect units; a new value is in force from the next check on."""
        return self._engine.protect

    @protect.setter
    def protect(self, protect: Protector | Sequence[Protector] | None) -> None:
        self._refuse_top_units(protect)
        self._engine.protect = protect

    def _refuse_top_units(self, protect: Any) -> None:
        if any(isinstance(each, TopUnits) for each in protectors(checked_protect(protect))):
            name = type(self).__name__
            raise ValueError(
                f"protect of {name} must be objects with a method protected(group), got {protect!r}, which "
                f"chooses units by a running utility; {name} keeps none"
            )

    @property
    def generator(self) -> torch.Generator:
        """Generator of the draws."""
        return self._engine.generator

    def discard(self) -> None:
        """Discard the recorded features, if no step follows (a GradScaler skipped the optimizer step, for example)."""
        self._engine.discard()

    def close(self) -> None:
        """Remove the hooks. Afterwards the object can be read and saved, but `step` raises RuntimeError."""
        self._engine.close()
