"""The submodules that the error names if a model as a whole cannot be traced."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt

X = torch.randn(2, 6)


def _mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))


class Branching(nn.Module):
    """A forward that depends on a value, around modules that are called as given."""

    def __init__(self, call=None, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.call = call

    def forward(self, x):
        for child in self.children() if self.call is None else ():
            x = child(x)
        x = x if self.call is None else self.call(self, x)
        return x if x.sum() > 0 else -x


def _named(net, *inputs, **options):
    """The submodules that the error names, with their numbers of groups."""
    with pytest.raises(gnt.TraceError, match="GuardOnDataDependentSymNode") as caught:
        gnt.trace(net, *inputs, **options)
    return {path: int(count) for path, count in re.findall(r"\n  '(.*)': (\d+) groups?, example", str(caught.value))}


class Backbone(nn.Sequential):
    """A small convolutional network."""

    def __init__(self):
        conv = nn.Conv2d(8, 12, 3)
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(12, 6, 1))


def _detect(net, x):
    boxes = net.backbone(x).flatten(2).mT.flatten(0, 1)
    return net.heads["box"](boxes[boxes.sum(1) > -100])


def test_the_parts_of_a_detector_are_named_with_the_inputs_that_they_receive():
    net, images = Branching(_detect, backbone=Backbone(), heads=nn.ModuleDict({"box": _mlp()})), torch.randn(2, 3, 8, 8)
    with pytest.raises(gnt.TraceError) as caught:
        gnt.trace(net, images)
    assert (
        "\nThese submodules can be traced, each with the inputs that it receives in this forward:"
        "\n  'backbone': 2 groups, example inputs of shape (2, 3, 8, 8)"
        "\n  'heads.box': 1 group, example inputs of shape (32, 6)\n"
    ) in str(caught.value)
    assert len(gnt.trace(net.backbone, images)) == 2
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_the_largest_submodules_that_can_be_traced_are_named():
    blocks = nn.Sequential(*(Branching(mlp=_mlp(), norm=nn.LayerNorm(6)) for _ in range(20)))
    assert _named(Branching(blocks=blocks, last=_mlp()), X) == {
        "last": 1,
        **{f"blocks.{number}.mlp": 1 for number in range(9)},  # 12 are tried: the blocks, their first, and these
    }
    shallow = Branching(blocks=Branching(one=Branching(mlp=_mlp())), last=nn.Sequential(_mlp(), _mlp()))
    assert _named(shallow, X) == {"blocks.one.mlp": 1, "last": 3}


def _twice(net, x):
    return net.other(net.part(net.part(x)))


def _inner_layer_called(net, x):
    return net.other(net.part(x) + net.part[1](net.part[0](x)).sum())


def _inner_mlp_called(net, x):
    return net.other(net.part(x) + net.part[0](x))


@pytest.mark.parametrize("call", [_twice, _inner_layer_called, _inner_mlp_called])
def test_submodules_of_which_a_part_is_used_elsewhere_are_not_named(call):
    part = nn.Sequential(_mlp(), _mlp()) if call is _inner_mlp_called else _mlp()
    expected = {"part.1": 1, "other": 1} if call is _inner_mlp_called else {"other": 1}
    assert _named(Branching(call, part=part, other=_mlp()), X) == expected


def test_submodules_that_share_weights_with_others_are_not_named():
    net = Branching(first=_mlp(), second=_mlp(), third=_mlp())
    net.second[0].weight = net.third[0].weight
    assert _named(net, X) == {"first": 1}


def test_parts_are_named_if_one_mode_cannot_be_followed():
    net = Branching(lambda n, x: n.mlp(x) if not n.training else n.mlp(x) if x.sum() > -1e9 else x, mlp=_mlp())
    assert _named(net, X) == _named(net, X, modes="train") == {"mlp": 1}
    assert _named(Branching(layer=nn.Linear(6, 6)), X) == {}
    with pytest.raises(gnt.TraceError, match="None of the submodules that were tried can be traced either"):
        gnt.trace(Branching(part=Branching(mlp=_mlp(), call=lambda n, x: n.mlp[2](n.mlp[0](x)))), X)


class Remembering(nn.Module):
    """Keeps a tensor from forward to forward, as anchor generators of detectors do."""

    def __init__(self):
        super().__init__()
        self.grid, self.mlp = torch.arange(6.0), _mlp()

    def forward(self, x):
        self.grid = self.grid.to(x.dtype) + 0
        x = self.mlp(F.relu(x + self.grid))
        return x if x.sum() > 0 else -x


def test_a_model_that_keeps_tensors_is_restored_before_its_parts_are_tried():
    net = Remembering()
    grid = net.grid
    assert _named(net, X) == {"mlp": 1}
    assert net.grid is grid
