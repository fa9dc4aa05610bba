"""`Followers`: all followers of an engine, checked and told together of a replacement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gnt.replacement._followers.adapter import FollowerAdapter
from gnt.replacement._followers.averaged_model import AveragedModelAdapter, is_averaged_model
from gnt.replacement._followers.other_engines import OtherEngineAdapter, keeps_unit_state
from gnt.replacement._followers.protocol import Follower, ObjectAdapter
from gnt.units import UnitGroup

Work = Sequence[tuple[UnitGroup, Tensor]]  # groups with the units that are replaced in them
ForOptimizer = Callable[[Optimizer], FollowerAdapter]


class Followers:
    """The followers of an engine, in the order in which they began to follow. It is not changed, but replaced.

    Args:
        adapters: one for each follower.
    """

    def __init__(self, adapters: Sequence[FollowerAdapter] = ()) -> None:
        self.adapters = tuple(adapters)

    @property
    def targets(self) -> tuple[Any, ...]:
        """The objects that follow."""
        return tuple(each.target for each in self.adapters)

    def includes(self, target: object) -> bool:
        """True if this object follows."""
        return any(each.target is target for each in self.adapters)

    def with_targets(
        self,
        targets: Any,
        groups: Sequence[UnitGroup],
        for_optimizer: ForOptimizer,
        network: nn.Module | None = None,
    ) -> Followers:
        """These followers and more, which are checked.

        Args:
            targets: a list of objects.
            groups: the engine's groups.
            for_optimizer: makes the adapter of an optimizer.
            network: the network that an AveragedModel is a copy of.

        Raises:
            TypeError: an object that cannot follow.
            ValueError: it follows already, or has none of the engine's parameters or units.
        """
        if not isinstance(targets, (list, tuple)):
            raise TypeError(f"follow must be a list of objects, got {type(targets).__name__}")
        result = self
        for target in targets:
            if result.includes(target):
                raise ValueError(f"this {type(target).__name__} follows the engine already")
            adapter = _new_adapter(target, for_optimizer, network)
            adapter.check(groups)
            result = Followers((*result.adapters, adapter))
        return result

    def without(self, target: object) -> Followers:
        """These followers without one.

        Raises:
            ValueError: the object does not follow.
        """
        if not self.includes(target):
            raise ValueError(f"this {type(target).__name__} does not follow the engine")
        return Followers([each for each in self.adapters if each.target is not target])

    def check(self, groups: Sequence[UnitGroup]) -> None:
        """Raise the error of the first follower that could not follow a replacement in these groups."""
        for each in self.adapters:
            each.check(groups)

    def consumer_biases(self, work: Work) -> list[Tensor]:
        """Copies of the consumers' biases, for `follow`; empty if no follower asks for their changes."""
        if not any(each.moves_bias for each in self.adapters):
            return []
        return [slot.bias.detach().clone() for slot in _biased_consumers(work)]

    def follow(self, work: Work, biases_before: Sequence[Tensor]) -> None:
        """Tell all followers of units that were replaced.

        Args:
            work: the groups with their replaced units.
            biases_before: the result of `consumer_biases` before the replacement; empty if no bias was moved.
        """
        if biases_before:
            self._move_biases(work, biases_before)
        for each in self.adapters:
            for group, units in work:
                each.reset(group, units)

    def _move_biases(self, work: Work, biases_before: Sequence[Tensor]) -> None:
        for slot, before in zip(_biased_consumers(work), biases_before, strict=True):
            bias = slot.bias
            assert bias is not None
            change = bias.detach() - before
            for group, units in work:
                for own in (*group.incoming, *group.scales):  # the biases of replaced units are new, not moved
                    if own.module._parameters.get("bias") is bias:
                        own.fill_(change, units, 0.0)
            for each in self.adapters:
                if each.moves_bias:
                    each.move_bias(slot, change)


def _biased_consumers(work: Work) -> list[Any]:
    """A slot for each consumer whose bias is changed by the transfer."""
    slots = [slot for group, _ in work for slot in group.outgoing]
    return list({id(slot.bias): slot for slot in slots if slot.bias is not None and slot.bias.requires_grad}.values())


def _new_adapter(target: Any, for_optimizer: ForOptimizer, network: nn.Module | None) -> FollowerAdapter:
    if network is not None and not is_averaged_model(target):
        raise TypeError(f"network is for an AveragedModel only, got it for a {type(target).__name__}")
    if network is not None and not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module or None, got {type(network).__name__}")
    if is_averaged_model(target):
        return AveragedModelAdapter(target, network)
    if isinstance(target, Optimizer):
        return for_optimizer(target)
    if isinstance(target, Follower) and not isinstance(target, type):
        return ObjectAdapter(target)
    if keeps_unit_state(target):
        return OtherEngineAdapter(target)
    raise TypeError(
        f"{type(target).__name__} cannot follow: it has no method reset_units(param, dim, index, groups=1) "
        "(gnt.replacement.Follower), and is not an AveragedModel of torch.optim.swa_utils, a torch optimizer, a GnT, a "
        "ReDo or an Importance"
    )
