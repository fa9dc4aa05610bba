"""Experience replay, DER and DER++: against loops of one's own with the printed formulas."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import assert_same, mlp


def stream(steps: int = 8, classes: int = 2) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(0)
    return [(torch.randn(6, 4, generator=draws), torch.randint(classes, (6,), generator=draws)) for _ in range(steps)]


def buffer() -> gnt.ReplayBuffer:
    return gnt.ReplayBuffer(10, generator=torch.Generator().manual_seed(3))


def learn(methods: list[Any], net: nn.Module, **settings: Any) -> list[Tensor]:
    learner = gnt.Backprop(net, loss="cross_entropy", step_size=0.1, methods=methods, **settings)
    return [learner.learn(x, y).output for x, y in stream()]


def test_experience_replay_learns_from_the_joined_batch():
    net, twin = mlp(), mlp()
    outputs = learn([gnt.ExperienceReplay(buffer(), batch_size=4)], net)
    memory, optimizer = buffer(), torch.optim.SGD(twin.parameters(), lr=0.1)
    for (x, y), output in zip(stream(), outputs, strict=True):
        if len(memory):
            drawn = memory.sample(4)
            memory.add(x, y)
            x, y = torch.cat([x, drawn.x]), torch.cat([y, drawn.y])
        else:
            memory.add(x, y)
        expected = twin(x)
        optimizer.zero_grad()
        F.cross_entropy(expected, y).backward()
        optimizer.step()
        assert output.equal(expected.detach())
    assert_same(net.state_dict(), twin.state_dict())


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_der_is_the_printed_formula_with_two_draws(beta):
    """DER is plain training plus the distance; DER++ adds a loss on other items, with a strength of its own."""
    net, twin = mlp(), mlp()
    learn([gnt.DER(net, buffer(), alpha=0.3, beta=beta, batch_size=5)], net)
    memory, optimizer = buffer(), torch.optim.SGD(twin.parameters(), lr=0.1)
    for x, y in stream():
        output = twin(x)
        loss = F.cross_entropy(output, y)
        if len(memory):
            first = memory.sample(5)
            distances = [((twin(a) - z) ** 2).sum() for a, z in zip(first.x, first.more["output"], strict=True)]
            loss = loss + 0.3 * torch.stack(distances).mean()
            if beta:
                second = memory.sample(5)
                loss = loss + beta * F.cross_entropy(twin(second.x), second.y)
        memory.add(x, y, output=output.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_der_without_strength_is_plain_training_bit_by_bit():
    net, plain = mlp(), mlp()
    learn([gnt.DER(net, buffer(), alpha=0.0)], net)
    learn([], plain)
    assert_same(net.state_dict(), plain.state_dict())


def test_der_leaves_out_the_outputs_of_a_head_that_has_grown():
    net = nn.Linear(4, 2)
    der = gnt.DER(net, buffer(), alpha=1.0, batch_size=10)
    x, y = stream(1)[0]
    der(x, y, net(x))
    wider = nn.Linear(4, 5)
    with torch.no_grad():
        wider.weight[:2], wider.bias[:2] = net.weight, net.bias
    der.net = wider
    assert der(x, y, wider(x)).item() == pytest.approx(0.0, abs=1e-12)
    assert der.buffer.width("output") == 5
    assert torch.isfinite(der(x, y, wider(x)))


@pytest.mark.parametrize("kind", ["er", "der"])
def test_a_learner_with_replay_resumes_exactly(kind):
    def learner() -> gnt.Backprop:
        net = mlp()
        method: Any = gnt.ExperienceReplay(buffer()) if kind == "er" else gnt.DER(net, buffer(), beta=0.5)
        return gnt.ContinualBackprop(
            net, loss="cross_entropy", opt="adam", methods=[method], replacement_rate=0.1, maturity_threshold=1
        )

    one, other = learner(), learner()
    data = stream()
    one.begin_task(task=3)  # the buffer of experience replay stores it
    for x, y in data[:4]:
        one.learn(x, y)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for x, y in data[4:]:
        assert_same(tuple(one.learn(x, y)), tuple(other.learn(x, y)))
    assert sum(group.state.replaced for group in one.gnt.groups) > 0
    if kind == "er":
        assert other.methods[0].buffer.sample(1).task.item() == 3
        damaged = copy.deepcopy(one.state_dict())
        damaged["methods"][0]["task"] = "a"
        with pytest.raises(ValueError, match="an integer or None"):
            other.load_state_dict(damaged)


@pytest.mark.parametrize("kind", ["er", "der", "agem"])
def test_a_batch_that_is_refused_changes_nothing(kind):
    net, (x, y) = mlp(), stream(1)[0]
    method: Any = {
        "er": lambda: gnt.ExperienceReplay(buffer(), task=0),
        "der": lambda: gnt.DER(net, buffer(), beta=0.5),
        "agem": lambda: gnt.AGEM(net, buffer(), F.cross_entropy, task=0),
    }[kind]()
    wider = torch.zeros(6, 5)

    def give(x: Any, y: Tensor, output: Tensor) -> None:
        if kind == "der":
            method(x, y, output)
        else:
            method.before_batch(x, y)
            method.after_step()

    give(x, y, net(x))
    before = copy.deepcopy(method.state_dict())
    for bad in [(x, y.float(), wider), (x.double(), y, wider), (x, y[:3], wider), ([1], y, wider)]:
        with pytest.raises((TypeError, ValueError), match=r"of the first batch|samples|must be a tensor"):
            give(*bad)
        assert_same(method.state_dict(), before)
    if kind == "der":
        for output in (wider[:4], wider[:, :1], wider.double()):
            with pytest.raises(ValueError, match=r"output (has|of the first batch had)"):
                give(x, y, output)
            assert_same(method.state_dict(), before)


class Penalty:
    """A penalty of a given value."""

    value = 0.0

    def penalty(self) -> Tensor:
        return torch.tensor(self.value)


@pytest.mark.parametrize("kind", ["ER", "DER", "AGEM", "GEM"])
def test_the_batch_of_a_step_that_failed_is_not_stored(kind):
    """Because of the loss, or of a penalty that is computed after the method has drawn items."""
    net, stored = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), buffer()
    method = {
        "ER": lambda: gnt.ExperienceReplay(stored),
        "DER": lambda: gnt.DER(net, stored, beta=0.5),
        "AGEM": lambda: gnt.AGEM(net, stored, F.cross_entropy),
        "GEM": lambda: gnt.GEM(net, F.cross_entropy, per_task=50),
    }[kind]()
    other = Penalty()
    learner = gnt.Backprop(net, loss="cross_entropy", methods=[method, other])
    for task in range(2):
        learner.begin_task(task=task)
        for x, y in stream(3):
            learner.learn(x, y)
    count = sum(map(len, method.memories.values())) if kind == "GEM" else len(stored)
    assert count
    x, y = stream(1)[0]
    generator = method.generator if kind == "GEM" else stored.generator
    before = generator.get_state()
    for factor, other.value in ((torch.nan, 0.0), (1.0, torch.nan)):
        with pytest.raises(FloatingPointError, match="nothing was changed"):
            learner.learn(factor * x, y)
        assert torch.equal(generator.get_state(), before)
    other.value = 0.0
    now = list(method.memories.values()) if kind == "GEM" else [stored]
    assert sum(map(len, now)) == count
    assert all(each.sample(len(each)).x.isfinite().all() for each in now)
    learner.learn(x, y)  # the next step is made, and stored
    assert sum(map(len, now)) == count + (len(x) if kind == "GEM" else 0)  # the buffer of the others is full


def test_wrong_settings_and_outputs_are_refused():
    net, memory = mlp(), buffer()
    for build, error, message in [
        (lambda: gnt.ExperienceReplay([]), TypeError, "buffer must be a gnt.ReplayBuffer, got list"),
        (lambda: gnt.ExperienceReplay(memory, 0), ValueError, "batch_size must be an integer >= 1, got 0"),
        (lambda: gnt.DER("net", memory), TypeError, "net must be a torch.nn.Module, got str"),
        (lambda: gnt.DER(net, memory, alpha=-1.0), ValueError, "alpha must be a finite number >= 0, got -1.0"),
        (lambda: gnt.DER(net, memory, beta=torch.inf), ValueError, "beta must be a finite number"),
        (lambda: gnt.DER(net, memory, loss="mse"), TypeError, "loss must be a function"),
    ]:
        with pytest.raises(error, match=message):
            build()
    der = gnt.DER(net, memory)
    x, y = stream(1)[0]
    with pytest.raises(ValueError, match=r"output must be the network's output \(batch, outputs\), got shape \(6,\)"):
        der(x, y, net(x)[:, 0])
    with pytest.raises(ValueError, match="y has 5 samples, and x has 6"):
        der(x, y[:5], net(x))
    assert len(memory) == 0

    class NeedsMore:
        def penalty(self, x: Tensor, weights: Tensor) -> Tensor:
            return x.sum()

    with pytest.raises(TypeError, match="penalty of NeedsMore needs weights; a learner has x, y and output"):
        gnt.Backprop(net, methods=[NeedsMore()])
