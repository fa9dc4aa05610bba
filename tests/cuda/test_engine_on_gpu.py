"""The engine on a GPU: the CPU's numbers, no synchronization, half precision, moves and checkpoints between devices."""

from __future__ import annotations

import contextlib
import copy
import io

import pytest
import torch
import torch.nn.functional as F

import gnt
from gnt.importance import MEASURES
from gnt.optim import CBPSGD, CBPAdam, CBPAdamW
from tests.cuda.synchronization import no_synchronization
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, IMAGE_SHAPE, batch, conv_net, mlp, replaced, train

NETS = pytest.mark.parametrize(("make", "shape"), [(mlp, (4,)), (conv_net, IMAGE_SHAPE)], ids=["mlp", "conv"])
KERNELS = pytest.mark.parametrize("kernels", [False, None])


@NETS
@KERNELS
@pytest.mark.parametrize("utility", [name for name in MEASURES if name != "random"])
def test_utilities_and_selections_equal_those_of_the_cpu(make, shape, utility, kernels):
    """Both replace the same units, whose new weights are given."""
    engines = []
    for device in ("cpu", "cuda"):
        net = make().double().to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        engine = gnt.GnT(net, optimizer, utility=utility, kernels=kernels, **FREQUENT_REPLACEMENT)
        chosen = []
        for t in range(20):
            x, y = (tensor.double().to(device) for tensor in batch(t, *shape))
            optimizer.zero_grad()
            F.mse_loss(net(x), y).backward()
            optimizer.step()
            engine.update()
            units = engine.select()
            source = torch.Generator().manual_seed(t)
            fresh = [
                torch.randn(len(unit), *group.incoming[0].weight.shape[1:], generator=source, dtype=torch.float64)
                for unit, group in zip(units, engine.groups, strict=True)
            ]
            engine.replace(units, [weight.to(device) for weight in fresh])
            chosen.append([unit.tolist() for unit in units])
        engines.append((engine, chosen, net))
    (cpu, cpu_units, cpu_net), (gpu, gpu_units, gpu_net) = engines
    assert gpu_units == cpu_units
    assert min(replaced(gpu)) > 3
    for a, b in zip(gpu.groups, cpu.groups, strict=True):
        torch.testing.assert_close(a.state.utility.cpu(), b.state.utility, rtol=1e-9, atol=1e-12)
        assert a.state.age.tolist() == b.state.age.tolist()
    for a, b in zip(gpu_net.parameters(), cpu_net.parameters(), strict=True):
        torch.testing.assert_close(a.detach().cpu(), b.detach(), rtol=1e-9, atol=1e-12)


@NETS
@KERNELS
@pytest.mark.parametrize("utility", MEASURES)
def test_steps_do_not_synchronize(make, shape, utility, kernels):
    net = make().cuda()
    optimizer = torch.optim.Adam(net.parameters())
    engine = gnt.GnT(net, optimizer, utility=utility, replacement_rate=0.1, maturity_threshold=2, kernels=kernels)
    train(net, optimizer, engine, range(4), *shape)
    counts = []
    for t in range(4, 24):
        x, y = (tensor.cuda() for tensor in batch(t, *shape))
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
        with no_synchronization():
            units = engine.step()
        counts.append(sum(map(len, units)))
    assert 0 in counts
    assert sum(counts) > 3


@KERNELS
@pytest.mark.parametrize("kind", [CBPSGD, CBPAdam, CBPAdamW])
def test_cbp_optimizers_do_not_synchronize(kind, kernels):
    net = mlp().cuda()
    optimizer = kind(net, lr=0.01, kernels=kernels, **FREQUENT_REPLACEMENT)
    for t in range(20):
        x, y = (tensor.cuda() for tensor in batch(t))
        with no_synchronization() if t > 3 else contextlib.nullcontext():
            optimizer.zero_grad()
            F.mse_loss(net(x), y).backward()
            optimizer.step()
    assert min(replaced(optimizer.gnt)) > 3
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_replaced_units_have_zero_outgoing_weights_and_finite_incoming_ones():
    net = conv_net().cuda()
    optimizer = gnt.AdamGnT(net.parameters(), lr=0.01)
    engine = gnt.GnT(net, optimizer, **FREQUENT_REPLACEMENT)
    train(net, optimizer, engine, range(30), *IMAGE_SHAPE)
    for group, units in zip(engine.groups, engine.replaced, strict=True):
        for slot in group.outgoing:
            assert slot.weight.index_select(slot.dim, slot.index(units)).eq(0).all()
        for slot in group.incoming:
            assert slot.weight.index_select(slot.dim, slot.index(units)).isfinite().all()
    assert min(replaced(engine)) > 5


def test_autocast_and_skipped_steps():
    """A step that the GradScaler skips ages no unit."""
    net = mlp(4, 16, 2).cuda()
    optimizer = CBPAdam(net, lr=0.01, **FREQUENT_REPLACEMENT)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    for t in range(20):
        x, y = (tensor.cuda() for tensor in batch(t))
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = F.mse_loss(net(x), y)
        scaler.scale(loss * (float("inf") if t in (5, 9) else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.gnt.updates == 18
    assert min(replaced(optimizer.gnt)) > 3


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


@pytest.mark.parametrize(("saved_on", "loaded_on"), [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_checkpoints_load_on_another_device(saved_on, loaded_on):
    first, second = mlp().to(saved_on), mlp().to(loaded_on)
    optimizers = [CBPAdam(net, lr=0.01, **FREQUENT_REPLACEMENT) for net in (first, second)]
    train(first, optimizers[0], None, range(10))
    state = through_a_file({"net": first.state_dict(), "optimizer": optimizers[0].state_dict()})
    second.load_state_dict(state["net"])
    optimizers[1].load_state_dict(state["optimizer"])
    for net, optimizer in zip((first, second), optimizers, strict=True):
        train(net, optimizer, None, range(10, 20))
    assert replaced(optimizers[0].gnt) == replaced(optimizers[1].gnt)
    assert optimizers[1].gnt.updates == 20
    if saved_on == loaded_on:
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kernels", [False, None])
def test_a_network_that_moves_to_the_gpu_continues(kernels):
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    engine = gnt.GnT(net, optimizer, **FREQUENT_REPLACEMENT, kernels=kernels)
    train(net, optimizer, engine, range(5))
    net.cuda()
    train(net, optimizer, engine, range(5, 20))
    assert engine.updates == 20
    assert min(replaced(engine)) > 3
    net.cpu()
    train(net, optimizer, engine, range(20, 25))
    assert engine.updates == 25


def test_copies_train_alone():
    net = mlp().cuda()
    optimizer = CBPAdam(net, lr=0.01, **FREQUENT_REPLACEMENT)
    train(net, optimizer, None, range(5))
    other_net, other = copy.deepcopy((net, optimizer))
    for each_net, each in ((net, optimizer), (other_net, other)):
        train(each_net, each, None, range(5, 15))
    for a, b in zip(net.parameters(), other_net.parameters(), strict=True):
        assert torch.equal(a, b)
