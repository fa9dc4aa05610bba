"""Protection: which units are never replaced, and whose utility is raised, as told by objects outside of the engine.

The objects may also tell which biases a replacement must leave as they are. The engine asks them before it selects. As
long as they return the tensors of before, unchanged, nothing is read from the device.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from gnt.distributed import dtensor
from gnt.replacement._protect_setting import protectors
from gnt.replacement._top_units import TopUnits
from gnt.units import UnitGroup


class Protection:
    """What objects have told of the units of groups, and what of it is in force in the groups' states.

    Args:
        protect: a checked setting ``protect``.
        groups: the engine's groups.

    Attributes:
        top_units: the TopUnits among the objects; None: there is none.
    """

    def __init__(self, protect: Any, groups: Sequence[UnitGroup]) -> None:
        self._groups, objects = groups, protectors(protect)
        self._objects = [each for each in objects if not isinstance(each, TopUnits)]
        self.top_units = next((each for each in objects if isinstance(each, TopUnits)), None)
        if self.top_units is not None:
            for group in groups:
                self.top_units.check(group)
        self._forget_answers()

    def _forget_answers(self) -> None:
        self._answers = [[_Answer(each, group) for each in self._objects] for group in self._groups]
        self._first = True

    def read(self) -> bool:
        """Ask the objects, and apply what has changed to the groups' states; True if anything has.

        Raises:
            TypeError, ValueError: the result of a method ``protected`` cannot be used. Nothing is changed.
        """
        changed = self.ask()
        self.apply(changed)
        return bool(changed)

    def ask(self) -> dict[int, Tensor | None]:
        """The protection of each group for which any object's answer has changed; by number, on the CPU in float64.

        None: no unit is protected. Changes nothing; reads the device where an answer has changed.

        Raises:
            TypeError, ValueError: as `read`.
        """
        changed: dict[int, Tensor | None] = {}
        if self._first:
            self.movable_biases(self._groups)
        for number, answers in enumerate(self._answers):
            news = self._first
            for answer in answers:
                news |= answer.ask()
            if news:
                values = [answer.values() for answer in answers]
                changed[number] = _maximum([each for each in values if each is not None])
        return changed

    def apply(self, changed: dict[int, Tensor | None]) -> None:
        """Let the states of the groups follow the result of `ask`."""
        if self._first:
            for group in self._groups:
                group.state.hold_by_importance(self.top_units is not None)
        for number, protection in changed.items():
            self._groups[number].state.protect(protection)
            for answer in self._answers[number]:
                answer.accept()
        self._first = False

    def after_update(self, left_out: Collection[int]) -> None:
        """Choose the units that are held, if it is time, before any unit is selected; does not read the device.

        Args:
            left_out: numbers of the groups that took no part in the update.
        """
        if self.top_units is not None:
            for number, group in enumerate(self._groups):
                if number not in left_out:
                    self.top_units.after_update(group)

    def available(self, group: UnitGroup) -> Tensor | None:
        """Which units may be replaced at present, bool (num_units,); None: all. Does not read the device.

        Raises:
            TypeError, ValueError: the result of a method ``available`` cannot be used.
        """
        result: Tensor | None = None
        for each in self._objects:
            given = each.available(group) if hasattr(each, "available") else None
            if given is not None:
                _check_available(each, group, given)
                result = given if result is None else result & given
        return result

    def movable_biases(self, groups: Sequence[UnitGroup]) -> dict[int, Tensor]:
        """Which entries of the consumers' biases may be moved, by the id of the bias; without those that all may.

        Does not read the device.

        Raises:
            TypeError, ValueError: the result of a method ``movable_bias`` cannot be used. Nothing is changed.
        """
        sources = [each for each in self._objects if hasattr(each, "movable_bias")]
        slots = [slot for group in groups for slot in group.outgoing] if sources else []
        found: dict[int, Tensor] = {}
        for slot in {id(slot.bias): slot for slot in slots}.values():
            if (bias := slot.bias) is None or not bias.requires_grad:
                continue
            for each in sources:
                movable = _checked_movable(each, slot.name, bias)
                if movable is not None:
                    found[id(bias)] = found[id(bias)] & movable if id(bias) in found else movable
        return found

    def __getstate__(self) -> dict[str, Any]:
        # copies of the tensors start their counts of changes at 0, so that a copy asks for all again
        return {**self.__dict__, "_answers": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_answers()


class _Answer:
    """The latest answer of one object for one group, and the one that is in force."""

    def __init__(self, source: Any, group: UnitGroup) -> None:
        self._source, self._group = source, group
        self._latest: Any = None
        self._in_force: Any = self  # not an answer: the first one is new
        self._changes: int | None = None

    def ask(self) -> bool:
        """Ask; True if the answer is not the one in force, or was changed in place."""
        self._latest = given = self._source.protected(self._group)
        if given is not self._in_force:
            return True
        return given is not None and (given.is_inference() or given._version != self._changes)

    def accept(self) -> None:
        """The latest answer is in force."""
        given = self._in_force = self._latest
        self._changes = None if given is None or given.is_inference() else given._version

    def values(self) -> Tensor | None:
        """The latest answer, checked, on the CPU in float64; reads the device."""
        given, group = self._latest, self._group
        if given is None:
            return None
        what = f"protected() of {type(self._source).__name__}, for group {group.name!r}, must return"
        if not isinstance(given, Tensor):
            raise TypeError(f"{what} a tensor or None, got {type(given).__name__}")
        if given.dtype != torch.bool and not given.dtype.is_floating_point:
            raise TypeError(f"{what} a tensor of bools or of floating point numbers, got {given.dtype}")
        if tuple(given.shape) != (group.num_units,):
            raise ValueError(f"{what} a tensor of shape ({group.num_units},), got {tuple(given.shape)}")
        device = group.incoming[0].weight.device
        if given.device != device:
            raise ValueError(f"{what} a tensor on {device}, where the group's weights are, got one on {given.device}")
        if dtensor.is_dtensor(given) or given.layout != torch.strided:
            kind = "DTensor" if dtensor.is_dtensor(given) else str(given.layout)
            raise TypeError(f"{what} a dense tensor of all units, got {kind}")
        values = given.detach().to("cpu", torch.float64, copy=True)
        valid = (values >= 0) & (values <= 1)  # False for NaN
        if not valid.all():
            unit = int((~valid).nonzero()[0])
            raise ValueError(f"{what} values in [0, 1], got {values[unit].item():g} for unit {unit}")
        return values


def _check_available(source: Any, group: UnitGroup, given: Any) -> None:
    """Raise TypeError or ValueError unless ``given`` is what ``available`` may return."""
    what = f"available() of {type(source).__name__}, for group {group.name!r}, must return"
    if not isinstance(given, Tensor) or given.dtype != torch.bool:
        raise TypeError(f"{what} a tensor of bools or None, got {getattr(given, 'dtype', type(given).__name__)}")
    device = group.incoming[0].weight.device
    if tuple(given.shape) != (group.num_units,) or given.device != device:
        raise ValueError(
            f"{what} a tensor of shape ({group.num_units},) on {device}, got {tuple(given.shape)} on {given.device}"
        )


def _checked_movable(source: Any, name: str, bias: Tensor) -> Tensor | None:
    """What an object's method ``movable_bias`` returns for the bias of the layer ``name``."""
    movable = source.movable_bias(bias)
    if movable is None:
        return None
    what = f"movable_bias() of {type(source).__name__}, for the bias of {name!r}, must return"
    if not isinstance(movable, Tensor) or movable.dtype != torch.bool:
        got = movable.dtype if isinstance(movable, Tensor) else type(movable).__name__
        raise TypeError(f"{what} a tensor of bools or None, got {got}")
    if dtensor.is_dtensor(movable) or movable.layout != torch.strided:
        kind = "DTensor" if dtensor.is_dtensor(movable) else str(movable.layout)
        raise TypeError(f"{what} a dense tensor of all entries, got {kind}")
    if movable.shape != bias.shape:
        raise ValueError(f"{what} a tensor of shape {tuple(bias.shape)}, got {tuple(movable.shape)}")
    if movable.device != bias.device:
        raise ValueError(f"{what} a tensor on {bias.device}, where the bias is, got one on {movable.device}")
    return movable


def _maximum(protections: Sequence[Tensor]) -> Tensor | None:
    """The largest of several protections for each unit; None if there are none."""
    return torch.stack(list(protections)).amax(0) if protections else None
