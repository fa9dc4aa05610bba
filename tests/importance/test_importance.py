"""Importance: running estimates apart from replacement, against loops over updates and units."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnt
from gnt.importance import MEASURES, Importance, Measure
from tests.helpers.small_runs import mlp

DECAY = 0.75


def twin(values: list[Tensor], average: str) -> Tensor:
    """The average of a unit's measured values, one after the other."""
    if average == "latest":
        return values[-1]
    if average == "task_mean":
        return sum(values[1:], values[0]) / len(values)
    mean, weight = torch.zeros_like(values[0]), 0.0
    for value in values:
        mean, weight = DECAY * mean + (1 - DECAY) * value, DECAY * weight + 1 - DECAY
    return mean / weight


def contributions(net: nn.Sequential, x: Tensor) -> list[Tensor]:
    """Mean |h| * mean |w_out| of each unit of the two hidden layers."""
    first = net[:2](x)
    return [
        (first.abs().mean(0) * net[2].weight.abs().mean(0)).detach(),
        (net[2:4](first).abs().mean(0) * net[4].weight.abs().mean(0)).detach(),
    ]


def double_mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return mlp().double()


def width(net: nn.Sequential) -> int:
    return net[0].in_features


def train(net: nn.Sequential, optimizer: Any, after: Callable[[], Any], steps: int = 5, batches: int = 1) -> None:
    draws = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(batches):
            net(torch.randn(6, width(net), generator=draws, dtype=torch.double)).square().mean().backward()
        optimizer.step()
        after()


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("average", ["ema", "task_mean", "latest"])
def test_average_is_that_of_the_measured_values_of_each_task(average, kernels):
    net = double_mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    importance = Importance(net, average=average, decay_rate=DECAY, kernels=kernels)
    alone = gnt.GnT(net, decay_rate=DECAY, replacement_rate=0.0)
    measured: list[list[Tensor]] = [[], []]
    draws = torch.Generator().manual_seed(0)
    for step in range(9):
        if step == 4:
            importance.begin_task()
            measured = [[], []]
        x = torch.randn(6, width(net), generator=draws, dtype=torch.double)
        optimizer.zero_grad()
        parts = x.split([2, 4])  # accumulated gradients
        for part in parts:
            net(part).square().mean().backward()
        features = net[:2](x).detach(), net[:4](x).detach()
        optimizer.step()
        for number, (h, layer) in enumerate(zip(features, (net[2], net[4]), strict=True)):
            measured[number].append((h.abs().mean(0) * layer.weight.abs().mean(0)).detach())
        importance.update()
        alone.step()
        for value, values in zip(importance.values, measured, strict=True):
            torch.testing.assert_close(value, twin(values, average), rtol=1e-12, atol=0)
    assert importance.updates == alone.updates == 9
    assert importance.groups[0].state.age.unique().tolist() == [5]
    if average == "ema":
        assert not importance.values[0].equal(alone.importance.values[0])  # begun anew with the task


def test_engine_and_importance_on_one_network_measure_what_each_measures_alone():
    def run(*kinds: str) -> dict[str, list[Tensor]]:
        net = double_mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        readers: dict[str, Any] = {}
        if "importance" in kinds:
            readers["importance"] = Importance(net, "zero_contribution")
        if "engine" in kinds:
            readers["engine"] = gnt.GnT(net, optimizer, replacement_rate=0.0, utility="zero_contribution")
        if "redo" in kinds:
            readers["redo"] = gnt.ReDo(net, optimizer, tau=0.0, period=50)
        train(
            net,
            optimizer,
            lambda: [each.update() if isinstance(each, Importance) else each.step() for each in readers.values()],
            batches=2,
        )
        values = {"importance": lambda each: each.values, "engine": lambda each: each.importance.values}
        return {name: values[name](each) for name, each in readers.items() if name in values}

    together = run("importance", "engine", "redo")
    alone = {**run("importance"), **run("engine")}
    for name, values in together.items():
        for a, b in zip(values, alone[name], strict=True):
            assert a.equal(b)
    assert together["engine"][0].equal(together["importance"][0])


def test_attached_importance_measures_units_before_an_engine_replaces_them():
    net = double_mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    gnt.GnT(net, optimizer, replacement_rate=0.5, maturity_threshold=1).attach()
    importance = Importance(net, average="latest").attach(optimizer)
    without = double_mlp()
    other = torch.optim.SGD(without.parameters(), lr=0.1)
    expected = Importance(without, average="latest").attach(other)
    for attached, plain in ((importance, optimizer), (expected, other)):
        train(net if plain is optimizer else without, plain, lambda: None, steps=2)
        assert attached.updates == 2
    # the second update is followed by the first replacement: both networks were equal until then
    assert optimizer.state_dict()["gnt"]["groups"][0]["replaced"] > 0
    assert importance.values[0].equal(expected.values[0])
    scaler = torch.amp.GradScaler("cpu")
    optimizer.zero_grad()
    (scaler.scale(net(torch.randn(4, width(net), dtype=torch.double)).sum()) * torch.inf).backward()
    scaler.step(optimizer)
    assert importance.updates == 2
    importance.close()
    with pytest.raises(RuntimeError, match="closed"):
        importance.update()


