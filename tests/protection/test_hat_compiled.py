"""HAT on a network under torch.compile: no task is compiled again, and the results are those of the eager network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import gnt
from tests.protection.masked_runs import inputs


def run(net, compiled_by=None):
    """Train three tasks and evaluate each after each; returns the outputs of all evaluations."""
    hat = gnt.HAT(net, gnt.walk(net), s_max=8.0, generator=torch.Generator().manual_seed(0))
    forward = net if compiled_by is None else torch.compile(net, backend=compiled_by)
    found, x = [], inputs(net)
    for task in range(3):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        with hat.learning(task, optimizer, steps_per_epoch=2):
            for step in range(4):
                batch = inputs(net, seed=step)
                optimizer.zero_grad()
                ((forward(batch) - task).square().mean() + hat.penalty()).backward()
                optimizer.step()
            with torch.no_grad():
                found.append(forward.eval()(x))  # 1(e > 0) of the open task
            forward.train()
        forward.eval()
        for each in hat.tasks:
            with hat.use(each), torch.no_grad():
                found.append(forward(x))
        forward.train()
    return found


# torch's compiler looks at .grad of every tensor
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_network_is_not_compiled_anew_for_each_task():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    eager, counter = run(copy.deepcopy(net)), CompileCounter()
    compiled = run(net, counter)
    torch.testing.assert_close(compiled, eager, rtol=0, atol=0)
    # a first step, later ones, the open task's mask, the masks of ended tasks
    assert counter.frame_count <= 4
