"""Training steps with AdamGnT and the engine inside a CUDA graph, against the same steps launched one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import gnt
from gnt.optim import CBPSGD, AdamGnT, CBPAdam
from tests.cuda.synchronization import no_synchronization
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, IMAGE_SHAPE, batch, conv_net, mlp, replaced

KERNELS = pytest.mark.parametrize("kernels", [None, False])
SETTINGS = {**FREQUENT_REPLACEMENT, "replacement_rate": 0.03}  # units are due in some steps only


class Captured:
    """A step that is captured at the sixth call and replayed from then on."""

    def __init__(self, net, optimizer, engine, shape, *, attached):
        self.net, self.optimizer, self.engine, self.attached = net, optimizer, engine, attached
        self.x, self.y = (tensor.cuda() for tensor in batch(0, *shape))
        self.stream, self.graph, self.calls = torch.cuda.Stream(), None, 0

    def train(self):
        self.optimizer.zero_grad()
        F.mse_loss(self.net(self.x), self.y).backward()
        self.optimizer.step()
        if self.engine is not None and not self.attached:
            self.engine.step()

    def __call__(self, x, y):
        self.x.copy_(x)
        self.y.copy_(y)
        self.calls += 1
        if self.calls < 6:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.train()
            torch.cuda.current_stream().wait_stream(self.stream)
            return self.engine.replaced if self.engine is not None else []
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            self.optimizer.zero_grad()
            with torch.cuda.graph(self.graph):
                self.train()
        self.graph.replay()
        return self.engine.after_replay() if self.engine is not None else []


def sgd(net, kernels):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    return optimizer, gnt.GnT(net, optimizer, kernels=kernels, generator=seeded(), **SETTINGS), False


def torch_adam(net, kernels):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, capturable=True)
    return optimizer, gnt.GnT(net, optimizer, kernels=kernels, generator=seeded(), **SETTINGS), False


def adam_gnt(net, kernels):
    optimizer = AdamGnT(net.parameters(), lr=0.01, kernels=kernels, capturable=True)
    engine = gnt.GnT(net, optimizer, kernels=kernels, generator=seeded(), **SETTINGS).attach()
    return optimizer, engine, True


def cbp_adam(net, kernels):
    optimizer = CBPAdam(net, lr=0.01, kernels=kernels, capturable=True, generator=seeded(), **SETTINGS)
    return optimizer, optimizer.gnt, True


def cbp_sgd(net, kernels):
    optimizer = CBPSGD(net, lr=0.05, kernels=kernels, generator=seeded(), **SETTINGS)
    return optimizer, optimizer.gnt, True


def seeded():
    return torch.Generator("cuda").manual_seed(5)


@KERNELS
@pytest.mark.parametrize("make", [sgd, torch_adam, adam_gnt, cbp_adam, cbp_sgd])
@pytest.mark.parametrize(("net", "shape"), [(mlp, (4,)), (conv_net, IMAGE_SHAPE)], ids=["mlp", "conv"])
def test_replayed_steps_equal_launched_ones_with_replacements_between_them(make, net, shape, kernels):
    runs = []
    for capture in (True, False):
        model = net().double().cuda()
        optimizer, engine, attached = make(model, kernels)
        captured = Captured(model, optimizer, engine, shape, attached=attached)
        captured.x, captured.y = captured.x.double(), captured.y.double()
        chosen = []
        for t in range(30):
            x, y = (tensor.double().cuda() for tensor in batch(t, *shape))
            if capture:
                units = captured(x, y)
            else:
                captured.x.copy_(x)
                captured.y.copy_(y)
                captured.train()
                units = engine.replaced
            chosen.append([each.tolist() for each in units])
        runs.append((model, engine, chosen))
    (ours, our_engine, our_units), (theirs, their_engine, their_units) = runs
    assert our_units == their_units
    assert any(any(each) for each in our_units[8:])
    assert not all(any(each) for each in our_units[8:])
    assert our_engine.updates == their_engine.updates == 30
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    for a, b in zip(our_engine.groups, their_engine.groups, strict=True):
        torch.testing.assert_close(a.state.utility, b.state.utility, rtol=1e-7, atol=1e-9)
        assert torch.equal(a.state.age, b.state.age)
        assert torch.equal(a.state.last_active, b.state.last_active)


@KERNELS
def test_replays_launched_steps_and_loaded_states_may_be_mixed(kernels):
    runs = []
    for capture in (True, False):
        net = mlp().double().cuda()
        optimizer, engine, _ = cbp_adam(net, kernels)
        captured = Captured(net, optimizer, engine, (4,), attached=True)
        captured.x, captured.y = captured.x.double(), captured.y.double()
        saved = None
        for t in range(24):
            x, y = (tensor.double().cuda() for tensor in batch(t))
            if capture and t not in (10, 11, 15):
                captured(x, y)
            else:
                captured.x.copy_(x)
                captured.y.copy_(y)
                captured.train()
            if t == 12:
                saved = engine.state_dict()
            if t == 17:  # ages go back to those of step 12
                engine.load_state_dict(saved)
        runs.append((net, engine))
    (ours, our_engine), (theirs, their_engine) = runs
    assert our_engine.updates == their_engine.updates == 19
    assert replaced(our_engine) == replaced(their_engine)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    for a, b in zip(our_engine.groups, their_engine.groups, strict=True):
        assert torch.equal(a.state.last_active, b.state.last_active)


@KERNELS
@pytest.mark.parametrize("make", [sgd, cbp_adam])
def test_replays_with_and_without_replacements_do_not_synchronize(make, kernels):
    net = mlp().cuda()
    optimizer, engine, attached = make(net, kernels)
    captured = Captured(net, optimizer, engine, (4,), attached=attached)
    batches = [[tensor.cuda() for tensor in batch(t)] for t in range(24)]
    for x, y in batches[:8]:
        captured(x, y)
    counts = []
    for x, y in batches[8:]:
        with no_synchronization():
            counts.append(sum(map(len, captured(x, y))))
    assert engine.updates == 24
    assert 0 in counts
    assert sum(counts) > 2


def test_a_capture_needs_a_step_before_it():
    net = mlp().cuda()
    optimizer = AdamGnT(net.parameters(), capturable=True)
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    refused = pytest.raises(RuntimeError, match="must have taken a step on the same parameters")
    with pytest.warns(UserWarning, match="CUDA Graph is empty"), refused, torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


def test_after_replay_without_a_captured_step_is_refused():
    engine = gnt.GnT(mlp().cuda())
    with pytest.raises(RuntimeError, match="none was captured"):
        engine.after_replay()
    assert engine.updates == 0