def test_resumed_and_copied_importance_go_on_exactly():
    net = double_mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    importance = Importance(net, average="task_mean")
    train(net, optimizer, importance.update)
    copied_net, copied_optimizer, copied = copy.deepcopy((net, optimizer, importance))
    resumed_net = copy.deepcopy(net)
    resumed = Importance(resumed_net, average="task_mean")
    buffer = io.BytesIO()
    torch.save(importance.state_dict(), buffer)
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    train(net, optimizer, importance.update)
    train(copied_net, copied_optimizer, copied.update)
    train(resumed_net, torch.optim.SGD(resumed_net.parameters(), lr=0.1), resumed.update)
    for a, b, c in zip(importance.values, copied.values, resumed.values, strict=True):
        assert a.equal(b)
        assert a.equal(c)
    assert importance.updates == copied.updates == resumed.updates == 10


@pytest.mark.parametrize("average", ["ema", "task_mean", "latest"])
def test_values_of_a_task_stay_when_another_begins(average):
    net = double_mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    importance = Importance(net, average=average)
    train(net, optimizer, importance.update, steps=2)
    kept = importance.values
    before = [values.clone() for values in kept]
    importance.begin_task()
    train(net, optimizer, importance.update, steps=2)
    assert all(a.equal(b) for a, b in zip(kept, before, strict=True))
    kept[0].fill_(-1.0)
    assert importance.values[0].min() >= 0


def test_settings_and_states_that_do_not_fit_are_refused():
    net = double_mlp()
    importance = Importance(net)
    with pytest.raises(AttributeError, match="measure of Importance cannot be changed"):
        importance.measure = "weight"
    for settings, message in [
        ({"measure": "contribtion"}, "measure must be one of .* did you mean 'contribution'"),
        ({"average": "mean"}, "average must be one of ema, task_mean, latest, got 'mean'"),
        ({"decay_rate": 1.0}, r"decay_rate must be a number in \[0, 1\), got 1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Importance(net, **settings)
    with pytest.raises(TypeError, match="generator must be"):
        Importance(net, generator=3)
    with pytest.raises(TypeError, match="optimizer must be"):
        importance.attach(net)
    with pytest.raises(RuntimeError, match="no features of group"):
        importance.update()
    other = Importance(net, average="latest").state_dict()
    with pytest.raises(ValueError, match="average 'latest', this Importance has average 'ema'"):
        importance.load_state_dict(other)
    damaged = importance.state_dict()
    damaged["groups"][1]["utility"][0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        importance.load_state_dict(damaged)
    smaller = Importance([net[2], net[3], net[4]]).state_dict()
    with pytest.raises(ValueError, match="2 groups"):
        importance.load_state_dict(smaller)
    train(net, torch.optim.SGD(net.parameters(), lr=0.1), importance.update, steps=1)
    net[4] = nn.Linear(net[4].in_features, 1).double()
    with pytest.raises(RuntimeError, match="cannot be measured in it, and nothing was changed; build a new Importance"):
        importance.update()
    assert importance.updates == 1


def test_measure_put_into_the_table_is_computed_by_its_own_function(monkeypatch):
    """Even if it reads what a built-in measure reads."""
    reads = MEASURES["contribution"].reads
    own = Measure(lambda s: (s.magnitude * s.outgoing).mean(1) ** 2, averaged=False, reads=reads)
    monkeypatch.setitem(MEASURES, "squared_contribution", own)
    x = torch.randn(6, width(double_mlp()), dtype=torch.double)
    for kernels in (False, True):
        net = double_mlp()
        engine = gnt.GnT(net, utility="squared_contribution", kernels=kernels)
        net(x).sum().backward()
        engine.update()
        for value, contribution in zip(engine.importance.values, contributions(net, x), strict=True):
            torch.testing.assert_close(value, contribution**2)


@pytest.mark.parametrize("average", ["ema", "task_mean", "latest"])
def test_units_replaced_by_a_followed_engine_start_anew_even_before_the_update_of_that_step(average):
    net = double_mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    importance = Importance(net, "feature_by_input", average=average)
    engine = gnt.GnT(net, optimizer, replacement_rate=0.5, maturity_threshold=2, follow=[importance])
    replaced: list[Tensor] = []

    def step() -> None:
        replaced.append(engine.step()[0])
        importance.update()  # with features of the units before

    train(net, optimizer, step, steps=3)
    assert len(replaced[-1])
    assert importance.groups[0].state.age[replaced[-1]].unique().tolist() == [0]
    assert importance.values[0][replaced[-1]].abs().max() == 0.0
    others = [unit for unit in range(8) if unit not in replaced[-1].tolist()]
    assert importance.groups[0].state.age[others].unique().tolist() == [3]
