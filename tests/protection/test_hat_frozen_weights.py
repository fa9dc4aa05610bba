"""`HAT`: which weights ended tasks hold, whatever steps the optimizer makes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import gnt
from gnt.protection import Adaptive
from tests.helpers.small_runs import IMAGE_SHAPE, assert_same, mlp
from tests.protection.masked_runs import FAST, inputs, learn_task, loss, make_hat, outputs

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")


def test_frozen_layers_and_residual_streams_are_frozen_after_the_first_task_and_new_heads_are_free():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.short, self.scale = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1), nn.Parameter(torch.ones(6))
            self.a, self.b = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1)
            self.heads = gnt.MultiHead(6, [2, 2])

        def forward(self, x: Tensor, task: int = 0) -> Tensor:
            x = torch.relu(self.stem(x))
            x = self.short(x) + self.b(torch.sigmoid(self.a(x)))  # sigmoid(0) is not 0
            return self.heads(torch.relu(x * self.scale[:, None, None]).mean((2, 3)), task)

    net, x = Residual(), torch.randn(6, *IMAGE_SHAPE)
    groups = gnt.trace(net, examples=[(x, 0), (x, 1)])
    hat = gnt.HAT(net, groups, sparsity=0.1, generator=torch.Generator().manual_seed(7))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05, weight_decay=0.1)
    before: dict[str, Tensor] = {}
    for task in range(2):
        hat.begin(task, optimizer, steps_per_epoch=2)
        before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
        for _ in range(3):
            optimizer.zero_grad()
            (F.cross_entropy(net(x, task), torch.arange(6) % 2) + hat.penalty()).backward()
            optimizer.step()
        hat.end()
    moved = {name for name, parameter in net.named_parameters() if not parameter.detach().equal(before[name])}
    assert not moved & {"short.bias", "b.bias", "scale", "heads.heads.task_0.0.weight"}
    assert moved >= {"heads.heads.task_1.0.weight", "heads.heads.task_1.0.bias", "a.weight"}
    with pytest.raises(ValueError, match="no group has scale"):
        refuse(net, x)


def refuse(net: nn.Module, x: Tensor) -> None:
    other = copy.deepcopy(net)
    gnt.HAT(other, gnt.trace(other, examples=[(x, 0), (x, 1)]), uncovered="refuse")


@pytest.mark.parametrize("form", ["update", "gradient"])
def test_weights_are_held_before_another_optimizer_steps_and_when_they_are_trained_later_in_a_task(form):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.rest = nn.Linear(4, 4), mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(x + self.stem(x))

    net = Net()
    hat = gnt.HAT(net, gnt.walk(net.rest), s_max=8.0, sparsity=0.01, embedding=(0.1, 0.5), apply=form)
    optimizer = torch.optim.SGD(net.rest.parameters(), **FAST)
    other = torch.optim.SGD(net.stem.parameters(), **FAST)
    for task in range(2):
        first = net.rest[0].requires_grad_(task == 0)
        hat.begin(task, optimizer, steps_per_epoch=2)
        for step in range(4):
            if step == 2:
                first.requires_grad_(True)
            other.zero_grad()
            optimizer.zero_grad()
            loss(hat, step).backward()
            other.step()
            optimizer.step()
        hat.end()
        if task == 0:
            before = outputs(hat, inputs(net))[0]
    assert torch.equal(outputs(hat, inputs(net))[0], before)


def test_lbfgs_must_hold_the_embedding_from_the_start():
    net, hat, _ = make_hat(s_max=8.0)
    before = copy.deepcopy(hat.state_dict())
    with pytest.raises(ValueError, match=r"hat\.embedding"):
        hat.begin(0, torch.optim.LBFGS(net.parameters()), steps_per_epoch=2)
    assert hat.task is None
    assert_same(hat.state_dict(), before)
    optimizer = torch.optim.LBFGS([*net.parameters(), hat.embedding], lr=0.1, max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(hat, 0)
        total.backward()
        return total

    with hat.learning(0, optimizer, steps_per_epoch=2):
        optimizer.step(closure)


def test_units_of_a_group_that_a_task_does_not_run_stay_free():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.branches = nn.Linear(4, 6), nn.ModuleList(mlp(6, 5, 2) for _ in range(2))

        def forward(self, x: Tensor, task: int) -> Tensor:
            return self.branches[task](torch.relu(self.first(x)))

    net, x = Branches(), torch.randn(6, 4)
    hat = gnt.HAT(net, gnt.trace(net, examples=[(x, 0), (x, 1)]), sparsity=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    hat.begin(0, optimizer, steps_per_epoch=1)
    net(x, 0).sum().backward()
    optimizer.step()
    hat.end()
    used = {name: bool(mask.any()) for name, mask in hat.masks[0].items()}
    assert used == {"first": True, "branches.0.0": True, "branches.1.0": False}


@pytest.mark.parametrize("form", ["update", "gradient"])
def test_a_skipped_step_of_a_gradscaler_changes_nothing(form):
    results = []
    for overflow in (False, True):
        net, hat, optimizer = make_hat(protection=Adaptive(0.1), apply=form)
        learn_task(hat, optimizer, 0)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
        hat.begin(1, optimizer, steps_per_epoch=4)
        for step in range(3):
            if overflow and step == 1:
                optimizer.zero_grad()
                scaler.scale(loss(hat, 9) * torch.inf).backward()
                scaler.step(optimizer)
                scaler.update(4.0)
            optimizer.zero_grad()
            scaler.scale(loss(hat, step)).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append((dict(net.state_dict()), hat.embedding.detach(), hat.scale))
    assert_same(*results)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_forwards_use_the_gates_of_the_step(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self, on: bool) -> None:
            super().__init__()
            self.net, self.on = mlp(), on

        def forward(self, x: Tensor) -> Tensor:
            x = x.requires_grad_()
            return checkpoint(self.net, x, use_reentrant=reentrant) if self.on else self.net(x)

    results = []
    for on in (False, True):
        net = Checkpointed(on)
        hat = gnt.HAT(net, gnt.walk(net.net), sparsity=0.1, generator=torch.Generator().manual_seed(7))
        optimizer = torch.optim.SGD(net.parameters(), **FAST)
        for task in range(2):
            learn_task(hat, optimizer, task)
        results.append((dict(net.state_dict()), hat.masks))
    assert_same(*results)
