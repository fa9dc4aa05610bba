"""Suggested settings: their rules, and what they mean, against a simulation of an engine."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import gnt
from gnt.replacement import replaced_per_update


def net(units=40):
    return nn.Sequential(nn.Linear(4, units), nn.ReLU(), nn.Linear(units, 2))


@pytest.mark.parametrize(
    ("rate", "threshold", "accumulate"), [(0.05, 20, True), (0.02, 0, True), (0.01, 100, True), (0.5, 1, "one")]
)
def test_the_pace_is_that_of_an_engine_in_the_long_run(rate, threshold, accumulate):
    settings = {"replacement_rate": rate, "maturity_threshold": threshold, "accumulate": accumulate}
    engine = gnt.GnT(net(), record=False, generator=torch.Generator().manual_seed(0), **settings)
    features = [torch.ones(2, 40)]
    first, start, steps = None, 0, 600
    for number in range(1, steps + 300 + 1):
        engine.step(features)
        replaced = engine.groups[0].state.replaced
        first = number if replaced and first is None else first
        start = replaced if number == 300 else start
    found = gnt.suggest(engine, steps_per_task=steps, steps_per_second=2.0)
    (group,) = found.groups
    assert group.per_task == pytest.approx(replaced - start, rel=0.1)
    assert group.per_task == pytest.approx(
        steps * replaced_per_update(40, rate, threshold, at_most_one=accumulate == "one")
    )
    assert group.per_hour == pytest.approx(group.per_task * 2 * 3600 / steps)
    assert group.first_due == pytest.approx(first, abs=1.0)
    assert found.renewed == pytest.approx(group.per_task / 40)
    assert re.search(r"in the long run .* of 40 units", str(engine.report()))


@pytest.mark.parametrize(
    ("task", "threshold", "decay"), [(500, 50, 0.98), (3000, 100, 0.99), (20_000, 400, 0.99), (10**6, 1000, 0.99)]
)
def test_a_task_renews_the_wanted_share(task, threshold, decay):
    found = gnt.suggest(net(), 32, steps_per_task=task, renew=0.4)
    assert (found.maturity_threshold, found.decay_rate) == (threshold, pytest.approx(decay))
    assert found.renewed == pytest.approx(0.4, rel=0.01)
    assert found.lifetime == pytest.approx(task / 0.4, rel=0.01)
    assert not found.warnings
    engine = gnt.GnT(net(), **found.settings)
    assert gnt.suggest(engine, 32, steps_per_task=task).groups == found.groups
    text = str(found)
    assert f"averages over about {32 / (1 - decay):,.0f} samples" in text
    assert re.search(r"a task renews (40|40\.1|39\.9)% of the units in the long run", text)


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({"replacement_rate": 0.0}, "no unit of 0 is ever replaced: replacement_rate=0"),
        (
            {"replacement_rate": 1e-6, "maturity_threshold": 100},
            "within the 2,000 updates of the first task no unit is",
        ),
        ({"replacement_rate": 0.01, "maturity_threshold": 5000}, "the first is due in 0 after 5,003"),
        ({"replacement_rate": 0.01, "maturity_threshold": 20}, "everything is replaced 17 times within a task"),
        ({"replacement_rate": 0.01, "maturity_threshold": 200}, "more than half of the units are too young"),
    ],
)
def test_settings_that_never_replace_or_replace_everything_give_a_warning(settings, warning):
    found = gnt.suggest(net(), steps_per_task=2000, **settings)
    assert warning in " ".join(found.warnings)
    assert f"warning: {found.warnings[0]}" in str(found)


def test_protected_units_do_not_count():
    class First:
        def protected(self, group):
            return torch.arange(group.num_units) < 10

    engine = gnt.GnT(net(), record=False, protect=First())
    engine.step([torch.ones(2, 40)])
    assert gnt.suggest(engine).groups[0].units == 30


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        (
            (net(),),
            {},
            TypeError,
            "steps_per_task is needed to suggest replacement_rate, maturity_threshold, decay_rate",
        ),
        ((net(),), {"steps_per_task": 0}, ValueError, "steps_per_task must be an integer >= 1"),
        ((net(), 0), {"steps_per_task": 9}, ValueError, "batch_size must be an integer >= 1"),
        ((net(),), {"steps_per_task": 9, "renew": 0.0}, ValueError, "renew must be a finite number > 0"),
        (
            (net(),),
            {"steps_per_task": 9, "replacement_rate": 2.0},
            ValueError,
            r"replacement_rate must be a number in \[0",
        ),
        (
            (net(),),
            {"steps_per_task": 9, "steps_per_second": 0},
            ValueError,
            "steps_per_second must be a finite number",
        ),
        ((gnt.GnT(net()),), {"decay_rate": 0.9}, TypeError, "decay_rate would be ignored: the engine has settings"),
    ],
)
def test_errors_name_the_argument(arguments, settings, error, message):
    with pytest.raises(error, match=message):
        gnt.suggest(*arguments, **settings)


def test_an_engine_whose_units_are_all_protected_renews_none():
    class Everything:
        def protected(self, group):
            return torch.ones(group.num_units)

    found = gnt.suggest(gnt.GnT(net(), protect=Everything()), steps_per_task=100)
    assert found.renewed == 0.0
    assert "all are protected" in found.warnings[0]


@pytest.mark.parametrize(("rate", "accumulate"), [(0.002, True), (0.2, "one")])
def test_members_of_an_ensemble_renew_their_units_as_single_networks(rate, accumulate):
    settings = {"replacement_rate": rate, "maturity_threshold": 1, "accumulate": accumulate}
    one = gnt.suggest(gnt.GnT(net(), **settings), steps_per_task=20).groups[0]
    five = gnt.suggest(gnt.Ensemble(net, range(5), **settings).gnt, steps_per_task=20).groups[0]
    assert (five.units, five.first_due) == (5 * one.units, one.first_due)
    assert five.per_task == pytest.approx(5 * one.per_task)


@pytest.mark.parametrize("given", [{"steps_per_task": 20}, {"steps_per_task": 1000, "maturity_threshold": 10_000}])
def test_the_highest_suggested_rate_is_said_to_renew_less(given):
    found = gnt.suggest(net(), **given)
    assert "replacement_rate=0.01: the highest rate that is suggested; a task renews less than 50%" in str(found)
    assert found.renewed < 0.5
