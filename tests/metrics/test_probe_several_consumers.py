"""`Probe` on groups with several consumers, of which a forward runs some only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gnt import metrics
from gnt.metrics import Probe
from tests.helpers.tasks_in_turn import TasksInTurn
from tests.metrics.probe_cases import group_values, inputs


@pytest.mark.parametrize("tasks", [[0], [1], [2], [0, 1], [1, 2, 0]])
def test_the_consumers_that_were_run_are_measured_whichever_they_are(tasks):
    """They read the same values, task 2 at other positions; those that read other values are left out."""
    net = TasksInTurn()
    x = inputs().double()
    values = Probe(net, net.groups([0, 1, 2, 3])[:1], {"x": x, "tasks": tasks}).measure()
    with torch.no_grad():
        h = torch.tanh(net.shared(x))
    expected = group_values("shared", h, net.shared.weight)
    assert values == {**expected, "weight_magnitude": metrics.weight_magnitude(net)}


def test_consumers_that_read_different_values_in_one_forward_all_count():
    net, (first, second) = TasksInTurn(), inputs(40).double().split([24, 16])

    class BothTasks(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(first, [0]).sum() + self.net(second, [1]).sum()

    values = Probe(BothTasks(), net.groups([0, 1]), first).measure()
    with torch.no_grad():
        h = torch.tanh(net.shared(torch.cat([first, second])))
        hidden = torch.tanh(net.hidden[1](h[24:]))
    expected = group_values("shared", h, net.shared.weight)
    expected |= group_values("hidden.1", hidden, net.hidden[1].weight)
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_a_group_without_any_consumer_in_the_forward_is_an_error_that_names_them_all():
    net = TasksInTurn()
    x = {"x": inputs().double(), "tasks": [3]}
    with pytest.raises(RuntimeError, match=r"'shared': .* does not call any of its consumers 'hidden.0', 'hidden.1'$"):
        Probe(net, net.groups([0, 1])[:1], x).measure()
