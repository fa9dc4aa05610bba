"""FollowedEngine: the part of `GnT` that keeps its optimizer and other objects in step with replacements."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from gnt.replacement._optimizer_hooks import OptimizerHooks
from gnt.replacement._reported_engine import ReportedEngine
from gnt.replacement.optimizer_state import (
    OptimizerStateReset,
    optimizers_among,
    state_of_further_optimizer,
    unwrap_optimizer,
)

Engine = TypeVar("Engine", bound="FollowedEngine")


class FollowedEngine(ReportedEngine):
    """An engine with an optimizer and followers, which take part in each replacement; see `GnT`."""

    _hooks: OptimizerHooks | None

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer whose state is reset for replaced units."""
        return self.optimizer_state.optimizer if self.optimizer_state is not None else None

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer | None) -> None:
        if getattr(self, "_hooks", None) is not None:
            raise RuntimeError("this engine is attached to its optimizer: build a new GnT for another one")
        if optimizer is None:
            self.optimizer_state = None
        else:
            self.optimizer_state = OptimizerStateReset(optimizer, self.groups, optimizers_among(self.followers))
        self.protection_changed()

    @property
    def followers(self) -> tuple[Any, ...]:
        """The objects that take part in each replacement, besides the optimizer."""
        return self._followers.targets

    def follow(self: Engine, follower: Any, *, network: nn.Module | None = None) -> Engine:
        """Let an object that keeps numbers per weight, or per unit, take part in each replacement; returns the engine.

        Whenever this engine replaces units, what the object keeps for them becomes that of new units:

        - an object with the method ``reset_units`` of `gnt.replacement.Follower`, such as `L2Init`, whose anchors
          become the new weights;
        - ``torch.optim.swa_utils.AveragedModel`` (EMA and SWA): the averaged parameters of the new units, and their
          running statistics in norms, become those of the network; the averaged biases of the consumers change by
          as much as the biases;
        - another `GnT`, a `ReDo` or a `gnt.importance.Importance` on some of the same units: there, too, these units
          have age 0 and new averages. For the other direction call ``other.follow(engine)``;
        - another torch optimizer: its state is reset as that of the engine's own. Each parameter of the units must be
          held by at least one of them: ``GnT(net, muon, follow=[adamw])`` where Muon holds the matrices, and AdamW the
          biases. The engine must step after all of them: step the engine's own optimizer last.

        Followers of a follower are not told. Followers are not part of ``state_dict``. A copy of the engine
        (``copy.deepcopy``) is followed by copies: copy both in one call to have them (``copy.deepcopy((net, engine,
        follower))``); those of an engine copied alone are in its ``followers``.

        Args:
            follower: the object.
            network: for an AveragedModel, the network that it is a copy of. Needed if the units' layers cannot be found
                in it by their names: if the engine was built from a list of layers, for example.

        Raises:
            TypeError: an object that cannot follow.
            ValueError: it is the engine itself or its optimizer, follows already, has none of the engine's parameters
                or units, or is a copy of another network.
            RuntimeError: the engine is closed.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> reg, average = gnt.L2Init(net, strength=1e-3), torch.optim.swa_utils.AveragedModel(net)
        >>> engine = gnt.GnT(net, follow=[reg]).follow(average)
        >>> engine.replace([torch.tensor([3])])
        >>> torch.equal(reg.start[0][3], net[0].weight[3]), torch.equal(average.module[0].weight[3], net[0].weight[3])
        (True, True)
        """
        self.feature_buffer.check_open()
        if follower is self or getattr(follower, "groups", None) is self.groups:
            raise ValueError(f"a {type(follower).__name__} cannot follow itself")
        make = partial(state_of_further_optimizer, groups=self.groups, own=self.optimizer, beside=self.followers)
        self._followers = self._followers.with_targets([unwrap_optimizer(follower)], self.groups, make, network)
        return self

    def unfollow(self: Engine, follower: Any) -> Engine:
        """Let an object take part in replacements no longer; returns the engine.

        Raises:
            ValueError: the object does not follow.
            RuntimeError: it is an engine on the same units, attached to the same optimizer: `close` one of them first.
        """
        followers = self._followers.without(unwrap_optimizer(follower))
        if self._hooks is not None:
            self._hooks.check_unfollow(follower)
        self._followers = followers
        return self

    def is_followed_by(self, other: object) -> bool:
        """True if an object takes part in the replacements of this engine."""
        return self._followers.includes(other)
