"""`GnT.report`: its figures, the prediction of the next replacement, and its text."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import Tensor

import gnt
from tests.helpers.small_runs import make_run, mlp, train

RATES = [0.1, 0.01, 0.05, 0.003, 0.0123, 1 / 3, 0.02, 0.2, 0.75, 1.0]


def make_engine(*widths: int, **settings) -> gnt.GnT:
    return gnt.GnT(mlp(*widths), record=False, **settings)


def positive_features(engine: gnt.GnT) -> list[Tensor]:
    return [torch.rand(2, group.num_units) + 0.1 for group in engine.groups]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("threshold", [0, 3])
@pytest.mark.parametrize("units", [1, 5, 10])
def test_next_due_predicts_the_next_replacement(rate, threshold, units):
    engine = make_engine(2, units, 1, replacement_rate=rate, maturity_threshold=threshold)
    for _ in range(4):  # four replacements, checked at every update in between
        due = engine.report().groups[0].next_due
        if due > 600:
            break
        updates = 0
        while not len(engine.step(positive_features(engine))[0]):
            updates += 1
            assert engine.report().groups[0].next_due == due - updates
        assert updates + 1 == due


def test_next_due_accounts_for_units_below_the_maturity_threshold():
    engine = make_engine(2, 4, 1, replacement_rate=0.5, maturity_threshold=5)
    engine.replace([[0, 1, 2]])
    assert engine.report().groups[0].next_due == 6  # no unit is older than 5 before; then 2 are due at once
    engine.step(positive_features(engine))
    engine.replace([[3]])
    assert engine.report().groups[0].next_due == 5


@pytest.mark.parametrize("rate", [0.0, 1e-310])
def test_next_due_is_none_or_very_large_for_tiny_rates(rate):
    engine = make_engine(replacement_rate=rate, maturity_threshold=0)
    for _ in range(2):
        engine.step(positive_features(engine))
        due = engine.report().groups[0].next_due
        assert due is None or due > 10**300
    str(engine.report())


@pytest.mark.parametrize("threshold", [2**62, 2**63, 2**64, 10**400])
def test_thresholds_beyond_int64_are_reported(threshold):
    engine = make_engine(2, 3, 1, replacement_rate=0.5, maturity_threshold=threshold)
    for _ in range(3):
        engine.step(positive_features(engine))
    report = engine.report()
    assert (report.groups[0].eligible, report.groups[0].dead) == (0, 0)
    assert report.first_due == threshold + 1
    assert str(threshold + 1) in str(report)
    assert str(report.groups[0].next_due) in str(engine.dry_run())
    engine.groups[0].state.updates = 2**62
    engine.groups[0].state.recount_eligible()
    assert engine.report().groups[0].eligible == 0
    engine.replace([[0]])
    engine.report()


def test_figures_of_each_group():
    engine = make_engine(4, 3, 2, 1, replacement_rate=0.0, maturity_threshold=2)
    for t in range(8):
        dead = torch.rand(5, 3) + 1
        dead[:, 1] = 0.0
        dead[:, 2] *= t < 5  # zero in three updates, longer than the threshold
        engine.step([dead, torch.randn(5, 2)])
        if t == 6:
            assert engine.report().groups[0].dead == 1
    engine.replace([[0], []])
    first, second = engine.report().groups
    assert (engine.report().updates, first.name, second.name) == (8, "0", "2")
    assert (first.units, first.eligible, first.replaced, first.next_due, first.dead) == (3, 2, 1, None, 2)
    assert (second.units, second.eligible, second.replaced, second.dead, second.nonfinite) == (2, 2, 0, 0, 0)


def test_units_below_the_maturity_threshold_are_not_dead():
    engine = make_engine(2, 2, 1, maturity_threshold=3, replacement_rate=0.0)
    for t in range(1, 9):
        engine.step([torch.zeros(2, 2)])
        assert engine.report().groups[0].dead == (2 if t > 3 else 0)
    engine.replace([[1]])
    assert engine.report().groups[0].dead == 1


def test_report_prints_as_a_table():
    engine = make_engine(4, 12, 6, 2, replacement_rate=0.25, maturity_threshold=1)
    for _ in range(3):
        engine.step(positive_features(engine))
    title, head, first, second, pace, updated_by = str(engine.report()).splitlines()
    assert title == "after 3 updates"
    assert pace == (  # 18 * 0.25 / 1.25
        "in the long run 3.6 of 18 units are replaced in each update: a unit is renewed after about 5 updates, 1 of "
        "which it is too young"
    )
    assert head.split() == ["group", "units", "eligible", "replaced", "next", "due", "in", "dead", "non-finite"]
    report = engine.report().groups
    for line, row in zip((first, second), report, strict=True):
        figures = [row.name, row.units, row.eligible, row.replaced, row.next_due, row.dead, row.nonfinite]
        assert line.split()[:4] == list(map(str, figures[:4]))
        assert line.split()[-2:] == list(map(str, figures[-2:]))
    assert len({len(line) for line in (head, first, second)}) == 1
    assert re.fullmatch(r"units are updated by (C kernels \(.+\)|torch operations \(.+\))", updated_by)
    engine.replacement_rate = 0.0
    assert "never" in str(engine.report())
    engine.kernels = False
    assert str(engine.report()).endswith("\nunits are updated by torch operations (kernels=False)")


def test_the_report_changes_nothing():
    engine = make_engine(replacement_rate=0.1, maturity_threshold=1)
    engine.step(positive_features(engine))
    before = (
        engine.state_dict()["generator"],
        [g.state.accumulated for g in engine.groups],
        [g.state.age for g in engine.groups],
    )
    str(engine.report())
    after = (
        engine.state_dict()["generator"],
        [g.state.accumulated for g in engine.groups],
        [g.state.age for g in engine.groups],
    )
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert all(map(torch.equal, before[2], after[2]))


def test_figures_and_settings_are_plain_values_that_agree_with_the_report():
    net, optimizer, engine = make_run(mlp(), protect="top:0.3", init=lambda tensor, slot, generator: tensor.zero_())
    train(net, optimizer, engine, range(12))
    figures, report = engine.figures(), engine.report()
    for row in report.groups:
        for name in ("dead", "eligible", "protected", "replaced"):
            assert figures[f"{row.name}/{name}"] == getattr(row, name)
        state = engine.group(row.name).state
        assert figures[f"{row.name}/age"] == state.age.double().mean().item()
        assert figures[f"{row.name}/utility"] == state.corrected_utility.double().mean().item()
    assert len(figures) == 6 * len(report.groups)
    settings = json.loads(json.dumps(engine.settings))
    assert settings["protect"].startswith("TopUnits(fraction=0.3")
    assert gnt.GnT(mlp()).settings["init"] == "auto"
    assert set(settings) == set(gnt.replacement.ENGINE_SETTINGS) - {"generator", "process_group"}


def test_many_skipped_layers_are_counted_and_listed_on_request():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3))
    groups = gnt.trace(net, torch.randn(2, 2))
    (output,) = groups.skipped
    engine = gnt.GnT(gnt.Groups.of(groups, [output] * 11), record=False)
    assert "skipped: 11 layers with 33 units; report(skipped=True) lists them" in str(engine.report())
    listed = engine.report(skipped=True)
    assert str(listed).count(f"  {output}") == 11
    assert listed.skipped == listed.refused == engine.skipped == engine.refused
    assert f"skipped:\n  {output}" in str(gnt.GnT(groups, record=False).report())


def test_groups_of_the_same_name_have_figures_of_their_own():
    first, second = mlp(4, 8, 2), mlp(4, 6, 2)
    engine = gnt.GnT([*gnt.walk(first), *gnt.walk(second)], replacement_rate=0.0)
    engine.replace([[1, 2, 3], [0]])
    figures = engine.figures()
    assert (figures["0/replaced"], figures["0#2/replaced"]) == (3.0, 1.0)
