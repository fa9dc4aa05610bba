"""Check, in each step, that the network is still the one whose unit groups an engine was given.

Compared by identity are the modules in the containers around each group, the parameters of its layers, their shapes and
``requires_grad``. Parametrizations, pruning, weight norm and spectral norm replace the parameter of a layer, and are
found by that.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from operator import attrgetter, is_, methodcaller
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._kernels import layout_check
from gnt._utils.stack_level import user_level
from gnt.distributed import dtensor
from gnt.units._group import UnitGroup
from gnt.units._slot import Slot

_TRAINED_AND_SHAPE, _VALUES = attrgetter("requires_grad", "shape"), methodcaller("values")

REMEDY = (
    "call rebind(layers) of the engine (of CBPSGD, CBPAdam and CBPAdamW it is optimizer.gnt; a CBP layer has a rebind "
    "of its own) with the layers as they are now, or build a new engine"
)


class StructureCheck:
    """The modules, parameters and shapes of some groups, to find out about changes.

    Args:
        groups: the unit groups.
        remedy: what to do about a change that is refused, for the error message.
        replaces: the units are replaced, so that groups with a frozen weight must be left out; otherwise frozen weights
            do not matter.

    Attributes:
        frozen: numbers of the groups that have a frozen weight (requires_grad=False). They are left out of a step.
    """

    def __init__(self, groups: Sequence[UnitGroup], remedy: str = REMEDY, *, replaces: bool = True) -> None:
        self._groups, self._remedy, self._replaces = groups, remedy, replaces
        self.frozen: frozenset[int] = frozenset()
        self._warned: set[int] = set()
        containers = {id(each): each for group in groups for each in group.containers if each.module is not None}
        self._containers = list(containers.values())
        self._complete = [
            (each.module._modules, [child for _, child in each.children])
            for each in self._containers
            if each.complete and each.module is not None
        ]
        self._chains = [
            (each.module._modules, name, child)
            for each in self._containers
            if not each.complete and each.module is not None
            for name, child in each.children
        ]
        self._owners = [(group, slot, key) for group, slot, key in _parameters(groups)]
        self._parameters: list[tuple[dict[str, Any], str, Tensor | None]] = [
            (slot.module._parameters, key, slot.module._parameters[key]) for _, slot, key in self._owners
        ]
        self._note()
        if replaces:
            self.find_frozen()

    def _note(self) -> None:
        """Note what `is_current` compares, as it is now: without Python code for each of its parts."""
        self._children = [children for children, _ in self._complete]
        self._expected_children = [expected for _, expected in self._complete]
        entries: list[tuple[dict[str, Any], str, Any]] = [*self._chains, *self._parameters]
        self._holders, self._names, self._held = ([*column] for column in zip(*entries, strict=True))
        self._weights = [
            parameter for parameters, key, parameter in self._parameters if key == "weight" and parameter is not None
        ]
        self._described = [*map(_TRAINED_AND_SHAPE, self._weights)]
        plain = all(type(weight) is nn.Parameter for weight in self._weights)
        self._alike = layout_check(self._weights) if plain and self._weights else None  # recognizes them, in C++

    @property
    def is_current(self) -> bool:
        """True if nothing has changed since the latest call of `check`."""
        return (
            all(map(is_, map(dict.get, self._holders, self._names), self._held))
            and ((self._alike is not None and self._alike.check(*self._weights)) or self._weights_unchanged())
            and [*map(list, map(_VALUES, self._children))] == self._expected_children
        )

    def _weights_unchanged(self) -> bool:
        """True if all weights have the same shape and ``requires_grad``; dtype and device do not matter."""
        return [*map(_TRAINED_AND_SHAPE, self._weights)] == self._described

    def check(self, optimizer: Optimizer | None) -> None:
        """Find out what has changed; a parameter that the optimizer holds may take the place of another one.

        Raises:
            RuntimeError: a change after which the groups do not fit the network. Nothing is changed.
        """
        for container in self._containers:
            for change in container.changes():
                self._refuse(change, next(group for group in self._groups if container in group.containers))
        self._complete = [(children, [*children.values()]) for children, _ in self._complete]
        held = {id(p) for options in optimizer.param_groups for p in options["params"]} if optimizer else set()
        for i, (group, slot, key) in enumerate(self._owners):
            parameters, _, before = self._parameters[i]
            now = parameters.get(key)
            if now is before:
                continue
            if now is not None and before is not None and dtensor.is_dtensor(before) and not dtensor.is_dtensor(now):
                continue  # a sharded parameter is replaced by the whole one between forward and backward
            if now is None or before is None or now.shape != before.shape or id(now) not in held:
                self._refuse(_parameter_change(slot, key, before, now, optimizer), group)
            self._parameters[i] = parameters, key, now
        for weight, (_, shape) in zip(self._weights, self._described, strict=True):
            if weight.shape != shape:
                group, slot = next((g, s) for g, s, key in self._owners if s.module._parameters.get(key) is weight)
                change = f"the weight of {_name(slot)} has shape {tuple(weight.shape)}, it had {tuple(shape)}"
                self._refuse(change, group)
        self._note()
        if self._replaces:
            self.find_frozen()

    def weight_before(self, module: nn.Module) -> Tensor | None:
        """The weight that a module of the groups had at the latest call of `check`."""
        known = (w for parameters, key, w in self._parameters if key == "weight" and parameters is module._parameters)
        return next(known, None)

    def find_frozen(self) -> None:
        """Set ``frozen``, and warn once about each group that is left out."""
        self.frozen = frozenset(number for number, group in enumerate(self._groups) if frozen_layers(group))
        new = [self._groups[number] for number in sorted(self.frozen - self._warned)]
        self._warned |= self.frozen
        if new:
            layers = dict.fromkeys(layer for group in new for layer in frozen_layers(group))
            warnings.warn(
                f"the weight of {' and '.join(layers)} is frozen (requires_grad=False): the units of group "
                f"{', '.join(repr(group.name) for group in new)} are not replaced until it is trained again",
                stacklevel=user_level(),
            )

    def _refuse(self, change: str, group: UnitGroup) -> None:
        cannot = "replaced" if self._replaces else "measured"
        raise RuntimeError(
            f"the network has changed since the engine was built: {change}. The units of group {group.name!r} cannot "
            f"be {cannot} in it, and nothing was changed; {self._remedy}"
        )


def frozen_layers(group: UnitGroup) -> list[str]:
    """The layers of a group whose weight is frozen, so that replaced units could not learn."""
    slots = dict.fromkeys((*group.drawn, *group.outgoing))
    weights = ((slot, slot.module._parameters.get("weight")) for slot in slots)
    return [_name(slot) for slot, weight in weights if weight is not None and not weight.requires_grad]


def _parameters(groups: Sequence[UnitGroup]) -> Iterator[tuple[UnitGroup, Slot, str]]:
    """Each parameter of the groups' modules once."""
    seen: set[int] = set()
    for group in groups:
        for slot in group.slots:
            if id(slot.module) not in seen:
                seen.add(id(slot.module))
                yield from ((group, slot, key) for key in slot.module._parameters)


