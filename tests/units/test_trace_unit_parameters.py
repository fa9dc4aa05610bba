"""Modules with a weight and a bias for each unit, such as MobileBERT's NoNorm."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.units.tracing.group_checks import reasons, summary
from tests.units.tracing.soundness import sound_groups


class Affine(nn.Module):
    """A given function of the input, a weight and a bias."""

    def __init__(self, function=lambda x, weight, bias: x * weight + bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.function = function

    def forward(self, x):
        return self.function(x, self.weight, self.bias)


def _net(scale):
    return nn.Sequential(nn.Linear(4, 6), scale, nn.GELU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def test_the_entries_of_a_unit_are_reset_with_it():
    net = _net(Affine())
    groups = sound_groups(net, torch.randn(3, 7, 4))
    assert summary(groups)["0"] == "6 gelu: 0 > 1 > 3"
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    engine = gnt.GnT(groups, optimizer, replacement_rate=0, maturity_threshold=5)
    with torch.no_grad():
        net[1].weight.fill_(3.0)
        net[1].bias.fill_(2.0)
    engine.replace([[1], []])
    assert net[1].weight.tolist() == [3, 1, 3, 3, 3, 3]
    assert net[1].bias.tolist() == [2, 0, 2, 2, 2, 2]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, weight, bias: x * weight,
        lambda x, weight, bias: x * weight - bias,
        lambda x, weight, bias: x + weight * bias,
        lambda x, weight, bias: (x + bias) * weight,
        lambda x, weight, bias: F.relu(x * weight) + bias,
        lambda x, weight, bias: x * weight + bias + weight.sum(),
        lambda x, weight, bias: (x * weight + bias) * bias,
        lambda x, weight, bias: x[..., :1] * weight + bias,
        lambda x, weight, bias: x * weight.flip(0) + bias,
    ],
)
def test_parameters_that_are_used_otherwise_are_refused(function):
    groups = gnt.trace(_net(Affine(function)), torch.randn(3, 4))
    assert list(summary(groups)) == ["3"]
    assert "0" in {name.partition("[")[0] for name in reasons(groups)}


def test_a_module_that_is_called_twice_is_refused():
    scale = Affine()
    net = nn.Sequential(
        nn.Linear(4, 6), scale, nn.ReLU(), nn.Linear(6, 6), scale, nn.ReLU(), nn.Linear(6, 5), *_net(scale)[4:]
    )
    assert list(summary(gnt.trace(net, torch.randn(3, 4)))) == ["6"]
