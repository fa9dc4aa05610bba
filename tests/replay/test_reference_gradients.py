"""Gradients on stored items: those that share memory, those that are absent, and state of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from gnt.replay._projection import product_of, rescale

KINDS = ["AGEM", "GEM"]
ITEMS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def constrained(kind: str, net: nn.Module, loss: Callable[..., Tensor] = F.cross_entropy, **settings: Any) -> Any:
    """A method with a memory of one earlier task, and no margin."""
    method = gnt.AGEM(net, gnt.ReplayBuffer(8), loss, **settings) if kind == "AGEM" else None
    method = method or gnt.GEM(net, loss, margin=0.0, **settings)
    method.begin_task(0)
    method.add(*ITEMS)
    method.begin_task(1)
    return method


class SumOfWeights(nn.Module):
    """A layer whose weight is the sum of two parameters, which have one gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.own = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3, 4))
        self.offset = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.shared + self.own, self.offset)


@pytest.mark.parametrize("size", [1.0, 1e-13])
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_that_share_a_gradient_are_projected_as_others(kind, size):
    torch.manual_seed(0)
    net = SumOfWeights()
    parameters = list(net.parameters())
    reference = torch.autograd.grad(F.cross_entropy(net(ITEMS[0]), ITEMS[1]), parameters)
    assert reference[0] is reference[1]
    before = [0.3 * torch.randn_like(each) - each for each in reference]
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient.clone()
    constrained(kind, net, lambda output, y: size * F.cross_entropy(output, y)).project()
    factor = product_of(before, reference) / product_of(reference, reference)
    for parameter, old, other in zip(parameters, before, reference, strict=True):
        torch.testing.assert_close(parameter.grad, old - factor * other, rtol=0, atol=1e-6)


def test_gradients_that_share_memory_are_rescaled_once():
    """One tensor twice, a view of it, and one whose entries lie in one place."""
    shared = torch.full((2, 3), 2.0**-90)
    row = [shared, shared, shared.view(3, 2), shared[:1, :1].expand(2, 2), None]
    assert rescale(row) == 2.0**89
    assert [None if each is None else each.unique().tolist() for each in row] == [[0.5]] * 4 + [None]


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_task_without_items_constrains_nothing(kind):
    """With a margin, too, which is a weight on the gradient of each memory."""
    net = nn.Linear(4, 3)
    method, other = (constrained(kind, net) for _ in range(2))
    method.begin_task(2)
    other.begin_task(2)
    if kind == "GEM":
        method.margin = other.margin = 0.5
        del other.memories[1]
    found = []
    for each in (method, other):
        net.zero_grad()
        F.cross_entropy(net(ITEMS[0]), (ITEMS[1] + 1) % 3).backward()
        each.project()
        found.append(net.weight.grad)
    torch.testing.assert_close(*found)


def test_a_memory_whose_loss_depends_on_no_trained_parameter_constrains_nothing():
    """The layer of the first task is frozen since; that of the second is not."""
    layers = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
    gem = constrained("GEM", layers, forward=lambda x, task: layers[min(task, 1)](x))
    layers[0].requires_grad_(False)
    F.cross_entropy(layers[1](ITEMS[0]), ITEMS[1]).backward()
    before = layers[1].weight.grad.clone()
    gem.project()
    assert layers[0].weight.grad is None
    assert torch.equal(layers[1].weight.grad, before)


class Stateful(nn.Module):
    """A forward that replaces a buffer, keeps a state as attribute, and adds to containers, one of them torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.read = nn.RNNCell(4, 5), nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.state: Any = torch.zeros(8, 5)
        self.log: list[int] = []
        self.read.seen = []  # type: ignore[assignment]

    def forward(self, x: Tensor, task: Any = None) -> Tensor:
        self.calls = self.calls + 1
        self.state = self.cell(x, self.state).detach() if len(x) == len(self.state) else None
        self.log.append(len(x))
        self.read.seen.append(len(x))
        self.last = x
        return self.read(self.cell(x))


@pytest.mark.parametrize("kind", [*KINDS, "LwF"])
def test_state_that_a_forward_keeps_is_left_as_it_was(kind):
    net = Stateful()
    output = net(ITEMS[0])
    F.cross_entropy(output, ITEMS[1]).backward()
    if kind == "LwF":
        method: Any = gnt.LwF(net)
        method.end_task()
    else:
        method = constrained(kind, net)
    before = dict(vars(net)), dict(net._buffers), list(net.log), list(net.read.seen)
    method(ITEMS[0], output) if kind == "LwF" else method.project()
    after = vars(net), net._buffers, net.log, net.read.seen
    assert before[2:] == after[2:]
    for old, new in zip(before[:2], after[:2], strict=True):
        assert old.keys() == new.keys()
        assert all(new[name] is each for name, each in old.items())