def _parameter_change(
    slot: Slot, key: str, before: Tensor | None, now: Tensor | None, optimizer: Optimizer | None
) -> str:
    what = f"the {key} of {_name(slot)}"
    if now is None and key not in slot.module._parameters:
        how = _computed_by(slot.module, key)
        return f"{what} is no longer a plain parameter" + (f": {how} computes it; remove that" if how else "")
    if before is None or now is None or now.shape != before.shape:
        return f"{what} was {_shape(before)} and is {_shape(now)}"
    holder = "an engine without optimizer cannot know who trains it"
    if optimizer is not None:
        holder = f"{type(optimizer).__name__} does not hold it"
    return f"{what} is another parameter, and {holder}"


def _computed_by(module: nn.Module, key: str) -> str | None:
    """What computes a tensor that is no parameter any more."""
    if key in getattr(module, "parametrizations", ()):
        return f"the parametrization {type(module.parametrizations[key][0]).__name__}"  # type: ignore[index]
    if f"{key}_g" in module._parameters:
        return "weight_norm"
    if f"{key}_u" in module._buffers:
        return "spectral_norm"
    return "pruning (torch.nn.utils.prune)" if f"{key}_mask" in module._buffers else None


def _shape(tensor: Tensor | None) -> str:
    return "None" if tensor is None else f"of shape {tuple(tensor.shape)}"


def _name(slot: Slot) -> str:
    return f"{slot.name!r} ({type(slot.module).__name__})"
