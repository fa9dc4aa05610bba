"""`GnT.rebind` of units that several consumers read differently: each consumer keeps the mean features it has read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gnt


class Heads(nn.Module):
    """Heads that read the units through norms of their own, so that each has a tap."""

    def __init__(self, **shifts: float) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.norms, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for name, shift in shifts.items():
            self.add(name, shift)

    def add(self, name: str, shift: float, *, first: bool = False) -> nn.Module:
        norm, head = nn.BatchNorm1d(6), nn.Linear(6, 2)
        with torch.no_grad():
            norm.bias.fill_(shift)
        for modules, new in ((self.norms, norm), (self.heads, head)):
            before = dict(modules.items())
            modules.clear()
            modules.update({name: new, **before} if first else {**before, name: new})
        return nn.ModuleList([norm, head])

    def forward(self, x: torch.Tensor, only: str | None = None) -> list[torch.Tensor]:
        h = torch.relu(self.body(x))
        return [self.heads[name](self.norms[name](h)) for name in self.heads if only in (None, name)]


X = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))


def build(net: nn.Module, groups: gnt.units.Groups) -> tuple[torch.optim.Optimizer, gnt.GnT]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    return optimizer, gnt.GnT(groups, optimizer, replacement_rate=0.0, decay_rate=0.9)


def train(net: nn.Module, engine: gnt.GnT, *heads: str | None) -> None:
    for head in heads:
        net.zero_grad()
        sum(each.square().mean() for each in net(X, head)).backward()
        engine.step()


def means(engine: gnt.GnT) -> dict[str, float]:
    """The mean feature that each head reads, over all units."""
    group = engine.groups[0]
    rows = dict(zip(group.tap_numbers, group.state.corrected_mean_features.mean(1).tolist(), strict=True))
    return {slot.name.split(".")[-1]: rows[slot.tap] for slot in group.outgoing}


def test_the_head_that_stays_keeps_its_mean_features() -> None:
    torch.manual_seed(0)
    net = Heads(a=5.0, b=-2.0)
    _, engine = build(net, gnt.trace(net, X))
    train(net, engine, *[None] * 5)
    assert means(engine) == pytest.approx({"a": 5.0, "b": -2.0})
    del net.heads["a"], net.norms["a"]
    engine.rebind(gnt.trace(net, X))
    assert means(engine) == pytest.approx({"b": -2.0})
    before = net(X)[0].mean(0)
    engine.replace([[0]])
    torch.testing.assert_close(net(X)[0].mean(0), before)


def test_a_head_that_is_inserted_before_the_others_does_not_take_their_mean_features() -> None:
    torch.manual_seed(0)
    net = Heads(a=5.0, b=-2.0)
    optimizer, engine = build(net, gnt.trace(net, X))
    train(net, engine, *[None] * 5)
    optimizer.add_param_group({"params": net.add("new", 1.0, first=True).parameters()})
    engine.rebind(gnt.trace(net, X))
    assert engine.groups[0].outgoing[0].name == "heads.new"
    # the new one begins with the mean of the first consumer before
    assert means(engine) == pytest.approx({"new": 5.0, "a": 5.0, "b": -2.0})


def test_each_head_keeps_the_number_of_updates_that_it_missed() -> None:
    torch.manual_seed(0)
    net = Heads(a=5.0, b=-2.0)
    optimizer, engine = build(net, gnt.trace(net, examples=[(X, "a"), (X, "b")]))
    train(net, engine, "a", *"bbb", "a", *"bbb")
    engine_means = {"a": 5.0, "b": -2.0}
    assert means(engine) == pytest.approx(engine_means)
    optimizer.add_param_group({"params": net.add("new", 1.0).parameters()})
    engine.rebind(gnt.trace(net, examples=[(X, name) for name in ("a", "b", "new")]))
    assert means(engine) == pytest.approx({**engine_means, "new": 5.0})
    train(net, engine, "b")
    assert means(engine) == pytest.approx({**engine_means, "new": 5.0})
    for name in ("b", "new"):
        del net.heads[name], net.norms[name]
    engine.rebind(gnt.trace(net, X))  # a single tap counts all updates
    assert means(engine) == pytest.approx({"a": 5.0})
    train(net, engine, "a")
    assert means(engine) == pytest.approx({"a": 5.0})


class ReadTwice(nn.Module):
    """A consumer that reads the units at two places, with different values."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor, only: str | None = None) -> list[torch.Tensor]:
        h = torch.relu(self.body(x))
        return [self.head(torch.cat([2.0 * h, h], 1))]


def test_a_consumer_with_two_places_keeps_the_mean_features_of_each_when_units_are_removed() -> None:
    torch.manual_seed(0)
    net = ReadTwice()
    optimizer, engine = build(net, gnt.trace(net, X))
    train(net, engine, *[None] * 5)
    before, stay = engine.groups[0].state.corrected_mean_features, torch.tensor([2, 3])
    net.body.weight = nn.Parameter(net.body.weight.detach()[stay])
    net.body.bias = nn.Parameter(net.body.bias.detach()[stay])
    net.head.weight = nn.Parameter(net.head.weight.detach()[:, torch.cat([stay, stay + 6])])
    optimizer.add_param_group({"params": [net.body.weight, net.body.bias, net.head.weight]})
    engine.rebind(gnt.trace(net, X))
    torch.testing.assert_close(engine.groups[0].state.corrected_mean_features, before[:, stay])


def test_a_head_that_is_replaced_under_its_name_keeps_the_mean_features() -> None:
    torch.manual_seed(0)
    net = Heads(a=5.0, b=-2.0)
    optimizer, engine = build(net, gnt.trace(net, X))
    train(net, engine, *[None] * 5)
    net.heads["b"] = nn.Linear(6, 3)
    optimizer.add_param_group({"params": net.heads["b"].parameters()})
    engine.rebind(gnt.trace(net, X))
    assert means(engine) == pytest.approx({"a": 5.0, "b": -2.0})
