"""Layers for which `GnT` cannot be constructed: each is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import gnt
from gnt.units import WalkError
from tests.helpers.small_runs import mlp

ALONE = "it does not act on each unit alone"
RESIZED = "it makes more or fewer features than there are units"
OWN = "it has parameters of its own"


class Noisy(nn.Linear):
    """A linear layer with additional parameters per unit, which a replacement would not reinitialize."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out)
        self.sigma = nn.Parameter(torch.ones(fan_out, fan_in))


class Standardised(nn.Conv2d):
    """A convolution that transforms its weight, so columns of zeros have an effect."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class ChannelNorm(nn.LayerNorm):
    """A subclass of a known norm that normalizes over another dimension."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(8))


class Model(nn.Module):
    """A model that ties weights outside its list of layers."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.layers = mlp(4, 8, 2)
        if part == "decoder":
            self.decoder = nn.Linear(8, 4)
            self.decoder.weight = nn.Parameter(self.layers[0].weight.data.t())
        else:
            self.shared = self.layers[2].weight


def linear_layers(*between, consumer_inputs: int = 8, producer: nn.Module | None = None) -> list:
    return [producer or nn.Linear(4, 8), *between, nn.Linear(consumer_inputs, 2)]


def conv_layers(*between, consumer_inputs: int = 8) -> list:
    return [nn.Conv2d(1, 8, 3), *between, nn.Conv2d(consumer_inputs, 2, 1)]


def modified(change, net: nn.Module | None = None) -> nn.Module:
    net = net or nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    change(net)
    return net


def tied_weights() -> nn.Module:
    return modified(lambda net: setattr(net[4], "weight", net[2].weight), mlp(4, 5, 5, 5, 2))


def used_twice(module: nn.Module) -> list:
    return [module, nn.ReLU(), module, nn.ReLU(), nn.Linear(4, 2)]


REFUSED_LAYERS = {
    # layers that mix units between producer and consumer
    "softmax": (lambda: linear_layers(nn.Softmax(1)), rf"Softmax \('1'\) after '0' cannot be walked: {ALONE}"),
    "glu": (lambda: linear_layers(nn.GLU(), consumer_inputs=4), rf"GLU \('1'\) after '0' .* {RESIZED}"),
    "local response": (lambda: conv_layers(nn.LocalResponseNorm(2)), rf"LocalResponseNorm \('1'\) .* {ALONE}"),
    "softmax2d": (lambda: conv_layers(nn.Softmax2d()), rf"Softmax2d \('1'\) .* {ALONE}"),
    "pixel shuffle": (
        lambda: conv_layers(nn.PixelShuffle(2), consumer_inputs=2),
        rf"PixelShuffle \('1'\) .* {RESIZED}",
    ),
    "channel shuffle": (lambda: conv_layers(nn.ChannelShuffle(2)), rf"ChannelShuffle \('1'\) .* {ALONE}"),
    "unflatten": (lambda: linear_layers(nn.Unflatten(1, (2, 4)), consumer_inputs=4), rf"Unflatten \('1'\) .* {ALONE}"),
    "some units": (lambda: linear_layers(lambda x: torch.cat([x[:, :4], x[:, 4:].softmax(1)], 1)), ALONE),
    "last unit": (lambda: linear_layers(lambda x: torch.cat([x[:, :1] * x[:, 7:], x[:, 1:]], 1)), ALONE),
    "moved units": (lambda: linear_layers(lambda x: torch.cat([x[:, :3], x[:, 3:].flip(1)], 1)), ALONE),
    "flatten all": (lambda: conv_layers(nn.Flatten(0)), r"Flatten \('1'\) .* only Flatten\(1, -1\)"),
    "pool over units": (
        lambda: linear_layers(nn.MaxPool1d(2), consumer_inputs=4),
        r"MaxPool1d \('1'\) .* on flat features",
    ),
    # a 2-d pool treats (N, C, L) as one image with N channels
    "pool of 2d after 1d": (
        lambda: linear_layers(nn.MaxPool2d(2), nn.Flatten(), consumer_inputs=32, producer=nn.Conv1d(3, 8, 3)),
        r"MaxPool2d \('1'\) after '0'",
    ),
    "pad of 2d after 1d": (
        lambda: linear_layers(nn.ReflectionPad2d(1), nn.Flatten(), consumer_inputs=80, producer=nn.Conv1d(3, 8, 3)),
        r"ReflectionPad2d \('1'\) after '0'",
    ),
    # modules with parameters unknown to gnt
    "rnn": (lambda: linear_layers(nn.RNN(8, 8)), rf"RNN \('1'\) after '0' .* {OWN}"),
    "lstm": (lambda: linear_layers(nn.LSTM(8, 8)), rf"LSTM \('1'\) .* {OWN}"),
    "embedding": (lambda: linear_layers(nn.Embedding(8, 8)), rf"Embedding \('1'\) .* {OWN}"),
    "transposed": (lambda: conv_layers(nn.ConvTranspose2d(8, 8, 3)), rf"ConvTranspose2d \('1'\) .* {OWN}"),
    "attention": (lambda: linear_layers(nn.MultiheadAttention(8, 2)), rf"MultiheadAttention \('1'\) .* {OWN}"),
    "custom": (lambda: linear_layers(nn.ReLU(), Gate()), rf"Gate \('2'\) after '0' .* {OWN}"),
    "linear with more parameters": (lambda: linear_layers(nn.ReLU(), producer=Noisy(4, 8)), "'0' .*sigma"),
    # subclasses of known modules that override forward
    "standardised": (lambda: [nn.Conv2d(1, 8, 3), nn.ReLU(), Standardised(8, 2, 3)], "'2' .Standardised."),
    "channel norm": (lambda: conv_layers(nn.ReLU(), ChannelNorm(8)), r"ChannelNorm \('2'\) after '0'"),
    "residual": (lambda: [nn.Linear(4, 8), Residual(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 2)], "'1' .Residual."),
    "prelu": (lambda: linear_layers(nn.PReLU(4)), r"PReLU \('1'\) .* size 4 does not fit 8 units"),
    # sizes
    "linear": (
        lambda: linear_layers(nn.ReLU(), consumer_inputs=9),
        r"'2' \(Linear\) reads 9 inputs, which does not fit the 8 units",
    ),
    "conv": (
        lambda: conv_layers(nn.ReLU(), consumer_inputs=16),
        r"'2' \(Conv2d\) reads 16 inputs, .* 8 units of '0' \(Conv2d\)",
    ),
    "conv to linear": (lambda: [nn.Conv2d(1, 8, 3), nn.Linear(20, 2)], r"reads 20 inputs, .* fit the 8 units"),
    "batch norm": (lambda: linear_layers(nn.BatchNorm1d(7)), r"BatchNorm1d \('1'\) .* size 7 does not fit 8 units"),
    "layer norm": (lambda: linear_layers(nn.LayerNorm(4)), r"LayerNorm \('1'\) .* size 4 does not fit 8 units"),
    "group norm": (lambda: conv_layers(nn.GroupNorm(2, 16)), r"GroupNorm \('1'\) .* size 16 does not fit 8 units"),
    "conv of flat": (lambda: [nn.Linear(4, 8), nn.Conv2d(8, 2, 1)], r"'1' \(Conv2d\) cannot read the flat features"),
    "conv of flattened": (lambda: conv_layers(nn.Flatten()), r"'2' \(Conv2d\) cannot read the flat features of '0'"),
    "conv of other dimensions": (
        lambda: [nn.Conv2d(1, 8, 3), nn.Conv1d(8, 2, 3)],
        r"'1' \(Conv1d\) cannot read the features of '0' \(Conv2d\)",
    ),
    # shared modules and tensors
    "used twice": (lambda: used_twice(nn.Linear(4, 4)), "'0' and '2' are one module used twice"),
    "block used twice": (
        lambda: nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU())] * 2, nn.Linear(4, 2)),
        r"'0\.0' and '1\.0' are one module used twice",
    ),
    "norm used twice": (
        lambda: [nn.Linear(4, 4), norm := nn.BatchNorm1d(4), nn.Linear(4, 4), norm, nn.Linear(4, 2)],
        "'1' and '3' are one module used twice",
    ),
    "tied": (tied_weights, "'[24]' and '[24]' share their weight .tied weights."),
    "tied in the model": (lambda: Model("decoder"), r"'layers\.0' and 'decoder' share their weight"),
    "held twice": (lambda: Model("shared"), r"'layers\.2' and '.*' share their"),
    # weights that cannot be reinitialized
    "frozen producer": (lambda: modified(lambda n: n[0].requires_grad_(False)), r"'0' \(Linear\) is frozen"),
    "frozen consumer": (lambda: modified(lambda n: n[3].requires_grad_(False)), r"'3' \(Linear\) is frozen"),
    "weight norm": (lambda: modified(lambda n: parametrizations.weight_norm(n[0])), r"'0' .* is parametrized"),
    "spectral norm": (lambda: modified(lambda n: parametrizations.spectral_norm(n[3])), r"'3' .* is parametrized"),
    "parametrized bias": (
        lambda: modified(lambda n: parametrize.register_parametrization(n[0], "bias", nn.Identity())),
        r"bias of '0' .* parametrized",
    ),
    "parametrized norm": (
        lambda: modified(lambda n: parametrize.register_parametrization(n[1], "weight", nn.Identity())),
        r"'1'.* parametrized",
    ),
    "complex": (
        lambda: linear_layers(producer=nn.Linear(4, 8, dtype=torch.complex64)),
        "the weight of '0' .* is complex",
    ),
    # incomplete lists
    "no weight layer": (lambda: [nn.ReLU()], r"no Linear or Conv layer among \[ReLU\]"),
    "empty": (nn.Sequential, "no Linear or Conv layer among the empty list"),
    "no hidden layer": (lambda: [nn.ReLU(), nn.Linear(4, 2)], r"no hidden layer: '1' is the only weight layer"),
    "ends in relu": (lambda: mlp(4, 8, 2).append(nn.ReLU()), r"the list ends in ReLU \('3'\), so the units of '2'"),
    "ends in softmax": (lambda: mlp(4, 8, 2).append(nn.Softmax(1)), r"the list ends in Softmax \('3'\)"),
    "ends in log softmax": (lambda: mlp(4, 8, 2).append(nn.LogSoftmax(1)), r"the list ends in LogSoftmax \('3'\)"),
    "ends in a norm": (lambda: mlp(4, 8, 2).append(nn.LayerNorm(2)), r"the list ends in LayerNorm \('3'\)"),
    "one layer": (lambda: nn.Linear(4, 2), "or a model with .layers; Linear has no .layers"),
    "a dict": (lambda: nn.ModuleDict({"a": nn.Linear(4, 2)}), "ModuleDict has no .layers"),
}


@pytest.mark.parametrize(("build", "message"), REFUSED_LAYERS.values(), ids=REFUSED_LAYERS)
def test_layers_that_cannot_be_walked_are_refused_by_name(build, message):
    layers = build()
    with pytest.raises(WalkError, match=message):
        gnt.GnT(layers, activation="relu")


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: linear_layers(producer=nn.LazyLinear(8)), "'0' .LazyLinear. is lazy"),
        (lambda: [nn.Linear(4, 8), nn.ReLU(), nn.LazyLinear(2)], "'2' .LazyLinear. is lazy"),
        (lambda: conv_layers(nn.LazyBatchNorm2d()), r"LazyBatchNorm2d \('1'\) .* is lazy"),
    ],
)
def test_lazy_modules_are_refused_until_they_have_run(build, name):
    layers = build()
    with pytest.raises(WalkError, match=f"{name}.* run one forward before"):
        gnt.GnT(layers)
    net = nn.Sequential(*layers)
    net(torch.ones(2, 1, 4, 4) if isinstance(layers[0], nn.Conv2d) else torch.ones(2, 4))
    assert len(gnt.GnT(net).groups) == 1


class SubtractMean(nn.Module):
    """Subtracts the mean over units in training mode only."""

    def forward(self, x):
        return x - x.mean(1, keepdim=True) if self.training else x


@pytest.mark.parametrize("layer", [SubtractMean(), lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=1e3)])
def test_layers_that_mix_units_only_in_training_or_for_large_inputs_are_refused(layer):
    with pytest.raises(ValueError, match=ALONE.removeprefix("it ")):
        gnt.walk([nn.Linear(4, 6), layer, nn.Linear(6, 2)])


def test_a_network_with_cbp_layers_is_refused():
    first, second = nn.Linear(4, 6), nn.Linear(6, 2)
    net = nn.Sequential(first, nn.ReLU(), gnt.CBPLinear(first, second), second)
    with pytest.raises(ValueError, match="it has its own engine: use CBPLinear/CBPConv or GnT, not both"):
        gnt.ContinualBackprop(net)
