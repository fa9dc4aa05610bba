"""`GnT.dry_run` reports the next replacement without changing anything."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.small_runs import assert_same


def engine_after(steps: int, **settings) -> tuple[nn.Sequential, gnt.GnT]:
    """A network and its engine after ``steps`` steps."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    settings = {"replacement_rate": 0.05, "maturity_threshold": 2, **settings}
    engine = gnt.GnT(net, generator=torch.Generator().manual_seed(1), **settings)
    for _ in range(steps):
        net(torch.randn(8, 4))
        engine.step()
    return net, engine


def test_the_first_listed_unit_is_replaced_at_the_predicted_step():
    net, engine = engine_after(5)
    plan = engine.dry_run().groups[0]
    assert plan.next_due is not None
    inputs = torch.randn(8, 4)
    for _ in range(plan.next_due):
        net(inputs)
        expected = engine.dry_run(most=1)
        engine.update()
        (first, _), *_ = engine.dry_run(most=1).groups[0].units
        chosen = engine.select()[0].tolist()
        engine.replace([torch.tensor(chosen, dtype=torch.int64)])
    assert chosen == [first]
    assert expected.groups[0].next_due == 1


def test_changes_count_every_element_that_replacing_a_unit_changes():
    _, engine = engine_after(0)
    changes = {"0.weight": 4, "0.bias": 1, "1.weight": 1, "1.bias": 1, "3.weight": 3, "3.bias": 3}
    assert dict(engine.dry_run().groups[0].changes) == changes
    _, engine = engine_after(0, bias_transfer=False)
    assert "3.bias" not in dict(engine.dry_run().groups[0].changes)


def test_a_dry_run_changes_nothing():
    net, engine = engine_after(5)
    before = copy.deepcopy((net.state_dict(), engine.state_dict()))
    text = str(engine.dry_run(most=3))
    assert_same((net.state_dict(), engine.state_dict()), before)
    assert text.startswith("dry run after 5 updates: nothing is changed\n0\n  next due    in ")
    assert text.count("(") == 3


def test_a_rate_of_0_is_reported_as_never_due():
    _, engine = engine_after(1, replacement_rate=0.0)
    assert "next due    never" in str(engine.dry_run())
    assert "none is eligible" in str(engine.dry_run())


def test_soft_replacement_replaces_no_unit_as_a_whole():
    _, engine = engine_after(1, soft=True)
    assert "next due    never" in str(engine.dry_run())


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "3"])
def test_most_must_be_a_positive_integer(most):
    with pytest.raises(ValueError, match=r"most must be an integer >= 1, got"):
        engine_after(0)[1].dry_run(most=most)
