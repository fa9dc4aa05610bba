"""`LwF`: against a loop with a deep copy, heads by task, growth, resuming, refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, mlp
from tests.replay.growing_net import Growing
from tests.replay.test_generative_replay import stream


def test_the_penalty_keeps_softened_outputs_near_those_of_the_network_of_earlier_tasks():
    net, twin, old = mlp(), mlp(), None
    lwf = gnt.LwF(net, strength=0.7, temperature=3.0)
    learner = gnt.Backprop(net, loss="cross_entropy", step_size=0.1, methods=[lwf])
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for task in range(3):
        for x, y in stream(task):
            learner.learn(x, y)
            output = twin(x)
            loss = F.cross_entropy(output, y)
            if old is not None:
                for each, new in zip(x, output, strict=True):
                    before = (old(each) / 3).exp().detach()
                    now = (new / 3).exp()
                    loss = loss - 0.7 / len(x) * (before / before.sum() * (now / now.sum()).log()).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        learner.end_task()
        old = copy.deepcopy(twin)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.norm, self.heads = nn.Linear(4, 8), nn.BatchNorm1d(8), gnt.MultiHead(8, [2, 3])

    def forward(self, x: Tensor, task: int = 0) -> Tensor:
        return self.heads(self.norm(self.hidden(x)).relu(), task)


def test_heads_of_earlier_tasks_are_kept_and_the_frozen_network_leaves_no_trace():
    net, (x, _) = Heads(), stream(0)[0]
    engine = gnt.GnT([net.hidden, net.norm, nn.ReLU(), net.heads.heads["task_0"][0]])
    lwf = gnt.LwF(net, temperature=1.0, forward=lambda x: [net(x, task) for task in range(lwf.tasks)])
    assert lwf(x, net(x)) == 0
    lwf.end_task()
    lwf.end_task()
    kept = copy.deepcopy(net).eval()
    with torch.no_grad():
        net.hidden.weight.mul_(2.0)
        net.norm.running_mean.add_(1.0)
    engine.discard()
    twin, before = copy.deepcopy(net), torch.get_rng_state()
    total = lwf(x, net(x))
    expected = sum(F.cross_entropy(twin(x, task), kept(x, task).softmax(1)) for task in range(2))
    torch.testing.assert_close(total, expected)
    assert net.norm.num_batches_tracked == twin.norm.num_batches_tracked + 1  # the twin's two, and that of the output
    assert torch.get_rng_state().equal(before)
    total.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert lwf.state_dict()["network"]["norm.num_batches_tracked"] == 1


@pytest.mark.parametrize("called", [True, False])
def test_outputs_of_a_head_that_has_grown_are_left_out(called):
    """Whether or not the penalty was computed in the tasks that ended, and after loading."""
    net, (x, _) = Growing(), stream(0)[0]
    lwf = gnt.LwF(net)
    for width, added in ((2, 3), (5, 1)):
        if called:
            lwf(x, net(x))
        lwf.end_task()
        old = net(x).detach()
        net.heads.grow(added)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        loaded = gnt.LwF(net)
        loaded.load_state_dict(lwf.state_dict())
        new = net(x)[:, :width]
        expected = F.cross_entropy(new / 2, (old / 2).softmax(1))
        for each in (lwf, loaded):
            bad = each(x * torch.nan, net(x))  # tells nothing
            assert bad.isnan()
            torch.testing.assert_close(each(x, net(x)), expected)
        net.heads.grow(1)  # once it is known, later growth makes no difference
        torch.testing.assert_close(lwf(x, net(x)), expected)
        del net.heads.heads["task_0"][-1]
        lwf = gnt.LwF(net)


def test_outputs_that_all_depend_on_new_parameters_are_refused():
    net, (x, _) = nn.Sequential(Growing(), nn.LogSoftmax(1)), stream(0)[0]
    lwf = gnt.LwF(net)
    lwf.end_task()
    net[0].heads.grow(1)
    with pytest.raises(
        ValueError, match=r"is not known: 3 of 3, not only the last ones, depend on new tensors such as 0"
    ):
        lwf(x, net(x))


def test_the_frozen_network_follows_a_change_of_dtype():
    net, (x, _) = mlp(), stream(0)[0]
    lwf = gnt.LwF(net)
    lwf.end_task()
    before = lwf(x, net(x))
    net.double()
    torch.testing.assert_close(lwf(x.double(), net(x.double())), before.double(), rtol=1e-6, atol=0)
    assert all(each.dtype == torch.float64 for each in lwf.state_dict()["network"].values())


def test_a_learner_resumes_exactly():
    def learner() -> gnt.ContinualBackprop:
        net: Any = mlp()
        return gnt.ContinualBackprop(
            net, loss="cross_entropy", opt="adam", methods=[gnt.LwF(net)], **FREQUENT_REPLACEMENT
        )

    one, other = learner(), learner()
    for x, y in stream(0):
        one.learn(x, y)
    one.end_task()
    one.learn(*stream(1)[0])
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for each in (one, other):
        each._steps = [tuple(each.learn(x, y)) for x, y in stream(1)]
        each.end_task()
    assert_same(one._steps, other._steps)
    assert_same(one.state_dict(), other.state_dict())


def test_buffers_may_hold_infinities_nan_and_complex_numbers():
    def learner() -> gnt.Backprop:
        net: Any = mlp()
        net.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
        net.register_buffer("missing", torch.tensor([1.0, float("nan")]))
        net.register_buffer("rotation", torch.polar(torch.ones(3), torch.arange(3.0)))
        net.register_buffer("chosen", torch.tensor([True, False]))
        return gnt.Backprop(net, loss="cross_entropy", methods=[gnt.LwF(net)])

    one, other = learner(), learner()
    one.learn(*stream(0)[0])
    one.end_task()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert_same(one.state_dict(), other.state_dict())
    state = one.methods[0].state_dict()
    for name, wrong in [("mask", torch.ones(3, 3, dtype=torch.int64)), ("rotation", torch.ones(3)), ("chosen", 1)]:
        changed = {**state, "network": {**state["network"], name: wrong}}
        with pytest.raises(ValueError, match=f"state_dict (has|is of another network: its network has) '{name}'"):
            other.methods[0].load_state_dict(changed)
    assert_same(one.state_dict(), other.state_dict())


def test_strength_0_is_plain_training_and_wrong_input_is_refused():
    net, (x, _) = mlp(), stream(0)[0]
    free = gnt.LwF(net, 0.0)
    free.end_task()
    assert not free(x, net(x)).requires_grad
    for build, error, message in [
        (lambda: gnt.LwF("net"), TypeError, "net must be a torch.nn.Module, got str"),
        (lambda: gnt.LwF(net, forward=1), TypeError, "forward must be a function"),
        (lambda: gnt.LwF(net, -1), ValueError, "strength must be a finite number >= 0, got -1"),
        (lambda: gnt.LwF(net, temperature=0), ValueError, "temperature must be a finite number > 0, got 0"),
        (lambda: gnt.LwF(net)(x, "output"), TypeError, "output must be the network's output, a tensor, got str"),
    ]:
        with pytest.raises(error, match=message):
            build()
    lwf = gnt.LwF(net, forward=lambda x: [net(x)] * number)
    number = 1
    lwf.end_task()
    calls = iter([1, 2])
    lwf.forward = lambda x: [net(x)] * next(calls)
    with pytest.raises(ValueError, match=r"the network gives \[\(6, 2\), \(6, 2\)\], and with the weights of earlier"):
        lwf(x, net(x))
    before = copy.deepcopy(lwf.state_dict())
    for change, message in [
        ({"network": mlp(4, 9, 6, 2).state_dict()}, "of another network"),
        ({"network": None}, "1 tasks, which do not fit its 'network'"),
        ({"network": 3}, "a dict of tensors"),
        ({"tasks": -1}, "tasks"),
    ]:
        with pytest.raises(ValueError, match=message):
            lwf.load_state_dict({**before, **change})
        assert_same(lwf.state_dict(), before)


def test_one_output_has_no_probabilities_and_is_refused():
    net, x = nn.Linear(4, 1), torch.randn(5, 4)
    lwf = gnt.LwF(net)
    assert lwf(x, net(x)) == 0.0  # nothing to compare with yet
    lwf.end_task()
    with pytest.raises(ValueError, match="LwF compares the probabilities of classes, and of one output there are none"):
        lwf(x, net(x))
