"""The end of a task of a `HAT`: what is kept, whatever was in force before, and what an error leaves."""

from __future__ import annotations

import copy
import warnings
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


class Spare(nn.Module):
    """A network with a layer that its forward does not run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.spare = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.b(torch.relu(self.a(x)))
        return output


@pytest.mark.parametrize("fault", ["coverage", "warning"])
def test_an_end_that_is_refused_changes_nothing_and_can_be_repeated(fault):
    net = Spare()
    if fault == "coverage":
        del net.spare
    hat = gnt.FGAdaHAT(
        net, gnt.trace(net, inputs(net)), alpha=0.1, uncovered="refuse" if fault == "coverage" else "freeze"
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    hat.begin(0, optimizer, steps_per_epoch=2)
    penalized = [] if fault == "coverage" else list(net.spare.parameters())
    for step in range(2):
        optimizer.zero_grad()
        penalty = sum((each.square().sum() for each in penalized), torch.zeros(()))
        ((net(inputs(net, seed=step)) - 1).square().mean() + hat.penalty() + penalty).backward()
        optimizer.step()
    before = copy.deepcopy(hat.state_dict())
    if fault == "coverage":
        net.spare = nn.Linear(8, 2)
        with pytest.raises(ValueError, match="no group has spare"):
            hat.end()
        del net.spare
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match=r"spare\.weight, spare\.bias changed in task 0"):
                hat.end()
    assert_same(hat.state_dict(), before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hat.end()
    assert hat.importances.shape == (1, 8)
    hat.begin(1, optimizer, steps_per_epoch=2)
    hat.load_state_dict(hat.state_dict())
