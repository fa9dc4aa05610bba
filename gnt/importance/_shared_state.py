"""The state of all groups side by side, so that an update takes the same few operations however many groups there are.

Each group's `UnitState` holds views of these tensors. Mean features and utilities stand in one tensor, in the order
(features of all taps, utilities of all units), and so does what an update has tested of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gnt._kernels import load
from gnt.importance._running import UnitState, correction


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
        self._units, self._features = (
            sum(state.num_units for state in states),
            sum(state.mean_features.numel() for state in states),
        )
        self._single = all(len(state.mean_features) == 1 for state in states)
        self._decay_rate, self._averaged = states[0].decay_rate, states[0].averaged
        self._corrected = states[0].corrected
        self.averages = torch.cat([*(s.mean_features.flatten() for s in states), *(s.utility for s in states)])
        self.tested = torch.zeros_like(self.averages)
        self.born = torch.cat([state.born for state in states])
        self.last_active = torch.cat([state.last_active for state in states])
        self._nonfinite = torch.stack([state.nonfinite for state in states])
        self._mean_features, self._utilities = self._halves(self.averages)
        self._tested_features, self.all_worths = self._halves(self.tested)
        self.means: list[Tensor] = []
        self.worths: list[Tensor] = []
        self._given: list[Tensor] = []
        self._share()
        self._advance, self._test = None, None
        if compiled:
            self._test = load("finite", self.averages.dtype)
            self._advance = load("advance", self.averages.dtype) if self._single and self._averaged else None
        self._weight = torch.tensor([1.0 - self._decay_rate], dtype=torch.float64)
        self._answer = torch.zeros(1, dtype=torch.int64)
        self._owner, self._unit = self._owner_and_unit()

    def _halves(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Its part of the mean features and that of the utilities."""
        return tensor.narrow(0, 0, self._features), tensor.narrow(0, self._features, self._units)

    def _share(self) -> None:
        """Give each state its parts."""
        feature, unit = 0, 0
        for i, state in enumerate(self.states):
            shape, n = state.mean_features.shape, state.num_units
            state.mean_features = self._mean_features.narrow(0, feature, shape.numel()).view(shape)
            state.utility = self._utilities.narrow(0, unit, n)
            self._given.append(state.utility)
            state.born, state.last_active = self.born.narrow(0, unit, n), self.last_active.narrow(0, unit, n)
            state.nonfinite = self._nonfinite.select(0, i)
            self.means.append(self._tested_features.narrow(0, feature, shape.numel()).view(shape))
            self.worths.append(self.all_worths.narrow(0, unit, n))
            feature, unit = feature + shape.numel(), unit + n

    @property
    def holds(self) -> bool:
        """Whether the states still are where they were joined; a copy of the engine may have joined them elsewhere."""
        return all(state.utility is given for state, given in zip(self.states, self._given, strict=True))

    def _owner_and_unit(self) -> tuple[Tensor, Tensor]:
        """For each running average the number of its group and of its unit."""
        sizes = [state.num_units for state in self.states]
        features = [state.mean_features.numel() for state in self.states]
        owner = torch.cat([torch.full((n,), i) for counts in (features, sizes) for i, n in enumerate(counts)])
        start = [0, *itertools.accumulate(sizes)]
        taps = [len(state.mean_features) for state in self.states]
        of_features = [
            torch.arange(first, first + n).repeat(t) for first, n, t in zip(start, sizes, taps, strict=False)
        ]
        unit = torch.cat([*of_features, torch.arange(self._units)])
        return owner.to(self.born.device), unit.to(self.born.device)

    def centre(self) -> list[Tensor]:
        """For each group f^ as it will be once ``means`` are averaged in, (taps, num_units)."""
        if not self._single:
            return [state.centre(mean) for state, mean in zip(self.states, self.means, strict=True)]
        centre = torch.lerp(self._mean_features, self._tested_features, 1.0 - self._decay_rate)
        centre.div_(correction(self.states[0].updates + 1 - self.born, self._decay_rate, centre.dtype))
        return [c.unsqueeze(0) for c in torch.split(centre, [state.num_units for state in self.states])]

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
        broken = None if asked else self._replace_broken()
        for state in self.states:
            state.tick()
        now = self.states[0].updates
        if self._advance is not None:
            self._advance(self.averages, self.tested, self.last_active, self._weight, self._units, now)
            return
        if self._averaged:
            self.averages.lerp_(self.tested, 1.0 - self._decay_rate)
        else:
            self._mean_features.lerp_(self._tested_features, 1.0 - self._decay_rate)
            self._utilities.copy_(self.all_worths)
        active = self._tested_features != 0
        if broken is not None:
            active &= ~broken
        if self._single:
            self.last_active.masked_fill_(active, now)
        else:
            parts = torch.split(active, [mean.numel() for mean in self.means])
            for state, part in zip(self.states, parts, strict=True):
                state.last_active.masked_fill_(part.view(-1, state.num_units).any(0), now)

    def _replace_broken(self) -> Tensor:
        """Where a group is not finite, let the corrected averages stand in for what was tested: they come out as they
        went in. Returns which features belong to such groups.
        """
        not_finite = (~self.tested.isfinite()).to(torch.int64)
        broken = torch.zeros_like(self._nonfinite).index_add_(0, self._owner, not_finite) > 0
        self._nonfinite += broken
        here = broken.index_select(0, self._owner)
        age = (self.states[0].updates - self.born).index_select(0, self._unit)
        corrected = self.averages / correction(age, self._decay_rate, self.averages.dtype)
        of_features, of_utilities = self._halves(here)
        features, utilities = self._halves(corrected)
        torch.where(of_features, features, self._tested_features, out=self._tested_features)
        worths = utilities if self._corrected else self._utilities
        torch.where(of_utilities, worths, self.all_worths, out=self.all_worths)
        return of_features


def join(states: Sequence[UnitState]) -> list[list[int]]:
    """The numbers of the states that can stand side by side: those of one device and dtype."""
    places: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, state in enumerate(states):
        places.setdefault((state.utility.device, state.utility.dtype), []).append(i)
    return list(places.values())
