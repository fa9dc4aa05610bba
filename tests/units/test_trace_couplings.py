"""Norms between producer and consumers that couple units are shown, with and without parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.units.tracing.group_checks import summary
from tests.units.tracing.soundness import sound_groups


class Net(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.last, self.norm = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1), norm

    def forward(self, x):
        return self.last(F.relu(self.norm(self.first(x))))


class ChannelsLast(nn.Module):
    """A norm over the last dimension, applied to channels."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.movedim(1, -1)).movedim(-1, 1)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


MODULES = {
    "LayerNorm": (lambda **affine: nn.LayerNorm([6, 4, 4], **affine), "elementwise_affine"),
    "GroupNorm": (lambda **affine: nn.GroupNorm(2, 6, **affine), "affine"),
    "RMSNorm": (lambda **affine: nn.RMSNorm([6, 4, 4], **affine), "elementwise_affine"),
}
FUNCTIONS = {
    "'layer_norm' in 'norm'": lambda x: F.layer_norm(x, [6, 4, 4]),
    "'group_norm' in 'norm'": lambda x: F.group_norm(x, 1),
    "'rms_norm' in 'norm'": lambda x: F.rms_norm(x, [6, 4, 4]),
}
SEPARATE = {
    "batch norm": nn.BatchNorm2d(6),
    "instance norm": nn.InstanceNorm2d(6, affine=True),
    "one channel in each group": nn.GroupNorm(6, 6),
    "norm within each channel": nn.LayerNorm([4, 4]),
}
X = torch.randn(2, 3, 4, 4)
NOTE = "replacing a unit changes the normalized values of the others"


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_that_couples_units_is_shown(kind, affine):
    build, key = MODULES[kind]
    net = Net(build(**{key: affine}))
    (group,) = sound_groups(net, X, gated=None)
    assert group.couplings == (f"norm {kind}",)
    assert f"  coupled   norm {kind}: {NOTE}" in str(group).splitlines()
    if not affine:
        return
    layers = [net.first, net.norm, nn.ReLU(), net.last]
    assert gnt.walk(layers)[0].couplings == (f"1 {kind}",)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_functional_norm_is_shown(name):
    groups = gnt.trace(Net(Function(FUNCTIONS[name])), X)
    assert summary(groups) == {"first": "6 relu: first > last"}
    assert groups[0].couplings == (name,)


@pytest.mark.parametrize("kind", SEPARATE)
def test_norms_that_keep_units_separate_are_not_shown(kind):
    (group,) = gnt.trace(Net(SEPARATE[kind]), X)
    assert not group.couplings
    assert "coupled" not in str(group)


def test_every_norm_is_shown_for_the_units_that_it_couples():
    net = Net(nn.Sequential(ChannelsLast(nn.LayerNorm(6)), nn.BatchNorm2d(6), nn.GroupNorm(1, 6, affine=False)))
    (group,) = gnt.trace(net, X)
    assert group.couplings == ("norm.0.inner LayerNorm", "norm.2 GroupNorm")
