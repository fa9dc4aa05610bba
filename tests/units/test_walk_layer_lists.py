"""A network given as Sequential, lists, functions, nested, and as incomplete lists trains identically."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import IMAGE_SHAPE, assert_same, conv_net, make_run, replaced, train

LAYER_LISTS = ("Sequential", "ModuleList", "list", "tuple of functions", "nested", "without view", "without activation")


class NetWithLayers(nn.Module):
    """`conv_net` with its layers in the attribute ``layers``, in the given form."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, net = form, conv_net()
        conv1, norm, relu, conv2, _, pool, flatten, fc1, tanh, fc2 = net
        self.run = net
        self.layers: Any = {
            "Sequential": net,
            "ModuleList": nn.ModuleList(net),
            "list": list(net),
            "tuple of functions": (conv1, norm, F.relu, conv2, torch.relu, lambda x: F.max_pool2d(x, 2),
                                   lambda x: x.flatten(1), fc1, torch.tanh, fc2),
            "nested": nn.Sequential(nn.Sequential(conv1, norm, relu), nn.Sequential(conv2, relu, pool),
                                    nn.Sequential(flatten, nn.Sequential(fc1, tanh), fc2)),
            "without view": nn.ModuleList([conv1, norm, relu, conv2, relu, pool, fc1, tanh, fc2]),
            "without activation": nn.ModuleList([conv1, norm, conv2, pool, fc1, fc2]),
        }[form]  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


@pytest.mark.parametrize("opt", ["sgd", "adamgnt"])
@pytest.mark.parametrize("form", LAYER_LISTS)
def test_every_form_of_the_layer_list_trains_identically(form, opt):
    # "lecun" needs no gain, so that all forms draw the same weights whether or not they list activations
    first, second = make_run(conv_net(), opt, init="lecun"), make_run(NetWithLayers(form), opt, init="lecun")
    assert [group.num_units for group in second[2].groups] == [5, 4, 6]
    assert_same(*[train(*each, range(8), *IMAGE_SHAPE) for each in (first, second)])
    assert min(replaced(first[2])) > 0
    assert_same([p.detach() for p in second[0].run.parameters()], [p.detach() for p in first[0].parameters()])
    names = [[group.name for group in gnt.GnT(x, init="lecun").groups] for x in (second[0], second[0].layers)]
    assert names[0] == [f"layers.{name}" for name in names[1]]
