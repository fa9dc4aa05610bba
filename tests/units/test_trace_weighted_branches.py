"""Branches that are summed with weights from a softmax over them (SKNet, ResNeSt): one unit with several producers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.units.tracing.group_checks import reasons, summary
from tests.units.tracing.soundness import sound_groups

IMAGE = torch.randn(2, 3, 5, 5)


def _branch(kernel):
    return nn.Sequential(nn.Conv2d(3, 6, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(6), nn.ReLU())


class SelectiveKernel(nn.Module):
    """SKNet: one gate for all branches, as timm writes it."""

    def __init__(self, kernels=(3, 1), dim=1):
        super().__init__()
        self.paths, self.dim = nn.ModuleList(map(_branch, kernels)), dim
        self.reduce, self.select = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6 * len(kernels), 1)

    def forward(self, x):
        x = torch.stack([path(x) for path in self.paths], 1)
        gate = self.select(F.relu(self.reduce(x.sum(1).mean((2, 3), keepdim=True))))
        gate = gate.view(len(x), len(self.paths), 6, 1, 1).softmax(self.dim)
        return (x * gate).sum(1)


class AddedBranches(nn.Module):
    """SKNet with a gate for each branch and additions; a test may give other weights."""

    def __init__(self, weights=lambda gates: torch.stack(gates, 1).softmax(1).unbind(1)):
        super().__init__()
        self.paths, self.reduce = nn.ModuleList(map(_branch, (3, 1, 1))), nn.Linear(6, 4)
        self.gates, self.weights = nn.ModuleList(nn.Linear(4, 6) for _ in range(3)), weights

    def forward(self, x):
        x = [path(x) for path in self.paths]
        pooled = F.relu(self.reduce((x[0] + x[1] + x[2]).mean((2, 3))))
        weights = self.weights([gate(pooled) for gate in self.gates])
        return sum(branch * weight[..., None, None] for branch, weight in zip(x, weights, strict=True))


class SplitAttention(nn.Module):
    """ResNeSt: branches from one grouped convolution, and a softmax over the radix within each group."""

    def __init__(self, groups=2):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 12, 3, padding=1, groups=2 * groups, bias=False), nn.BatchNorm2d(12)
        self.fc1, self.fc2 = nn.Conv2d(6, 4, 1, groups=groups), nn.Conv2d(4, 12, 1, groups=groups)
        self.groups = groups

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        x = x.reshape(len(x), 2, 6, *x.shape[2:])
        gate = self.fc2(F.relu(self.fc1(x.sum(1).mean((2, 3), keepdim=True))))
        gate = gate.view(len(x), self.groups, 2, -1).transpose(1, 2).softmax(1).reshape(len(x), -1)
        return (x * gate.view(len(x), 2, 6, 1, 1)).sum(1)


def _net(block, inputs=3):
    return nn.Sequential(nn.Conv2d(3, inputs, 1), block, nn.Conv2d(6, 2, 1))


NETS = {
    "SKNet": (
        lambda: _net(SelectiveKernel()),
        "1.paths.0.0",
        "6 relu: 1.paths.0.0 1.paths.1.0 1.select(identity) 1.select+6(identity)"
        " > 1.paths.0.1 1.paths.1.1 > 1.reduce 2",
    ),
    "SKNet with additions": (
        lambda: _net(AddedBranches()),
        "1.paths.0.0",
        "6 relu: 1.paths.0.0 1.paths.1.0 1.paths.2.0 1.gates.0(identity) 1.gates.1(identity) 1.gates.2(identity)"
        " > 1.paths.0.1 1.paths.1.1 1.paths.2.1 > 1.reduce 2",
    ),
    "ResNeSt": (
        lambda: _net(SplitAttention(), 4),
        "1.conv",
        "6 relu: 1.conv 1.conv+6 1.fc2~(identity) 1.fc2~(identity) > 1.norm 1.norm+6 > 1.fc1/2 2",
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_channels_of_all_branches_and_their_gates_are_one_unit(name):
    build, first, expected = NETS[name]
    net = build()
    groups = sound_groups(net, IMAGE)
    assert summary(groups)[first] == expected
    assert list(reasons(groups)) == ["2"]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    engine = gnt.GnT(groups, optimizer, replacement_rate=0.5, maturity_threshold=0).attach()
    for _ in range(3):
        optimizer.zero_grad()
        net(IMAGE.double()).square().sum().backward()
        optimizer.step()
    assert all(row.replaced for row in engine.report().groups)


@pytest.mark.parametrize(
    "block",
    [
        SelectiveKernel(dim=2),
        AddedBranches(lambda gates: torch.stack(gates, 1).softmax(2).unbind(1)),
        AddedBranches(lambda gates: torch.stack(gates, 1).sigmoid().unbind(1)),
        AddedBranches(lambda gates: (lambda a, *b: (a.flip(1), *b))(*torch.stack(gates, 1).softmax(1).unbind(1))),
        AddedBranches(lambda gates: [gates[0].softmax(1), *gates[1:]]),
    ],
)
def test_other_weights_are_refused(block):
    groups = gnt.trace(_net(block), IMAGE)
    assert set(summary(groups)) == {"0", "1.reduce"}
    for name in ("1.paths.0.0", "1.paths.1.0"):
        assert any(reason in reasons(groups)[name] for reason in ("mixed by", "summed with", "multiplied by"))


def test_a_branch_without_layer_is_refused():
    block = AddedBranches()
    block.paths[1] = nn.Identity()
    net = nn.Sequential(nn.Conv2d(3, 6, 1), block, nn.Conv2d(6, 2, 1))
    for path in (block.paths[0][0], block.paths[2][0]):
        path.__init__(6, 6, 1)
    groups = gnt.trace(net, IMAGE)
    assert not set(summary(groups)) & {"0", "1.paths.0.0", "1.paths.2.0"}
