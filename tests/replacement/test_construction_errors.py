"""What is refused when something is built: layers that cannot be walked, and settings out of range."""

from __future__ import annotations

import re

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
    """A linear layer with more to a unit than its row: gnt would leave the rest as it was."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out)
        self.sigma = nn.Parameter(torch.ones(fan_out, fan_in))


class Standardised(nn.Conv2d):
    """What it computes with is not its weight: columns of zeros are not zeros to it."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class ChannelNorm(nn.LayerNorm):
    """Known by its kind to norm within channels; but it norms over them."""

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
    """Tied in a way that no list of its layers shows."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.layers = mlp(4, 8, 2)
        if part == "decoder":
            self.decoder = nn.Linear(8, 4)
            self.decoder.weight = nn.Parameter(self.layers[0].weight.data.t())
        else:
            self.shared = self.layers[2].weight


def hidden(*between, reads: int = 8, producer: nn.Module | None = None) -> list:
    return [producer or nn.Linear(4, 8), *between, nn.Linear(reads, 2)]


def conv(*between, reads: int = 8) -> list:
    return [nn.Conv2d(1, 8, 3), *between, nn.Conv2d(reads, 2, 1)]


def changed(change, net: nn.Module | None = None) -> nn.Module:
    net = net or nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    change(net)
    return net


def tied() -> nn.Module:
    return changed(lambda net: setattr(net[4], "weight", net[2].weight), mlp(4, 5, 5, 5, 2))


def twice(module: nn.Module) -> list:
    return [module, nn.ReLU(), module, nn.ReLU(), nn.Linear(4, 2)]


NOT_WALKED = {
    # units that mix on the way to their consumer
    "softmax": (lambda: hidden(nn.Softmax(1)), rf"Softmax \('1'\) after '0' cannot be walked: {ALONE}"),
    "glu": (lambda: hidden(nn.GLU(), reads=4), rf"GLU \('1'\) after '0' .* {RESIZED}"),
    "local response": (lambda: conv(nn.LocalResponseNorm(2)), rf"LocalResponseNorm \('1'\) .* {ALONE}"),
    "softmax2d": (lambda: conv(nn.Softmax2d()), rf"Softmax2d \('1'\) .* {ALONE}"),
    "pixel shuffle": (lambda: conv(nn.PixelShuffle(2), reads=2), rf"PixelShuffle \('1'\) .* {RESIZED}"),
    "channel shuffle": (lambda: conv(nn.ChannelShuffle(2)), rf"ChannelShuffle \('1'\) .* {ALONE}"),
    "unflatten": (lambda: hidden(nn.Unflatten(1, (2, 4)), reads=4), rf"Unflatten \('1'\) .* {ALONE}"),
    "some units": (lambda: hidden(lambda x: torch.cat([x[:, :4], x[:, 4:].softmax(1)], 1)), ALONE),
    "a late unit": (lambda: hidden(lambda x: torch.cat([x[:, :1] * x[:, 7:], x[:, 1:]], 1)), ALONE),
    "moved units": (lambda: hidden(lambda x: torch.cat([x[:, :3], x[:, 3:].flip(1)], 1)), ALONE),
    "flatten all": (lambda: conv(nn.Flatten(0)), r"Flatten \('1'\) .* only Flatten\(1, -1\)"),
    "pool over units": (lambda: hidden(nn.MaxPool1d(2), reads=4), r"MaxPool1d \('1'\) .* on flat features"),
    # a pool of more dimensions reads (N, C, L) as one image of N channels
    "pool of 2d after 1d": (
        lambda: hidden(nn.MaxPool2d(2), nn.Flatten(), reads=32, producer=nn.Conv1d(3, 8, 3)),
        r"MaxPool2d \('1'\) after '0'",
    ),
    "pad of 2d after 1d": (
        lambda: hidden(nn.ReflectionPad2d(1), nn.Flatten(), reads=80, producer=nn.Conv1d(3, 8, 3)),
        r"ReflectionPad2d \('1'\) after '0'",
    ),
    # modules whose parameters gnt does not know
    "rnn": (lambda: hidden(nn.RNN(8, 8)), rf"RNN \('1'\) after '0' .* {OWN}"),
    "lstm": (lambda: hidden(nn.LSTM(8, 8)), rf"LSTM \('1'\) .* {OWN}"),
    "embedding": (lambda: hidden(nn.Embedding(8, 8)), rf"Embedding \('1'\) .* {OWN}"),
    "transposed": (lambda: conv(nn.ConvTranspose2d(8, 8, 3)), rf"ConvTranspose2d \('1'\) .* {OWN}"),
    "attention": (lambda: hidden(nn.MultiheadAttention(8, 2)), rf"MultiheadAttention \('1'\) .* {OWN}"),
    "custom": (lambda: hidden(nn.ReLU(), Gate()), rf"Gate \('2'\) after '0' .* {OWN}"),
    "linear with more": (lambda: hidden(nn.ReLU(), producer=Noisy(4, 8)), "'0' .*sigma"),
    # known modules with a forward of their own
    "standardised": (lambda: [nn.Conv2d(1, 8, 3), nn.ReLU(), Standardised(8, 2, 3)], "'2' .Standardised."),
    "channel norm": (lambda: conv(nn.ReLU(), ChannelNorm(8)), r"ChannelNorm \('2'\) after '0'"),
    "residual": (lambda: [nn.Linear(4, 8), Residual(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 2)], "'1' .Residual."),
    "prelu": (lambda: hidden(nn.PReLU(4)), r"PReLU \('1'\) .* size 4 does not fit 8 units"),
    # sizes
    "linear": (lambda: hidden(nn.ReLU(), reads=9), r"'2' \(Linear\) reads 9 inputs, which does not fit the 8 units"),
    "conv": (lambda: conv(nn.ReLU(), reads=16), r"'2' \(Conv2d\) reads 16 inputs, .* 8 units of '0' \(Conv2d\)"),
    "conv to linear": (lambda: [nn.Conv2d(1, 8, 3), nn.Linear(20, 2)], r"reads 20 inputs, .* fit the 8 units"),
    "batch norm": (lambda: hidden(nn.BatchNorm1d(7)), r"BatchNorm1d \('1'\) .* size 7 does not fit 8 units"),
    "layer norm": (lambda: hidden(nn.LayerNorm(4)), r"LayerNorm \('1'\) .* size 4 does not fit 8 units"),
    "group norm": (lambda: conv(nn.GroupNorm(2, 16)), r"GroupNorm \('1'\) .* size 16 does not fit 8 units"),
    "conv of flat": (lambda: [nn.Linear(4, 8), nn.Conv2d(8, 2, 1)], r"'1' \(Conv2d\) cannot read the flat features"),
    "conv of flattened": (lambda: conv(nn.Flatten()), r"'2' \(Conv2d\) cannot read the flat features of '0'"),
    "conv of another kind": (
        lambda: [nn.Conv2d(1, 8, 3), nn.Conv1d(8, 2, 3)],
        r"'1' \(Conv1d\) cannot read the features of '0' \(Conv2d\)",
    ),
    # one tensor that belongs to two
    "used twice": (lambda: twice(nn.Linear(4, 4)), "'0' and '2' are one module used twice"),
    "block used twice": (
        lambda: nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU())] * 2, nn.Linear(4, 2)),
        r"'0\.0' and '1\.0' are one module used twice",
    ),
    "norm used twice": (
        lambda: [nn.Linear(4, 4), norm := nn.BatchNorm1d(4), nn.Linear(4, 4), norm, nn.Linear(4, 2)],
        "'1' and '3' are one module used twice",
    ),
    "tied": (tied, "'[24]' and '[24]' share their weight .tied weights."),
    "tied in the model": (lambda: Model("decoder"), r"'layers\.0' and 'decoder' share their weight"),
    "held twice": (lambda: Model("shared"), r"'layers\.2' and '.*' share their"),
    # weights that cannot be made fresh
    "frozen producer": (lambda: changed(lambda n: n[0].requires_grad_(False)), r"'0' \(Linear\) is frozen"),
    "frozen consumer": (lambda: changed(lambda n: n[3].requires_grad_(False)), r"'3' \(Linear\) is frozen"),
    "weight norm": (lambda: changed(lambda n: parametrizations.weight_norm(n[0])), r"'0' .* is parametrized"),
    "spectral norm": (lambda: changed(lambda n: parametrizations.spectral_norm(n[3])), r"'3' .* is parametrized"),
    "parametrized bias": (
        lambda: changed(lambda n: parametrize.register_parametrization(n[0], "bias", nn.Identity())),
        r"bias of '0' .* parametrized",
    ),
    "parametrized norm": (
        lambda: changed(lambda n: parametrize.register_parametrization(n[1], "weight", nn.Identity())),
        r"'1'.* parametrized",
    ),
    "complex": (lambda: hidden(producer=nn.Linear(4, 8, dtype=torch.complex64)), "the weight of '0' .* is complex"),
    # lists that lack something
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


@pytest.mark.parametrize(("build", "message"), NOT_WALKED.values(), ids=NOT_WALKED)
def test_layers_that_cannot_be_walked_are_refused_by_name(build, message):
    layers = build()
    with pytest.raises(WalkError, match=message):
        gnt.GnT(layers, activation="relu")


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: hidden(producer=nn.LazyLinear(8)), "'0' .LazyLinear. is lazy"),
        (lambda: [nn.Linear(4, 8), nn.ReLU(), nn.LazyLinear(2)], "'2' .LazyLinear. is lazy"),
        (lambda: conv(nn.LazyBatchNorm2d()), r"LazyBatchNorm2d \('1'\) .* is lazy"),
    ],
)
def test_lazy_modules_are_refused_until_they_have_run(build, name):
    layers = build()
    with pytest.raises(WalkError, match=f"{name}.* run one forward before"):
        gnt.GnT(layers)
    net = nn.Sequential(*layers)
    net(torch.ones(2, 1, 4, 4) if isinstance(layers[0], nn.Conv2d) else torch.ones(2, 4))
    assert len(gnt.GnT(net).groups) == 1


NAN = float("nan")
SETTINGS = [
    *(({"replacement_rate": v}, ValueError, f"replacement_rate must be a number in [0, 1], got {v!r}")
      for v in (-0.1, 1.1, NAN, float("inf"), True, "0.1", None, 10**400)),
    *(({"maturity_threshold": v}, ValueError, f"maturity_threshold must be an integer >= 0, in updates, got {v!r}")
      for v in (-1, 1.5, 100.0, NAN, True, "100", None)),
    *(({"decay_rate": v}, ValueError, f"decay_rate must be a number in [0, 1), got {v!r}")
      for v in (-0.1, 1.0, 1, NAN, False, "0.9", None)),
    ({"utility": "contributions"}, ValueError,
     "utility must be one of contribution, weight, adaptation, zero_contribution, adaptable_contribution, "
     "feature_by_input, random"),
    ({"utility": "contributions"}, ValueError, "got 'contributions'; did you mean 'contribution'?"),
    ({"utility": None}, ValueError, "got None"),
    ({"init": "he"}, ValueError, "init must be one of default, xavier, lecun, kaiming, got 'he'"),
    ({"activation": "rellu"}, ValueError, "unknown activation 'rellu'; known are celu, elu, gelu, hardsigmoid"),
    ({"generator": 0}, TypeError, "generator must be a torch.Generator or None, got int"),
    ({"optimizer": "sgd"}, TypeError, "optimizer must be a torch.optim.Optimizer or None, got str"),
    ({"process_group": True}, TypeError, "process_group must be a torch process group, None or False, got True"),
    ({"process_group": "nccl"}, TypeError, "process_group must be a torch process group, None or False, got 'nccl'"),
    ({"process_group": 0}, TypeError, "process_group must be a torch process group, None or False, got 0"),
    ({"record": "no"}, TypeError, "record must be True or False, got 'no'"),
    ({"layers": "net"}, TypeError, "got str"),
    ({"layers": 5}, TypeError, "or a model with .layers, got int"),
    ({"layers": [nn.Linear(2, 2), 3]}, TypeError, "layer '1' must be a module or a function, got int"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "error", "message"), SETTINGS)
def test_settings_out_of_range_are_refused_and_nothing_is_hooked(settings, error, message):
    net = mlp()
    before = torch.get_rng_state()
    with pytest.raises(error, match=re.escape(message)):
        gnt.GnT(**{"layers": net, **settings})
    assert not any(module._forward_pre_hooks for module in net)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("init", ["kaiming", "xavier"])
def test_an_init_that_needs_a_gain_asks_for_the_activation(init):
    layers = [nn.Linear(4, 8), nn.Linear(8, 2)]
    with pytest.raises(ValueError, match=f"init '{init}' needs the gain of .* group '0', but no activation is seen"):
        gnt.GnT(layers, init=init)
    unknown = [nn.Linear(4, 8), nn.LogSigmoid(), nn.Linear(8, 2)]
    with pytest.raises(ValueError, match=r"activation 'LogSigmoid' has no known gain: pass activation=NAME"):
        gnt.GnT(unknown, init=init)
    gnt.GnT(layers, init=init, activation="relu")
    gnt.GnT(unknown, init="default")
