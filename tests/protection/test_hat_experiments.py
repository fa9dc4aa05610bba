"""Small forms of published experiments with HAT and AdaHAT: orderings and closed forms, no accuracies."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from gnt.protection import Constant
from tests.helpers.small_runs import mlp
from tests.protection.masked_runs import inputs, learn_task, loss, outputs

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")


@pytest.mark.parametrize(("eps", "holds"), [(1e-6, True), (1e-12, False)])
def test_a_rate_of_gradients_acts_under_adam_only_where_it_brings_them_below_eps(eps, holds):
    net = mlp().double()
    hat = gnt.AdaHAT(net, gnt.walk(net), alpha=1e-6, apply="gradient", generator=torch.Generator().manual_seed(7))
    learn_task(hat, torch.optim.SGD(net.parameters(), lr=0.1), 0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, eps=eps)
    hat.begin(1, optimizer, steps_per_epoch=2)
    twin = copy.deepcopy(net)  # has no hooks of the rates
    gradient = torch.autograd.grad(with_gates_of(hat, twin), twin[2].weight)[0]
    rates = next(
        rate.expand_as(gradient)
        for each, rate in zip(hat._conditioning.parameters, hat._conditioning.current(), strict=True)
        if each.parameter is net[2].weight
    )
    before = net[2].weight.detach().clone()
    optimizer.zero_grad()
    loss(hat, 0).backward()
    optimizer.step()
    moved = net[2].weight.detach() - before
    scaled = rates * gradient
    torch.testing.assert_close(moved, -1e-3 * scaled / (scaled.abs() + eps), rtol=1e-5, atol=1e-12)
    used = torch.outer(hat.masks[0]["2"], hat.masks[0]["0"]) & (gradient.abs() > 1e-4)
    share = (moved.abs() / 1e-3)[used]  # 1: a step as without a rate
    assert bool(used.any())
    assert bool((share < 0.5).all()) if holds else bool((share > 0.9).all())


def with_gates_of(hat: gnt.HAT, twin: nn.Module) -> Tensor:
    """The loss of `masked_runs.loss` of a copy of the network that has no hooks."""
    gates = hat.layout.by_group(hat.gates.detach())
    x = inputs(twin, seed=100 * len(hat.tasks))
    h = twin[1](twin[0](x)) * gates["0"]
    h = twin[3](twin[2](h)) * gates["2"]
    return (twin[4](h) - x[:, :1]).square().mean()


def test_with_a_tiny_alpha_the_update_form_of_adahat_is_hat():
    found = []
    for kind, own in ((gnt.HAT, {}), (gnt.AdaHAT, {"alpha": 1e-9})):
        net = mlp(seed=1).double()
        hat = kind(net, gnt.walk(net), sparsity=0.1, generator=torch.Generator().manual_seed(7), **own)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
        for task in range(3):
            learn_task(hat, optimizer, task)
        found.append([hat.masks_by_task, *outputs(hat, inputs(net)).values()])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_capacity_of_masks_that_stay_at_their_draw_is_the_closed_form():
    sizes = (784, 256, 100, 64)
    net = nn.Sequential(*(each for pair in itertools.pairwise(sizes) for each in (nn.Linear(*pair), nn.ReLU())))
    net = net.append(nn.Linear(64, 1))
    hat = gnt.HAT(net, gnt.walk(net), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    free = 1.0
    for task in range(6):
        hat.begin(task, optimizer, steps_per_epoch=1)
        # a weight of the first layer is free with its row, others with either side, biases with their unit
        weights = [784 * 256 * free, (256 * 100 + 100 * 64) * (1 - (1 - free) ** 2), (256 + 100 + 64) * free]
        parameters = sum(a * b + b for a, b in itertools.pairwise(sizes))
        assert hat.capacity() == pytest.approx(sum(weights) / parameters, abs=0.06, rel=0.2)
        (net(torch.zeros(1, 784)).sum() + hat.penalty()).backward()
        optimizer.step()
        hat.end()
        free /= 2


class Digits:
    """Tasks of scikit-learn's digits, each with a permutation of the pixels and an output layer."""

    def __init__(self, tasks: int) -> None:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        self.x, self.y = torch.tensor(x / 16.0, dtype=torch.float32), torch.tensor(y)
        draws = torch.Generator().manual_seed(0)
        self.orders = [torch.randperm(64, generator=draws) for _ in range(tasks)]
        self.tasks, self.draws = tasks, draws

    def training(self, task: int) -> Any:
        for each in torch.randperm(480, generator=self.draws).split(32):
            yield self.x[each][:, self.orders[task]], self.y[each]

    def accuracy(self, net: nn.Module, task: int) -> float:
        with torch.no_grad():
            right = net(self.x[480:][:, self.orders[task]]).argmax(1) == self.y[480:]
        return float(right.double().mean())


class HeadForEachTask(nn.Module):
    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(24, 10) for _ in range(tasks))
        self.task: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        features, heads = self.body(x), self.heads if self.task is None else [self.heads[self.task]]
        return torch.cat([head(features) for head in heads], 1)


def learn_digits(kind: type[gnt.HAT], **own: Any) -> tuple[list[list[float]], list[float]]:
    """Accuracy on each task after each task, and the capacity with which each task starts."""
    digits = Digits(3)
    torch.manual_seed(0)
    net = HeadForEachTask(digits.tasks)
    groups, generator = gnt.trace(net, torch.zeros(2, 64)), torch.Generator().manual_seed(0)
    hat = kind(net, groups, sparsity=0.1, generator=generator, **own)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    accuracies, capacities = [], []
    for task in range(digits.tasks):
        net.task = task
        optimizer.state.clear()
        with hat.learning(task, optimizer, steps_per_epoch=15):
            capacities.append(hat.capacity())
            for _ in range(6):
                for x, y in digits.training(task):
                    optimizer.zero_grad()
                    (F.cross_entropy(net(x), y) + hat.penalty()).backward()
                    optimizer.step()
        net.eval()
        accuracies.append([])
        for net.task in range(task + 1):
            with hat.use(net.task):
                accuracies[-1].append(digits.accuracy(net, net.task))
        net.train()
    return accuracies, capacities


def test_hat_never_forgets_and_adahat_learns_more_than_hat_and_forgets_less_than_gates_without_protection():
    rules = [(gnt.HAT, {}), (gnt.AdaHAT, {"alpha": 0.1}), (gnt.HAT, {"protection": Constant(1.0)})]
    learned, forgotten, capacities = [], [], []
    for kind, own in rules:
        accuracies, capacity = learn_digits(kind, **own)
        own_task = [row[-1] for row in accuracies]
        learned.append(own_task[-1])
        forgotten.append(sum(own_task) - sum(accuracies[-1]))
        capacities.append(capacity)
    hat, adahat, gates = range(3)
    assert forgotten[hat] == 0
    assert learned[adahat] > learned[hat] + 0.05
    assert learned[gates] > learned[hat] + 0.05
    assert forgotten[gates] > forgotten[adahat] + 0.2
    assert capacities[hat][0] == 1
    assert capacities[hat] == sorted(capacities[hat], reverse=True)
    assert all(a < b for a, b in zip(capacities[hat][1:], capacities[adahat][1:], strict=True))
    assert capacities[gates] == [1, 1, 1]
