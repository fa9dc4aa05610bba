"""Several readers on one network: each forward is recorded once, and each reader has the numbers that it has alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.importance import _feature_recording
from gnt.importance._training_forwards import BackwardMark
from tests.helpers.small_runs import assert_same, batch, mlp


class TwoConsumers(nn.Module):
    """Two linear layers and, after a sum over pairs, a third one read the same units."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        h = self.first(x).relu()
        return self.left(h) + self.right(h) + self.last(2 * h)


NETWORKS = {"layers": mlp, "several consumers": TwoConsumers}


def readers(net: nn.Module) -> dict[str, Any]:
    """An engine that is attached, a ReDo and a second engine, each with its own layers or groups."""
    groups = net if isinstance(net, nn.Sequential) else None
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def units():
        return groups if groups is not None else gnt.trace(net, torch.zeros(2, 4))

    return {
        "attached": lambda: gnt.GnT(units(), optimizer, replacement_rate=0.0).attach(),
        "redo": lambda: gnt.ReDo(units(), tau=1.0, period=2, generator=torch.Generator().manual_seed(1)),
        "second": lambda: gnt.GnT(units(), utility="zero_contribution", decay_rate=0.5, replacement_rate=0.0),
    } | {"optimizer": optimizer}


def run(net: nn.Module, names: list[str], *, close: str | None = None) -> dict[str, Any]:
    """The state of each reader after three steps of two forwards each; the network is the same in every step."""
    make = readers(net)
    built = {name: make[name]() for name in names}
    weights = copy.deepcopy(net.state_dict())
    for t in range(3):
        for x, y in (batch(2 * t), batch(2 * t + 1, n=3)):
            F.mse_loss(net(x), y).backward()
        net(batch(99)[0])  # no backward reaches this forward
        make["optimizer"].step()
        after = copy.deepcopy(net.state_dict())
        for name, reader in built.items():
            if name != "attached":
                reader.step()
                net.load_state_dict(after)  # undo ReDo's replacements
        if t == 0 and close in built:
            built.pop(close).close()
        net.load_state_dict(weights)
        make["optimizer"].zero_grad()
    states = {}
    for name, reader in built.items():
        groups = [group.state.state_dict() for group in reader.groups]
        states[name] = groups, getattr(reader, "_latest", None)
        reader.close()
    assert not any(module._forward_pre_hooks for module in net.modules())
    return states


@pytest.mark.parametrize("network", NETWORKS)
def test_each_reader_has_the_numbers_that_it_has_alone(network):
    names = ["attached", "redo", "second"]
    alone = {name: run(NETWORKS[network](), [name])[name] for name in names}
    for order in (names, names[::-1]):
        assert_same(run(NETWORKS[network](), order), {name: alone[name] for name in order})


@pytest.mark.parametrize("closed", ["attached", "redo", "second"])
def test_closing_one_reader_does_not_disturb_the_others(closed):
    names = ["attached", "redo", "second"]
    states = run(mlp(), names)
    assert_same(run(mlp(), names, close=closed), {name: states[name] for name in names if name != closed})


@pytest.mark.parametrize("network", NETWORKS)
def test_a_forward_is_recorded_once_for_all_readers(network, monkeypatch):
    marks = []

    class CountedMark(_feature_recording.BackwardMark):
        def __init__(self, *args):
            marks.append(self)
            super().__init__(*args)

    monkeypatch.setattr(_feature_recording, "BackwardMark", CountedMark)
    net = NETWORKS[network]()
    make = readers(net)
    kept = [make[name]() for name in ("attached", "redo", "second")]
    consumers = {id(module) for group in kept[0].groups for module in group.consumers}
    assert [len(m._forward_pre_hooks) for m in net.modules() if id(m) in consumers] == [1] * len(consumers)
    net(batch(0)[0])
    assert len(marks) == sum(len(group.taps) for group in kept[0].groups)
    values = [tap.recorded()[0].data_ptr() for tap in kept[0].feature_buffer.taps]
    assert values == [tap.recorded()[0].data_ptr() for tap in kept[2].feature_buffer.taps]


def test_a_reader_behind_another_hook_records_what_that_hook_returns():
    net, x = mlp(), batch(0)[0]
    before = gnt.GnT(net, decay_rate=0.0)
    net[2].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    after = gnt.GnT(net, decay_rate=0.0)
    net(x)
    before.update()
    after.update()
    torch.testing.assert_close(after.groups[0].state.mean_feature, 2 * before.groups[0].state.mean_feature)


def test_readers_of_different_consumers_of_one_unit_do_not_share_marks():
    """A backward that reaches only one consumer counts only for the reader of that consumer."""
    net = TwoConsumers()
    left, both = gnt.GnT([net.first, F.relu, net.left]), gnt.GnT(gnt.trace(net, torch.zeros(2, 4)))
    x = batch(0)[0].requires_grad_()
    net(x).sum().backward(inputs=[x, net.right.weight])
    assert (left.feature_buffer.trained, both.feature_buffer.trained) == (False, True)


def test_a_learner_finds_new_gradients_without_asking_autograd(monkeypatch):
    """It clears the gradients after the forward, and a new gradient may be at the address of the one before."""
    asked = []
    ask = BackwardMark._ask
    monkeypatch.setattr(BackwardMark, "_ask", lambda self: asked.append(self) or ask(self))
    learner = gnt.ContinualBackprop(mlp(), replacement_rate=0.0)
    for t in range(5):
        learner.learn(*batch(t))
    assert learner.gnt.updates == 5
    assert not asked
