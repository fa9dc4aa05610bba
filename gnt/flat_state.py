"""The state of all groups side by side, so that an update takes the same few operations however many groups there are.

Each group's `UnitState` holds views of these tensors. Mean features and utilities stand in one tensor, in the order
(features of all taps, utilities of all units), and so does what an update has tested of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gnt.kernels import load
from gnt.state import UnitState, correction


class FlatState:
    """States of the same device and dtype, joined: their tensors become views of the ones here.

    Attributes:
        states: the groups' states.
        averages: running averages, (features + units,).
        tested: what is to enter them, in the same order.
        means: for each group its mean features in ``tested``, (taps, num_units).
        worths: for each group its worths in ``tested``, (num_units,).
        all_worths: those of all groups, (units,).
        born, last_active: of all units, (units,).
    """

    def __init__(self, states: Sequence[UnitState], *, compiled: bool = False) -> None:
        self.states = states
        self._features = sum(state.mean_features.numel() for state in states)
        self._single = all(len(state.mean_features) == 1 for state in states)
        self.averages = torch.cat([*(s.mean_features.flatten() for s in states), *(s.utility for s in states)])
        self.tested = torch.zeros_like(self.averages)
        self.born = torch.cat([state.born for state in states])
        self.last_active = torch.cat([state.last_active for state in states])
        self._nonfinite = torch.stack([state.nonfinite for state in states])
        self.means: list[Tensor] = []
        self.worths: list[Tensor] = []
        feature, unit = 0, 0
        for i, state in enumerate(states):
            shape, n = state.mean_features.shape, state.num_units
            here, worth = (
                slice(feature, feature + shape.numel()),
                slice(self._features + unit, self._features + unit + n),
            )
            state.mean_features, state.utility = self.averages[here].view(shape), self.averages[worth]
            state.born, state.last_active = self.born[unit : unit + n], self.last_active[unit : unit + n]
            state.nonfinite = self._nonfinite[i]
            self.means.append(self.tested[here].view(shape))
            self.worths.append(self.tested[worth])
            feature, unit = here.stop, unit + n
        self._decay_rate, self._averaged = states[0].decay_rate, states[0].averaged
        self.all_worths = self.tested[self._features :]
        self._advance, self._test = None, None
        if compiled:
            self._test = load("finite", self.averages.dtype)
            self._advance = load("advance", self.averages.dtype) if self._single and self._averaged else None
        self._weight = torch.tensor([1.0 - self._decay_rate], dtype=torch.float64)
        self._answer = torch.zeros(1, dtype=torch.int64)
        self._owners: tuple[Tensor, Tensor] | None = None

    def centre(self) -> list[Tensor]:
        """For each group f^ as it will be once ``means`` are averaged in, (taps, num_units)."""
        features = self._features
        centre = torch.lerp(self.averages[:features], self.tested[:features], 1.0 - self._decay_rate)
        if self._single:
            centre.div_(correction(self.states[0].updates + 1 - self.born, self._decay_rate, centre.dtype))
            return [c[None] for c in torch.split(centre, [state.num_units for state in self.states])]
        return [state.centre(mean) for state, mean in zip(self.states, self.means, strict=True)]

    @property
    def finite(self) -> bool:
        """Whether all that was tested is finite; reads the device."""
        if self._test is not None:
            self._test(self.tested, self._answer, self.tested.numel())
            return self._answer.item() == 1
        # a sum is finite where all of its terms are, but for an overflow
        return math.isfinite(self.tested.sum().item()) or bool(self.tested.isfinite().all())

    def first_broken(self) -> int:
        """The number of the first state of which not all that was tested is finite; reads the device."""
        pairs = zip(self.means, self.worths, strict=True)
        return next(i for i, pair in enumerate(pairs) if not all(part.isfinite().all() for part in pair))

    def advance(self, *, asked: bool) -> None:
        """One update: everybody is one older, what was tested enters the running averages.

        Where nobody has ``asked`` the device whether it is finite, groups of which it is not keep their averages.
        """
        tested, broken = (self.tested, None) if asked else self._finite_only()
        for state in self.states:
            state.tick()
        now, features = self.states[0].updates, self._features
        if self._advance is not None:
            self._advance(self.averages, tested, self.last_active, self._weight, features, now)
            return
        if self._averaged:
            self.averages.lerp_(tested, 1.0 - self._decay_rate)
        else:
            self.averages[:features].lerp_(tested[:features], 1.0 - self._decay_rate)
            self.averages[features:].copy_(tested[features:])
        active = tested[:features] != 0
        if broken is not None:
            active &= ~broken
        if self._single:
            self.last_active.masked_fill_(active, now)
        else:
            for state, some in zip(self.states, torch.split(active, [m.numel() for m in self.means]), strict=True):
                state.last_active.masked_fill_(some.view(-1, state.num_units).any(0), now)

    def _finite_only(self) -> tuple[Tensor, Tensor]:
        """What was tested, and which features belong to groups where some of it is not finite. There the corrected
        averages stand in for what is missing: they come out as they went in.
        """
        owner, unit = self._owner_and_unit()
        broken = torch.zeros_like(self._nonfinite).index_add_(0, owner, (~self.tested.isfinite()).to(torch.int64)) > 0
        self._nonfinite += broken
        age = self.states[0].updates - self.born
        corrected = self.averages / correction(age, self._decay_rate, self.averages.dtype)[unit]
        if not self._averaged:
            corrected[self._features :] = self.averages[self._features :]
        here = broken[owner]
        return torch.where(here, corrected, self.tested), here[: self._features]

    def _owner_and_unit(self) -> tuple[Tensor, Tensor]:
        """For each running average the number of its group and of its unit."""
        if self._owners is None:
            device, numbers, start = self.born.device, range(len(self.states)), 0
            of_features, units = [], []
            for i, state in enumerate(self.states):
                taps, n = state.mean_features.shape
                of_features.append(torch.full((taps * n,), i))
                units.append(torch.arange(start, start + n).repeat(taps))
                start += n
            of_units = [torch.full((self.states[i].num_units,), i) for i in numbers]
            owner, unit = torch.cat([*of_features, *of_units]), torch.cat([*units, torch.arange(start)])
            self._owners = owner.to(device), unit.to(device)
        return self._owners


def join(states: Sequence[UnitState]) -> list[list[int]]:
    """The numbers of the states that can stand side by side: those of one device and dtype."""
    places: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, state in enumerate(states):
        places.setdefault((state.utility.device, state.utility.dtype), []).append(i)
    return list(places.values())
