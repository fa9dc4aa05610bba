"""The end of a task of a `HAT`: what is kept, whatever was in force before, and what an error leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.small_runs import IMAGE_SHAPE, assert_same, conv_net
from tests.protection.masked_runs import inputs, learn_steps, learn_task, outputs

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")


def make(net: nn.Module, kind: type[gnt.HAT] = gnt.HAT, **given: Any) -> Any:
    given = {"sparsity": 0.1, "generator": torch.Generator().manual_seed(7), **given}
    return net, kind(net, gnt.walk(net), **given), torch.optim.SGD(net.parameters(), lr=0.05)


def test_running_statistics_are_those_of_the_task_that_ends_while_an_earlier_one_is_in_force():
    net, hat, optimizer = make(conv_net())
    x = inputs(net, IMAGE_SHAPE)
    learn_task(hat, optimizer, "a", IMAGE_SHAPE)
    hat.begin("b", optimizer, steps_per_epoch=2)
    learn_steps(hat, optimizer, range(2), IMAGE_SHAPE)
    net.eval()
    with torch.no_grad():
        open_output = net(x)
        statistics = net[1].running_mean.clone()
        hat.use("a")
        earlier = net(x)
    hat.end()
    assert_same(net(x).detach(), earlier)  # still in force
    assert_same(outputs(hat, x), {"a": earlier + 0.0, "b": open_output + 0.0})
    net.train()
    hat.begin("c", optimizer, steps_per_epoch=2)
    assert_same(net[1].running_mean, torch.zeros(5))
    learn_steps(hat, optimizer, range(2), IMAGE_SHAPE)
    with hat.use("b"):
        assert_same(net[1].running_mean, statistics)
