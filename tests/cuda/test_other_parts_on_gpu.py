"""Protection, regularization, replay, La-MAML and attributions on a GPU: the CPU's numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.optim import CBPAdam
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, batch, mlp, replaced

DEVICES = ("cpu", "cuda")


def loss_of(net, t, device):
    x, y = (tensor.double().to(device) for tensor in batch(t))
    return F.mse_loss(net(x), y)


def assert_same_parameters(nets, **tolerance):
    tolerance = {"rtol": 1e-7, "atol": 1e-9, **tolerance}
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), **tolerance)


@pytest.mark.parametrize(
    ("kind", "settings"), [(gnt.HAT, {}), (gnt.AdaHAT, {"alpha": 0.1}), (gnt.FGAdaHAT, {"alpha": 0.1})]
)
def test_masks_train_two_tasks_as_on_the_cpu(kind, settings):
    nets = []
    for device in DEVICES:
        net = mlp(4, 16, 12, 2).double().to(device)
        hat = kind(net, gnt.walk(net), embedding=(0.2, 0.2), **settings)  # no random draws
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        for task in (1, 2):
            hat.begin(task, optimizer, steps_per_epoch=5)
            for t in range(10 * task, 10 * task + 10):
                if kind is gnt.FGAdaHAT:
                    hat.observe(*(tensor.double().to(device) for tensor in batch(t)))
                optimizer.zero_grad()
                (loss_of(net, t, device) + hat.penalty()).backward()
                optimizer.step()
            hat.end()
        nets.append(net)
    assert next(nets[1].parameters()).is_cuda
    assert_same_parameters(nets)


def test_si_changes_training_as_on_the_cpu():
    nets = []
    for device in DEVICES:
        net = mlp().double().to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        si = gnt.SI(net, strength=1.0).attach(optimizer)
        for task in range(2):
            for t in range(10 * task, 10 * task + 10):
                optimizer.zero_grad()
                loss_of(net, t, device).backward()
                optimizer.step()
            si.consolidate()
        nets.append(net)
    assert_same_parameters(nets)


@pytest.mark.parametrize("kind", [gnt.EWC, gnt.MAS])
def test_measured_importances_and_penalties_equal_those_of_the_cpu(kind):
    penalties, nets = [], []
    for device in DEVICES:
        net = mlp().double().to(device)
        memory = kind(net, strength=10.0)
        memory.consolidate(net, batch(0, n=20)[0].double().to(device))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        for t in range(5, 10):
            optimizer.zero_grad()
            (loss_of(net, t, device) + memory()).backward()
            optimizer.step()
        penalties.append(memory().item())
        nets.append(net)
    assert penalties[0] > 0
    assert penalties[1] == pytest.approx(penalties[0], rel=1e-7)
    assert_same_parameters(nets)


def test_a_replay_buffer_on_the_gpu_returns_what_it_was_given():
    buffer = gnt.ReplayBuffer(20, device=DEVICES[1])
    x = torch.arange(50.0, device=DEVICES[1]).view(50, 1)
    for start in range(0, 50, 10):
        buffer.add(x[start : start + 10], x[start : start + 10].squeeze(1))
    drawn = buffer.sample(8)
    assert drawn.x.device.type == DEVICES[1]
    assert torch.equal(drawn.x.squeeze(1), drawn.y)


def test_agem_projects_a_gradient_that_two_parameters_share_as_on_the_cpu():
    torch.manual_seed(0)
    start, (x, y) = torch.randn(2, 3, 4), (torch.randn(8, 4), torch.arange(8) % 3)
    found = []
    for device in DEVICES:
        net = nn.ParameterList([*start.to(device)])
        agem = gnt.AGEM(
            net, gnt.ReplayBuffer(8), F.cross_entropy, forward=lambda x, _, net=net: F.linear(x, net[0] + net[1])
        )
        agem.add(x, y)
        (0.1 * net[0].sum() - F.cross_entropy(F.linear(x.to(device), net[0] + net[1]), y.to(device))).backward()
        before = net[0].grad.clone()
        agem.project()
        assert not torch.equal(net[0].grad, before)
        found.append(net)
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own.grad, other.grad.cpu())


def test_la_maml_trains_as_on_the_cpu():
    nets = []
    for device in DEVICES:
        net = mlp().double().to(device)
        buffer = gnt.ReplayBuffer(20, generator=torch.Generator().manual_seed(0))
        learner = gnt.LaMAML(net, buffer, loss="mse", step_size=0.05, inner_steps=2)
        for t in range(6):
            learner.learn(*(tensor.double().to(device) for tensor in batch(t)))
        nets.append(net)
    assert_same_parameters(nets, rtol=1e-6)


@pytest.mark.parametrize("method", ["gradient_activation", "deeplift", "internal_influence"])
def test_attributions_equal_those_of_the_cpu(method):
    found = []
    for device in DEVICES:
        net = mlp().double().to(device)
        x, _ = (tensor.double().to(device) for tensor in batch(0))
        target = torch.tensor([0, 1] * 4, device=device)
        found.append(gnt.importance.attribute(net, gnt.walk(net), x, target, method=method))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-8, atol=1e-10)


def test_the_units_of_highest_importance_are_not_replaced():
    net = mlp(4, 32, 2).cuda()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    engine = gnt.GnT(net, optimizer, protect="top:0.5", **FREQUENT_REPLACEMENT)
    for t in range(20):
        optimizer.zero_grad()
        x, y = (tensor.cuda() for tensor in batch(t))
        F.mse_loss(net(x), y).backward()
        optimizer.step()
        held = set(engine.groups[0].state.held.tolist())
        assert not held & set(engine.step()[0].tolist())
    assert len(engine.groups[0].state.held) == 16
    assert min(replaced(engine)) > 3


def test_bfloat16_autocast_replaces_units_and_keeps_float32_averages():
    net = mlp(4, 64, 2).cuda()
    optimizer = CBPAdam(net, lr=0.01, **FREQUENT_REPLACEMENT)
    for t in range(20):
        x, y = (tensor.cuda() for tensor in batch(t))
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.mse_loss(net(x).float(), y)
        loss.backward()
        optimizer.step()
    state = optimizer.gnt.groups[0].state
    assert state.utility.dtype is torch.float32
    assert state.nonfinite.item() == 0
    assert state.replaced > 20
    assert all(param.isfinite().all() for param in net.parameters())


def test_one_process_of_nccl_trains_as_without(tmp_path):
    import torch.distributed as dist

    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        nets = []
        for wrap in (True, False):
            net = mlp().cuda()
            wrapped = nn.parallel.DistributedDataParallel(net, device_ids=[0]) if wrap else net
            generator = torch.Generator("cuda").manual_seed(5)
            optimizer = CBPAdam(net, lr=0.01, generator=generator, **FREQUENT_REPLACEMENT)
            for t in range(10):
                x, y = (tensor.cuda() for tensor in batch(t))
                optimizer.zero_grad()
                F.mse_loss(wrapped(x), y).backward()
                optimizer.step()
            assert min(replaced(optimizer.gnt)) > 2
            nets.append(net)
        assert_same_parameters(nets, rtol=1e-4, atol=1e-5)
    finally:
        dist.destroy_process_group()
