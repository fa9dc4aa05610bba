"""Told, not guessed: the report, and the one warning when nothing was ever replaced."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import gnt
from tests.helpers.small_runs import mlp

RATES = [0.1, 0.01, 0.05, 0.003, 0.0123, 1 / 3, 0.02, 0.2, 0.75, 1.0]


def engine(*widths: int, **settings) -> gnt.GnT:
    return gnt.GnT(mlp(*widths), record=False, **settings)


def seen(gnt_: gnt.GnT) -> list[Tensor]:
    return [torch.rand(2, group.num_units) + 0.1 for group in gnt_.groups]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("threshold", [0, 3])
@pytest.mark.parametrize("units", [1, 5, 10])
def test_next_due_is_when_a_unit_is_replaced(rate, threshold, units):
    e = engine(2, units, 1, replacement_rate=rate, maturity_threshold=threshold)
    for _ in range(4):  # four replacements, and every update in between
        due = e.report().groups[0].next_due
        if due > 600:
            break
        waited = 0
        while not len(e.step(seen(e))[0]):
            waited += 1
            assert e.report().groups[0].next_due == due - waited
        assert waited + 1 == due


def test_next_due_waits_for_young_units():
    e = engine(2, 4, 1, replacement_rate=0.5, maturity_threshold=5)
    e.replace([[0, 1, 2]])
    assert e.report().groups[0].next_due == 6  # nobody is older than 5 before: then 2 are due at once
    e.step(seen(e))
    e.replace([[3]])
    assert e.report().groups[0].next_due == 5


@pytest.mark.parametrize("rate", [0.0, 1e-310])
def test_next_due_is_never_or_far_away(rate):
    e = engine(replacement_rate=rate, maturity_threshold=0)
    for _ in range(2):
        e.step(seen(e))
        due = e.report().groups[0].next_due
        assert due is None or due > 10**300
    str(e.report())


def test_figures_of_every_group():
    e = engine(4, 3, 2, 1, replacement_rate=0.0, maturity_threshold=2)
    for t in range(8):
        dead = torch.rand(5, 3) + 1
        dead[:, 1] = 0.0
        dead[:, 2] *= t < 5  # it has been zero in three updates: longer than the threshold
        e.step([dead, torch.randn(5, 2)])
        if t == 6:
            assert e.report().groups[0].dead == 1
    e.replace([[0], []])
    first, second = e.report().groups
    assert (e.report().updates, first.name, second.name) == (8, "0", "2")
    assert (first.units, first.eligible, first.replaced, first.next_due, first.dead) == (3, 2, 1, None, 2)
    assert (second.units, second.eligible, second.replaced, second.dead, second.nonfinite) == (2, 2, 0, 0, 0)


def test_a_young_unit_is_not_dead():
    e = engine(2, 2, 1, maturity_threshold=3, replacement_rate=0.0)
    for t in range(1, 9):
        e.step([torch.zeros(2, 2)])
        assert e.report().groups[0].dead == (2 if t > 3 else 0)
    e.replace([[1]])
    assert e.report().groups[0].dead == 1


def test_it_prints_as_a_table():
    e = engine(4, 12, 6, 2, replacement_rate=0.25, maturity_threshold=1)
    for _ in range(3):
        e.step(seen(e))
    title, head, first, second = str(e.report()).splitlines()
    assert title == "after 3 updates"
    assert head.split() == ["group", "units", "eligible", "replaced", "next", "due", "in", "dead", "non-finite"]
    report = e.report().groups
    for line, row in zip((first, second), report, strict=True):
        figures = [row.name, row.units, row.eligible, row.replaced, row.next_due, row.dead, row.nonfinite]
        assert line.split()[:4] == list(map(str, figures[:4]))
        assert line.split()[-2:] == list(map(str, figures[-2:]))
    assert len({len(line) for line in (head, first, second)}) == 1
    e.replacement_rate = 0.0
    assert "never" in str(e.report())


def test_the_report_changes_nothing():
    e = engine(replacement_rate=0.1, maturity_threshold=1)
    e.step(seen(e))
    before = e.state_dict()["generator"], [g.state.accumulated for g in e.groups], [g.state.age for g in e.groups]
    str(e.report())
    after = e.state_dict()["generator"], [g.state.accumulated for g in e.groups], [g.state.age for g in e.groups]
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert all(map(torch.equal, before[2], after[2]))


IDLE = {
    "threshold": ({"maturity_threshold": 20_000}, "no unit has been eligible: maturity_threshold=20000 is longer"),
    "rate": ({"replacement_rate": 1e-9}, "no unit has been due: replacement_rate=1e-09 is low for groups of this size"),
    "drawn": ({"replacement_rate": 1e-12, "accumulate": False}, "no unit has been due: replacement_rate=1e-12 is low"),
    "rate 0": ({"replacement_rate": 0.0}, None),
    "replaced one": ({"maturity_threshold": 20_000}, None),
}


@pytest.mark.parametrize(("name", "settings", "message"), [(name, *row) for name, row in IDLE.items()], ids=IDLE)
@pytest.mark.parametrize("call", ["step", "update"])
def test_after_ten_thousand_idle_updates_the_setting_responsible_is_named_once(name, settings, message, call):
    e = engine(1, 2, 1, **settings)
    features = seen(e)
    getattr(e, call)(features)
    if name == "replaced one":
        e.replace([[0]])
    e.updates = e.groups[0].state.updates = 9_990  # in between nothing happens
    e.groups[0].state.recount_eligible()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for t in range(9_991, 10_003):
            getattr(e, call)(features)
            assert len(caught) == (message is not None and t >= 10_000)
    assert e.updates == 10_002
    if call == "update" and "due" in (message or ""):
        message = "GnT.select and GnT.replace, or GnT.step, were never called"
    for warning in caught:
        assert message in str(warning.message)
        assert "10000 updates" in str(warning.message)
        assert "GnT.report()" in str(warning.message)
        assert warning.filename == __file__  # told where the user called


def test_the_warning_comes_after_ten_thousand_real_updates():
    e = engine(1, 1, 1, replacement_rate=1e-9)
    features = seen(e)
    for _ in range(9_999):
        e.update(features)
    with pytest.warns(UserWarning, match="gnt has replaced nothing in 10000 updates"):
        e.update(features)
