"""Subclasses of layers: taken if their forward is the plain operation in the graph, refused otherwise."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from tests.units.tracing.group_checks import reasons, summary
from tests.units.tracing.soundness import sound_groups


class FunctionLinear(nn.Linear):
    def forward(self, input):
        return F.linear(input, self.weight, self.bias)


class CastLinear(nn.Linear):
    """As in timm: cast to the dtype of the input."""

    def forward(self, input):
        return F.linear(
            input, self.weight.to(input.dtype), self.bias.to(input.dtype) if self.bias is not None else None
        )


class ProductLinear(nn.Linear):
    """As in Falcon: a product, to which the bias is added."""

    def forward(self, input):
        product = input @ self.weight.T
        return product if self.bias is None else product + self.bias


class FlatLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


class SamePadded(nn.Conv2d):
    """As in timm: padding computed from the size of the input."""

    def forward(self, x):
        size = self.kernel_size[0] - 1
        return F.conv2d(F.pad(x, (0, size, 0, size)), self.weight, self.bias, self.stride)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Activated(nn.Linear):
    def forward(self, x):
        return super().forward(F.relu(x))


class Second(nn.Linear):
    def forward(self, other, x):
        return super().forward(x)


class Flipped(nn.Linear):
    def forward(self, x):
        return super().forward(x.flip(-1))


class Reflected(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1), mode="reflect"))


class Standardized(nn.Conv2d):
    """As in BiT: each filter is normalized."""

    def forward(self, x):
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / variance.sqrt(), self.bias)


def net_of(layer):
    convolution = issubclass(getattr(layer, "func", layer), nn.Conv2d)
    sizes = (3,) if convolution else ()
    return nn.Sequential(layer(4, 6, *sizes), nn.ReLU(), layer(6, 5, *sizes), nn.Tanh(), layer(5, 3, *sizes))


IMAGES, TOKENS = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 4)
GROUPS = {"0": "6 relu: 0 > 2", "2": "5 tanh: 2 > 4"}
PLAIN = [
    FunctionLinear, CastLinear, functools.partial(CastLinear, bias=False), ProductLinear,
    functools.partial(ProductLinear, bias=False), FlatLinear, SamePadded,
]  # fmt: skip


@pytest.mark.parametrize("layer", PLAIN)
def test_a_subclass_with_a_plain_forward_is_taken(layer):
    net = net_of(layer)
    x = IMAGES if isinstance(net[0], nn.Conv2d) else TOKENS
    assert summary(gnt.trace(net, x)) == GROUPS
    if isinstance(net[0], nn.Conv2d):
        return  # pads with zeros, so that means are kept at interior positions only
    sound_groups(net, x)


@pytest.mark.parametrize("layer", [Doubled, Activated, Flipped, Reflected])
def test_a_subclass_that_computes_something_else_is_refused(layer):
    net = net_of(layer)
    with pytest.raises(gnt.TraceError, match="0: 6 units, it has a custom forward"):
        gnt.trace(net, IMAGES if isinstance(net[0], nn.Conv2d) else TOKENS)


def test_a_layer_of_several_arguments_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), Second(6, 2)

        def forward(self, x):
            return self.b(x, F.relu(self.a(x)))

    with pytest.raises(gnt.TraceError, match="read by 'b', which has a custom forward"):
        gnt.trace(Net(), TOKENS)


def test_a_forward_replaced_on_one_layer_counts():
    net = net_of(nn.Linear)
    net[2].forward = lambda x: F.linear(F.relu(x), net[2].weight, net[2].bias)
    with pytest.raises(gnt.TraceError, match="read by '2', which has a custom forward"):
        gnt.trace(net, TOKENS)
    net[2].forward = lambda input: F.linear(input, net[2].weight, net[2].bias)
    assert summary(gnt.trace(net, TOKENS)) == GROUPS


def test_an_argument_passed_by_name_is_recorded():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), FlatLinear(6, 2)

        def forward(self, x):
            return self.b(x=F.relu(self.a(x)))

    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = gnt.GnT(gnt.trace(net, TOKENS), optimizer)
    net(TOKENS).sum().backward()
    optimizer.step()
    engine.step()
    assert engine.groups[0].state.mean_feature.any()


def test_standardized_weights_are_refused_by_the_reason():
    net = nn.Sequential(net_of(Standardized), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    found = reasons(gnt.trace(net, IMAGES))
    for name in ("0.0", "0.2", "0.4"):
        assert "columns of zeros would not stay zero" in found[name]
