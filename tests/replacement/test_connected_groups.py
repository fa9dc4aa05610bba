"""Units and units of their consumers replaced together, in whatever order the groups are."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnt
from gnt.replacement._kernel_replacement import KernelTasks
from tests.helpers.gated_units import Gated
from tests.helpers.small_runs import assert_same


class Cycle(nn.Module):
    """Units that are read by a layer whose units are read by their gate."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.gate, self.out = (nn.Linear(*n) for n in ((3, 4), (4, 5), (5, 4), (4, 2)))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.low(x))
        return self.out(h * torch.sigmoid(self.gate(torch.relu(self.high(h)))))


def build(make: type[nn.Module], **settings: Any) -> tuple[nn.Module, gnt.GnT]:
    torch.manual_seed(0)
    net = make().double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    settings = {"replacement_rate": 0.0, "generator": generator, **settings}
    engine = gnt.GnT(gnt.trace(net, x), optimizer, **settings)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        engine.step()
    return net, engine


@pytest.mark.parametrize("make", [Gated, Cycle])
def test_the_weight_between_two_replaced_units_is_the_new_one_of_the_consumer(make: type[nn.Module]) -> None:
    net, engine = build(make)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    groups, units = engine.groups, [torch.tensor([1, 2])] * len(engine.groups)
    means = [group.state.corrected_mean_features[0] for group in groups]
    fresh = [[torch.randn(2, *slot.rest, dtype=torch.float64) for slot in group.incoming] for group in groups]
    engine.replace(units, [each if len(each) > 1 else each[0] for each in fresh])
    for group, weights in zip(groups, fresh, strict=True):
        for slot, rows in zip(group.incoming, weights, strict=True):
            assert torch.equal(slot.weight[1:3], rows)
            assert (slot.bias[1:3] == 0).all()
    for group, mean in zip(groups, means, strict=True):
        for slot in group.outgoing:
            kept = [k for k in range(len(slot.weight)) if k not in (1, 2) or slot.name == "out"]
            assert (slot.weight[kept][:, 1:3] == 0).all()
            moved = before[f"{slot.name}.weight"][:, 1:3] @ mean[1:3]
            if len(group.tap_numbers) == 1:
                torch.testing.assert_close(slot.bias[kept], (before[f"{slot.name}.bias"] + moved)[kept])


@pytest.mark.parametrize("make", [Gated, Cycle])
@pytest.mark.parametrize("transfer", [True, False])
def test_the_kernel_does_the_same_as_torch_operations(
    make: type[nn.Module], transfer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    call = KernelTasks._call
    monkeypatch.setattr(KernelTasks, "_call", lambda *of, **more: (calls.append(1), call(*of, **more)))
    states = []
    for by_kernel in (True, False):
        net, engine = build(make, bias_transfer=transfer)
        if not by_kernel:
            monkeypatch.setattr(engine, "_kernels", lambda: None)
        engine.replace([torch.tensor([2])] * len(engine.groups))
        states.append([net.state_dict(), engine.state_dict()["groups"], engine.optimizer.state_dict()])
        # units with several taps are left to torch operations
        assert bool(calls) == (by_kernel and make is Gated)
        calls.clear()
    assert_same(*states)
    assert (states[0][0]["high.weight"][2] != 0).all()


def test_soft_replacement_moves_the_weights_between_units_towards_the_new_ones_of_the_consumer() -> None:
    nets = []
    for order in (slice(None), slice(None, None, -1)):
        torch.manual_seed(0)
        net = Gated().double()
        x = torch.randn(16, 3, dtype=torch.float64)
        fresh = {name: torch.randn_like(layer.weight) for name, layer in net.named_children()}
        engine = gnt.GnT(
            list(gnt.trace(net, x))[order], maturity_threshold=0,
            init=lambda weight, slot, generator, fresh=fresh: weight.copy_(fresh[slot.name].view_as(weight)),
            soft=gnt.SoftReplacement(rate=1.0, steepness=0.0, period=1),
        )  # fmt: skip
        net(x).square().mean().backward()
        engine.step()
        nets.append(net.state_dict())
    for own, other in itertools.pairwise(nets):
        for name, value in own.items():
            torch.testing.assert_close(value, other[name], msg=name)
