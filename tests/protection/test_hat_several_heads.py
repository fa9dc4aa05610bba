"""HAT on networks with a head for each task: earlier outputs stay equal, and what cannot be protected is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnt


class TwoHeads(nn.Module):
    """A hidden layer with a norm, and a head for each task."""

    def __init__(self, norm: nn.Module, heads: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Sequential(nn.Linear(6, 16), norm, nn.ReLU(), nn.Linear(16, 12), nn.ReLU())
        self.heads = gnt.MultiHead(12, heads)

    def forward(self, x: Tensor, task: int) -> Tensor:
        return self.heads(self.hidden(x), task)


NORMS = {
    "layer norm": lambda: nn.LayerNorm(16),
    "rms norm": lambda: nn.RMSNorm(16),
    "group norm": lambda: nn.GroupNorm(4, 16),
    "none": nn.Identity,
}
X = torch.randn(16, 6, generator=torch.Generator().manual_seed(3))


def learn_tasks(
    net: TwoHeads, protection: Any, optimizer: torch.optim.Optimizer, tasks: range, extra: Any = None
) -> None:
    """Train the head of each task under ``protection`` (HAT or PackNet)."""
    for task in tasks:
        begin = {"optimizer": optimizer, "steps_per_epoch": 5} if isinstance(protection, gnt.HAT) else {}
        protection.begin_task(task=task, **begin)
        for step in range(10):
            x = torch.randn(16, 6, generator=torch.Generator().manual_seed(10 * task + step))
            optimizer.zero_grad()
            loss = net(x, task).square().mean() + (0.0 if extra is None else extra())
            loss = loss + (protection.penalty() if isinstance(protection, gnt.HAT) else 0.0)
            loss.backward()
            optimizer.step()
        protection.end_task()


def output(net: TwoHeads, protection: Any, task: int) -> Tensor:
    with protection.use(task), torch.no_grad():
        return net.eval()(X, task)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_units_found_by_several_examples_keep_earlier_outputs_also_behind_norms_of_all_units(norm):
    net = TwoHeads(norm())
    groups = gnt.trace(net, examples=[(X, 0), (X, 1)])
    assert groups[0].couplings == gnt.trace(net, X, 0)[0].couplings
    hat, optimizer = gnt.HAT(net, groups, sparsity=0.0), torch.optim.AdamW(net.parameters(), lr=0.02)
    learn_tasks(net, hat, optimizer, range(1))
    before = output(net, hat, 0)
    net.train()
    learn_tasks(net, hat, optimizer, range(1, 2))
    assert output(net, hat, 0).equal(before)


def test_norms_of_walked_lists_are_found_by_their_names_in_the_list():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.out = nn.Linear(6, 10), nn.LayerNorm(10), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.norm(self.first(x))))

    net = Named()
    hat = gnt.HAT(net, gnt.walk([net.first, net.norm, nn.ReLU(), net.out]))
    assert [each.module for each in hat._places] == [net.out, net.norm]


@pytest.mark.parametrize("change", ["add", "grow"])
def test_heads_that_are_added_or_grown_after_construction_are_refused(change):
    net = TwoHeads(nn.Identity(), (3,))
    hat, optimizer = gnt.HAT(net, gnt.trace(net, X, 0)), torch.optim.SGD(net.parameters(), lr=0.1)
    learn_tasks(net, hat, optimizer, range(1))
    new = net.heads.add(1, 3) if change == "add" else net.heads.grow(2, 0)
    optimizer.add_param_group({"params": new.parameters()})
    with pytest.raises(
        ValueError, match=r"layer 'heads\..*' was added after HAT was built, and no gates act on what it"
    ):
        hat.begin(1, optimizer, steps_per_epoch=5)
    assert hat.task is None


@pytest.mark.parametrize("kind", ["HAT", "PackNet"])
def test_a_penalty_that_trains_the_head_of_a_later_task_is_named(kind):
    net = TwoHeads(nn.Identity())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    groups = gnt.trace(net, examples=[(X, 0), (X, 1)])
    protection = gnt.HAT(net, groups) if kind == "HAT" else gnt.PackNet(net, optimizer=optimizer)
    with pytest.warns(
        UserWarning, match=r"task_1\.0\.weight, .*bias changed in task 0, though no training forward ran"
    ):
        learn_tasks(net, protection, optimizer, range(1), extra=gnt.L2(net, 1e-3))
    net.train()
    learn_tasks(net, protection, optimizer, range(1, 2), extra=gnt.L2(net.hidden, 1e-3))


def test_a_layer_of_the_groups_that_was_replaced_is_refused():
    net = TwoHeads(nn.Identity())
    hat = gnt.HAT(net, gnt.trace(net, examples=[(X, 0), (X, 1)]))
    net.hidden[3] = nn.Linear(16, 12)
    with pytest.raises(ValueError, match=r"'hidden\.3' of group 'hidden\.0' is not a module of the network any more"):
        hat.begin(0, torch.optim.SGD(net.parameters(), lr=0.1), steps_per_epoch=5)
