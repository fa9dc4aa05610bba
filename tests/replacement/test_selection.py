"""Who may be replaced, and how many: ages and counts, whatever happens in whatever order."""

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
from tests.helpers.strategies import engine_settings, seeds

SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=3)
EVENTS = ("update", "update", "step", "step", "select", "replace selected", "replace", "save and load", "copy")


class Watched:
    """An engine without a network around it, and the age of every unit counted by hand."""

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
        """Select, and find everyone chosen old enough and of lowest utility."""
        self.selected = self.engine.select()
        for group, ages, units in zip(self.engine.groups, self.ages, self.selected, strict=True):
            chosen = units.tolist()
            assert len(set(chosen)) == len(chosen)
            assert all(ages[unit] > self.engine.maturity_threshold for unit in chosen)
            worth = group.state.corrected_utility
            stay = [u for u, age in enumerate(ages) if age > self.engine.maturity_threshold and u not in chosen]
            assert not chosen or not stay or worth[chosen].max() <= worth[stay].min()

    def replace(self, units):
        self.engine.replace(units)
        for ages, chosen in zip(self.ages, units, strict=True):
            for unit in chosen.tolist():
                ages[unit] = 0

    def check(self):
        """What the host counts is what the device holds, is what was counted by hand."""
        for group, ages, eligible in zip(self.engine.groups, self.ages, self.eligible(), strict=True):
            assert group.state.age.tolist() == ages
            assert group.state.eligible == int(group.state.mature.sum()) == eligible


@given(
    sizes=SIZES,
    settings=engine_settings(),
    events=st.lists(st.sampled_from(EVENTS), max_size=30),
    seed=seeds,
    data=st.data(),
)
def test_no_unit_is_replaced_before_its_time(sizes, settings, events, seed, data):
    """However updates, selections, and replacements (of the selected, perhaps of long ago, or of a user's own choice)
    follow one another.
    """
    watched = Watched(sizes, settings, seed)
    for event in events:
        if event == "update":
            watched.update()
        elif event == "select":
            watched.select()
        elif event == "replace selected":
            watched.replace(watched.selected)
        elif event == "step":
            watched.update()
            watched.select()
            watched.replace(watched.selected)
        elif event == "replace":
            chosen = [data.draw(st.lists(st.integers(0, size - 1), unique=True)) for size in sizes]
            watched.replace([torch.tensor(units, dtype=torch.int64) for units in chosen])
        elif event == "save and load":
            watched.engine.load_state_dict(watched.engine.state_dict())
        else:
            watched.engine = copy.deepcopy(watched.engine)
        watched.check()


@given(
    sizes=SIZES,
    settings=engine_settings(accumulate=True),
    steps=st.integers(1, 60),
    interventions=st.sets(st.integers(0, 60), max_size=5),
)
def test_accumulated_counts_are_within_one_of_the_rate(sizes, settings, steps, interventions):
    """At every moment, of the exact sum of rate * eligible; now and then a user replaces some too."""
    watched = Watched(sizes, settings)
    rate = Fraction(settings["replacement_rate"])
    due, found = [Fraction(0)] * len(sizes), [0] * len(sizes)
    for step in range(steps):
        watched.update()
        eligible = watched.eligible()
        watched.select()
        for number, (count, units) in enumerate(zip(eligible, watched.selected, strict=True)):
            due[number] += rate * count
            found[number] += len(units)
            assert len(units) <= count
            assert abs(found[number] - due[number]) < 1 + 1e-9  # the accumulator is a float
        watched.replace(watched.selected)
        if step in interventions:
            watched.replace([torch.arange(0, size, 2) for size in sizes])


@given(sizes=SIZES, settings=engine_settings(accumulate=False), steps=st.integers(1, 30), seed=seeds)
def test_drawn_counts_are_the_floor_or_one_more(sizes, settings, steps, seed):
    watched = Watched(sizes, settings, seed)
    for _ in range(steps):
        watched.update()
        eligible = watched.eligible()
        watched.select()
        for count, units in zip(eligible, watched.selected, strict=True):
            due = settings["replacement_rate"] * count
            assert len(units) in (math.floor(due), math.ceil(due))
        watched.replace(watched.selected)


@pytest.mark.parametrize("rate", [0.001, 0.03, 0.25, 0.43, 0.999])
def test_drawn_counts_are_right_on_average(rate):
    """Within 4 standard deviations of the mean of 4000 draws; the seed is fixed."""
    settings = {"replacement_rate": rate, "maturity_threshold": 0, "accumulate": False}
    watched = Watched([10], settings, seed=3)
    draws = 4000
    drawn = 0
    for _ in range(draws):
        watched.engine.update([torch.ones(1, 10)])
        drawn += len(watched.engine.select()[0])
    mean = drawn / draws
    fraction = math.modf(rate * 10)[0]
    assert abs(mean - rate * 10) < 4 * math.sqrt(fraction * (1 - fraction) / draws)


@pytest.mark.parametrize("accumulate", [True, False])
def test_a_rate_of_one_replaces_all_and_a_rate_of_zero_nobody(accumulate):
    for rate, wanted in ((1.0, [0, 0, 5, 0, 0, 5]), (0.0, [0] * 6)):
        settings = {"replacement_rate": rate, "maturity_threshold": 2, "accumulate": accumulate}
        watched = Watched([5], settings)
        found = []
        for _ in wanted:
            watched.update()
            watched.select()
            watched.replace(watched.selected)
            found.append(len(watched.selected[0]))
        assert found == wanted
