"""Layers that read the same value and whose results are summed: their rows form one unit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.units.tracing.group_checks import reasons, summary
from tests.units.tracing.soundness import sound_groups

IMAGE = torch.randn(2, 3, 6, 6)


class Branches(nn.Module):
    """Convolutions of one input, each with a batch norm, summed before the activation (RepVGG, MobileOne)."""

    def __init__(self, inputs, outputs, kernels=(3, 1), identity=False):
        super().__init__()
        self.conv = nn.ModuleList([nn.Conv2d(inputs, outputs, k, padding=k // 2, bias=False) for k in kernels])
        self.norm = nn.ModuleList([nn.BatchNorm2d(outputs) for _ in kernels])
        self.identity = nn.BatchNorm2d(outputs) if identity else None

    def forward(self, x):
        total = 0
        for conv, norm in zip(self.conv, self.norm, strict=True):
            total += norm(conv(x))
        return F.relu(total if self.identity is None else total + self.identity(x))


def test_summed_branches_are_one_unit_with_several_producers():
    net = nn.Sequential(Branches(3, 5), Branches(5, 6, (3, 3, 1)), nn.Conv2d(6, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 1))
    groups = sound_groups(net, IMAGE)
    second = "1.conv.0 1.conv.1 1.conv.2"
    assert summary(groups) == {
        "0.conv.0": f"5 relu: 0.conv.0 0.conv.1 > 0.norm.0 0.norm.1 > {second}",
        "1.conv.0": f"6 relu: {second} > 1.norm.0 1.norm.1 1.norm.2 > 2",
        "2": "4 silu: 2 > 4",
    }
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    engine = gnt.GnT(groups, optimizer, replacement_rate=0.5, maturity_threshold=0, init="kaiming").attach()
    for _ in range(3):
        optimizer.zero_grad()
        net(IMAGE.double()).sum().backward()
        optimizer.step()
    assert all(row.replaced for row in engine.report().groups)


def test_branches_beside_an_identity_are_a_residual_stream():
    net = nn.Sequential(
        Branches(3, 5), Branches(5, 5, identity=True), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    groups = sound_groups(net, IMAGE)
    assert list(summary(groups)) == ["2"]
    for name in ("0.conv.0", "0.conv.1", "1.conv.0", "1.conv.1"):
        assert "a residual stream" in reasons(groups)[name]


class Sum(nn.Module):
    """Three layers and a given combination of them."""

    def __init__(self, combine):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 6)
        self.out, self.combine = nn.Linear(6, 2), combine

    def forward(self, x):
        return self.out(self.combine(self, x))


def test_summed_linear_layers_share_the_activation_of_their_sum():
    assert summary(sound_groups(Sum(lambda n, x: F.gelu(n.a(x) + n.b(x))), torch.randn(3, 4))) == {
        "a": "6 gelu: a b > out"
    }
    assert summary(sound_groups(Sum(lambda n, x: n.a(x) + n.b(x)), torch.randn(3, 4))) == {"a": "6 identity: a b > out"}


@pytest.mark.parametrize(
    "combine",
    [
        lambda n, x: F.relu(n.a(x)) + n.b(x),
        lambda n, x: n.a(x) - n.b(x),
        lambda n, x: torch.add(n.a(x), n.b(x), alpha=2),
        lambda n, x: n.a(x) + n.b(2 * x),
        lambda n, x: n.a(x) + n.b(x).roll(1, 1),
        lambda n, x: n.a(x) + n.b(x)[:1],
        lambda n, x: n.a(x) + n.b(x) * torch.randn(6),
        lambda n, x: (lambda a: F.relu(a + n.b(x)) + n.c(a))(n.a(x)),
        lambda n, x: n.a(x) + n.c(F.relu(n.a(x))),
    ],
)
def test_other_sums_are_refused(combine):
    with pytest.raises(gnt.TraceError, match=r"  a: 6 units, (its channels are summed|they are combined|it is called)"):
        gnt.trace(Sum(combine), torch.randn(3, 4))
