"""Networks that compute all heads in each forward: those without gradient stay free, what is only detached does not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import assert_same

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")


class Heads(nn.Module):
    """A backbone and heads, all of which run in each forward unless ``only`` is given."""

    def __init__(self, backbone: str = "units") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = backbone
        self.stem, self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(3))
        if backbone == "frozen":
            for layer in (self.stem, self.first, self.second):
                layer.requires_grad_(False)

    def forward(self, x: Tensor, task: int, only: bool = False) -> Tensor:
        z = self.second(torch.tanh(self.first(self.stem(x))))
        z = z + self.stem(x) if self.kind == "residual" else torch.tanh(z)  # a residual stream has no units
        z = z.detach() if self.kind == "detached" else z
        return self.heads[task](z) if only else [head(z) for head in self.heads][task]


def make(kind: str, method: str) -> tuple[Heads, Any, torch.optim.Optimizer]:
    net, x = Heads(kind), torch.randn(2, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    if method == "PackNet":
        return net, gnt.PackNet(net, optimizer=optimizer), optimizer
    groups = gnt.trace(net, examples=[(x, task) for task in range(3)], frozen=True)
    return net, gnt.HAT(net, groups, sparsity=0.0, generator=torch.Generator().manual_seed(7)), optimizer


def train(net: Heads, method: Any, optimizer: torch.optim.Optimizer, task: int, steps: range = range(5)) -> None:
    """Steps of a task, of which 0 begins and 4 ends it."""
    for step in steps:
        if step == 0:
            given = {"optimizer": optimizer, "steps_per_epoch": 2} if isinstance(method, gnt.HAT) else {}
            method.begin_task(task, **given)
        draws = torch.Generator().manual_seed(10 * task + step)
        x, y = torch.randn(16, 4, generator=draws), torch.randint(3, (16,), generator=draws)
        optimizer.zero_grad()
        F.cross_entropy(net(x, task), y).backward()
        optimizer.step()
        if step == 4:
            method.end_task()


def output(net: Heads, method: Any, task: int) -> Tensor:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(99))
    net.eval()
    with method.use(task), torch.no_grad():
        found = net(x, task) + 0.0
    net.train()
    return found


@pytest.mark.parametrize("method", ["HAT", "PackNet"])
@pytest.mark.parametrize("kind", ["units", "residual", "frozen"])
def test_heads_that_a_task_computes_and_does_not_use_are_free_for_their_own(kind, method):
    net, protection, optimizer = make(kind, method)
    outputs = []
    for task in range(3):
        before = copy.deepcopy(net.heads[task].state_dict())
        train(net, protection, optimizer, task)
        moved = [bool((now != before[name]).all()) for name, now in net.heads[task].state_dict().items()]
        assert moved[1]
        assert moved[0] or (method == "PackNet")  # some of its own weights are 0 again
        outputs.append(output(net, protection, 0))
    assert_same(outputs[1], outputs[0])
    assert_same(outputs[2], outputs[0])


@pytest.mark.parametrize("method", ["HAT", "PackNet"])
def test_a_layer_that_a_task_uses_without_training_it_is_held_for_it(method):
    net, protection, optimizer = make("detached", method)
    train(net, protection, optimizer, 0)
    before = output(net, protection, 0)
    net.kind = "units"
    for task in (1, 2):
        train(net, protection, optimizer, task)
        assert_same(output(net, protection, 0), before)


@pytest.mark.parametrize("kind", ["units", "residual", "frozen", "detached"])
def test_a_run_resumed_in_a_task_leaves_the_same_layers_free(kind):
    results = []
    for interrupted in (False, True):
        net, hat, optimizer = make(kind, "HAT")
        train(net, hat, optimizer, 0, range(3))
        if interrupted:
            states = copy.deepcopy([each.state_dict() for each in (net, hat, optimizer)])
            net, hat, optimizer = make(kind, "HAT")
            net.load_state_dict(states[0])
            hat.load_state_dict(states[1])
            hat.resume(optimizer)
            optimizer.load_state_dict(states[2])
        train(net, hat, optimizer, 0, range(3, 5))
        train(net, hat, optimizer, 1)
        results.append((dict(net.state_dict()), hat.get_extra_state()))
    assert_same(*results)
