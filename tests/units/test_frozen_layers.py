"""Units of layers with frozen weights can be measured, and are not replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gnt
from gnt.importance import Importance
from tests.helpers.small_runs import mlp


def frozen_and_trained(layers: int) -> tuple[nn.Sequential, nn.Sequential]:
    nets = mlp(), mlp()
    nets[1].load_state_dict(nets[0].state_dict())
    for parameter in nets[0][:layers].parameters():
        parameter.requires_grad_(False)
    return nets


@pytest.mark.parametrize("layers", [1, 3, 5])
@pytest.mark.parametrize(
    "groups_of",
    [
        lambda net, x: net,
        lambda net, x: gnt.walk(net, frozen=True),
        lambda net, x: gnt.trace(net, x, frozen=True),
    ],
    ids=["layers", "walk", "trace"],
)
def test_measured_as_if_they_were_trained(layers: int, groups_of: Callable[[nn.Module, torch.Tensor], Any]) -> None:
    nets = frozen_and_trained(layers)
    x = torch.randn(16, 4)
    values, metrics = [], []
    for net in nets:
        importance = Importance(groups_of(net, x))
        output = net(x)
        if output.requires_grad:
            output.square().mean().backward()
        importance.update()
        values.append([group.state.utility.clone() for group in importance.groups])
        importance.close()
        metrics.append(gnt.metrics.Probe(net, groups_of(net, x), x).measure())
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
    shared = metrics[0].keys() & metrics[1].keys()
    assert len(values[0]) == 2
    assert {"dead_units/0", "dead_units/2"} <= shared
    assert {key: metrics[0][key] for key in shared} == {key: metrics[1][key] for key in shared}


@pytest.mark.parametrize("kind", [gnt.GnT, gnt.ReDo, gnt.SNR])
def test_not_replaced(kind: Any) -> None:
    net, _ = frozen_and_trained(1)
    x = torch.randn(2, 4)
    for groups in (gnt.walk(net, frozen=True), gnt.trace(net, x, frozen=True)):
        with pytest.raises(ValueError, match="incoming slot '0' of unit group '0': the weight of its Linear is frozen"):
            kind(groups)
    with pytest.raises(ValueError, match=r"the weight of '0' .Linear. is frozen"):
        kind(net)
    assert [group.name for group in kind(gnt.trace(net, x)).groups] == ["2"]


@pytest.mark.parametrize("kind", [gnt.GnT, gnt.ReDo, gnt.SNR])
def test_units_with_a_frozen_depthwise_convolution_are_not_replaced(kind: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    net[2].weight.requires_grad_(False)
    groups = gnt.trace(net, torch.randn(2, 3, 6, 6), frozen=True)
    with pytest.raises(ValueError, match="scales slot '2' of unit group '0': the weight of its Conv2d is frozen"):
        kind(groups)
    Importance(groups).close()
