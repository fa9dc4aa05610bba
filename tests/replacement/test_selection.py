"""Which units are eligible and how many are selected, for any sequence of engine calls."""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gnt import GnT
from tests.helpers.small_runs import mlp
from tests.helpers.strategies import engine_settings, seeds

SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=3)
CALLS = ("update", "update", "step", "step", "select", "replace selected", "replace", "save and load", "copy")


class TrackedEngine:
    """An engine that is passed random features, with the age of every unit counted separately."""

    def __init__(self, sizes, settings, seed=0):
        self.sizes = sizes
        widths = [2, *sizes, 1]
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        layers = [part for layer in layers[:-1] for part in (layer, nn.Tanh())] + layers[-1:]
        self.engine = GnT(layers, record=False, generator=torch.Generator().manual_seed(seed), **settings)
        self.data = torch.Generator().manual_seed(seed)
        self.ages = [[0] * size for size in sizes]
        self.selected = [torch.tensor([], dtype=torch.int64) for _ in sizes]

    def eligible(self):
        return [sum(age > self.engine.maturity_threshold for age in ages) for ages in self.ages]

    def update(self):
        self.engine.update([torch.randn(2, size, generator=self.data) for size in self.sizes])
        self.ages = [[age + 1 for age in ages] for ages in self.ages]

    def select(self):
        """Select units; check that they are older than the threshold and have the lowest utilities."""
        self.selected = self.engine.select()
        for group, ages, units in zip(self.engine.groups, self.ages, self.selected, strict=True):
            chosen = units.tolist()
            assert len(set(chosen)) == len(chosen)
            assert all(ages[unit] > self.engine.maturity_threshold for unit in chosen)
            utility = group.state.corrected_utility
            kept = [u for u, age in enumerate(ages) if age > self.engine.maturity_threshold and u not in chosen]
            assert not chosen or not kept or utility[chosen].max() <= utility[kept].min()

    def replace(self, units):
        self.engine.replace(units)
        for ages, chosen in zip(self.ages, units, strict=True):
            for unit in chosen.tolist():
                ages[unit] = 0

    def check(self):
        """Compare ages and eligible counts of the engine with those counted here."""
        for group, ages, eligible in zip(self.engine.groups, self.ages, self.eligible(), strict=True):
            assert group.state.age.tolist() == ages
            assert group.state.eligible == int(group.state.mature.sum()) == eligible


@given(
    sizes=SIZES,
    settings=engine_settings(),
    calls=st.lists(st.sampled_from(CALLS), max_size=30),
    seed=seeds,
    data=st.data(),
)
def test_only_units_older_than_the_maturity_threshold_are_selected(sizes, settings, calls, seed, data):
    """For any order of updates, selections and replacements (of the last selection or of arbitrary units)."""
    tracked = TrackedEngine(sizes, settings, seed)
    for call in calls:
        if call == "update":
            tracked.update()
        elif call == "select":
            tracked.select()
        elif call == "replace selected":
            tracked.replace(tracked.selected)
        elif call == "step":
            tracked.update()
            tracked.select()
            tracked.replace(tracked.selected)
        elif call == "replace":
            chosen = [data.draw(st.lists(st.integers(0, size - 1), unique=True)) for size in sizes]
            tracked.replace([torch.tensor(units, dtype=torch.int64) for units in chosen])
        elif call == "save and load":
            tracked.engine.load_state_dict(tracked.engine.state_dict())
        else:
            tracked.engine = copy.deepcopy(tracked.engine)
        tracked.check()


@given(
    sizes=SIZES,
    settings=engine_settings(accumulate=True),
    steps=st.integers(1, 60),
    extra_replacements=st.sets(st.integers(0, 60), max_size=5),
)
def test_accumulated_counts_are_within_one_of_the_rate(sizes, settings, steps, extra_replacements):
    """After every step, compared with the exact sum of rate * eligible; some steps also replace arbitrary units."""
    tracked = TrackedEngine(sizes, settings)
    rate = Fraction(settings["replacement_rate"])
    due, selected = [Fraction(0)] * len(sizes), [0] * len(sizes)
    for step in range(steps):
        tracked.update()
        eligible = tracked.eligible()
        tracked.select()
        for number, (count, units) in enumerate(zip(eligible, tracked.selected, strict=True)):
            due[number] += rate * count
            selected[number] += len(units)
            assert len(units) <= count
            assert abs(selected[number] - due[number]) < 1 + 1e-9  # the accumulator is a float
        tracked.replace(tracked.selected)
        if step in extra_replacements:
            tracked.replace([torch.arange(0, size, 2) for size in sizes])


@given(sizes=SIZES, settings=engine_settings(accumulate=False), steps=st.integers(1, 30), seed=seeds)
def test_stochastic_counts_are_the_floor_or_ceiling_of_the_expected_count(sizes, settings, steps, seed):
    tracked = TrackedEngine(sizes, settings, seed)
    for _ in range(steps):
        tracked.update()
        eligible = tracked.eligible()
        tracked.select()
        for count, units in zip(eligible, tracked.selected, strict=True):
            due = settings["replacement_rate"] * count
            assert len(units) in (math.floor(due), math.ceil(due))
        tracked.replace(tracked.selected)


@pytest.mark.parametrize("rate", [0.001, 0.03, 0.25, 0.43, 0.999])
def test_stochastic_counts_have_the_expected_mean(rate):
    """Within 4 standard deviations of the mean of 4000 draws; the seed is fixed."""
    settings = {"replacement_rate": rate, "maturity_threshold": 0, "accumulate": False}
    tracked = TrackedEngine([10], settings, seed=3)
    draws = 4000
    drawn = 0
    for _ in range(draws):
        tracked.engine.update([torch.ones(1, 10)])
        drawn += len(tracked.engine.select()[0])
    mean = drawn / draws
    fraction = math.modf(rate * 10)[0]
    assert abs(mean - rate * 10) < 4 * math.sqrt(fraction * (1 - fraction) / draws)


@pytest.mark.parametrize("accumulate", [True, False])
def test_rate_1_replaces_all_eligible_units_and_rate_0_none(accumulate):
    for rate, expected in ((1.0, [0, 0, 5, 0, 0, 5]), (0.0, [0] * 6)):
        settings = {"replacement_rate": rate, "maturity_threshold": 2, "accumulate": accumulate}
        tracked = TrackedEngine([5], settings)
        counts = []
        for _ in expected:
            tracked.update()
            tracked.select()
            tracked.replace(tracked.selected)
            counts.append(len(tracked.selected[0]))
        assert counts == expected


def test_accumulated_counts_are_not_due_again_without_an_update():
    engine = GnT(mlp(4, 6, 2), replacement_rate=0.5, maturity_threshold=0)
    engine.update([torch.ones(3, 6)])
    assert [len(units) for units in engine.select()] == [3]
    engine.update([torch.ones(0, 6)])  # an empty batch does not count as an update
    assert [len(units) for units in engine.select()] == [0]
    assert engine.groups[0].state.accumulated == 0.0


def test_a_step_with_an_empty_batch_replaces_no_units():
    engine = GnT(mlp(4, 6, 2), replacement_rate=1.0, maturity_threshold=0)
    engine.step([torch.ones(3, 6)])
    assert [len(units) for units in engine.replaced] == [6]
    engine.step([torch.ones(0, 6)])
    assert [len(units) for units in engine.replaced] == [0]
