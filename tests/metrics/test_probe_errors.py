"""Errors of `Probe`."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.metrics import Probe
from tests.helpers.small_runs import IMAGE_SHAPE, conv_net, mlp
from tests.metrics.probe_cases import TwoInputs, inputs

NET = mlp(4, 8, 2)
X, Y = inputs(), torch.zeros(32, dtype=torch.int64)
INVALID_ARGUMENTS = {
    "model": (lambda: Probe("net", NET, X), TypeError, "model must be a torch.nn.Module, got str"),
    "lazy": (
        lambda: Probe(nn.Sequential(NET, nn.LazyLinear(2)), gnt.walk(NET), X),
        ValueError,
        "1.weight, 1.bias are lazy: run one forward first",
    ),
    "other model": (lambda: Probe(copy.deepcopy(NET), gnt.walk(NET), X), ValueError, "of this model, got group '0'"),
    "no groups": (lambda: Probe(NET, [], X), ValueError, "no Linear or Conv layer"),
    "groups string": (lambda: Probe(NET, "net", X), TypeError, "groups must be an engine, a list of .* got str"),
    "groups none": (lambda: Probe(NET, None, X), TypeError, "groups must be an engine, a list of .* got NoneType"),
    "one group": (lambda: Probe(NET, gnt.walk(NET)[0], X), TypeError, "a list of unit groups, .* got UnitGroup"),
    "same name": (
        lambda: Probe(nn.ModuleList([NET, other := mlp(4, 8, 2)]), [*gnt.walk(NET), *gnt.walk(other)], X),
        ValueError,
        "groups must have different names, got '0' more than once",
    ),
    "ensemble": (
        lambda: Probe((e := gnt.Ensemble(lambda: mlp(4, 8, 2), [0, 1])).net, e.gnt, X),
        TypeError,
        "model must be one network, got an ensemble's",
    ),
    "its engine": (
        lambda: Probe(NET, gnt.Ensemble(lambda: mlp(4, 8, 2), [0, 1], replacement_rate=0.1).gnt, X),
        TypeError,
        "groups must be those of one network",
    ),
    "x": (lambda: Probe(NET, NET, [1.0]), TypeError, "x must be a tensor, a tuple of inputs or a dict.* got list"),
    "x empty": (lambda: Probe(NET, NET, X[:0]), ValueError, r"x must hold at least one sample, got \(0, 4\)"),
    "x nothing": (lambda: Probe(NET, NET, {}), ValueError, "x must hold at least one sample, got no tensor"),
    "y": (lambda: Probe(NET, NET, X, y=[0]), TypeError, "y must be a torch.Tensor, got list"),
    "y length": (lambda: Probe(NET, NET, X, y=Y[:3]), ValueError, r"each of the 32 samples of x, got shape \(3,\)"),
    "loss": (lambda: Probe(NET, NET, X, y=Y, loss="hinge"), ValueError, "loss must be one of mse, cross_entropy"),
    "loss alone": (lambda: Probe(NET, NET, X, loss="mse"), ValueError, "loss='mse' would be ignored: there are no"),
    "gradient alone": (lambda: Probe(NET, NET, X, gradient=True), ValueError, "gradient=True would be ignored"),
    "every 0": (lambda: Probe(NET, NET, X, every=0), ValueError, "every must be an integer >= 1, got 0"),
    "every 1.5": (lambda: Probe(NET, NET, X, every=1.5), ValueError, "every must be an integer >= 1, got 1.5"),
    "tau": (lambda: Probe(NET, NET, X, tau=-1), ValueError, "tau must be a finite number >= 0, got -1"),
    "ranks": (lambda: Probe(NET, NET, X, ranks=1), TypeError, "ranks must be True or False, got 1"),
    "prefix": (lambda: Probe(NET, NET, X, prefix=None), TypeError, "prefix must be a string, got None"),
    "target": (lambda: Probe(NET, NET, X, y=Y + 2).measure(), ValueError, r"classes in 0\.\.1, got 2\.\.2"),
    "mse": (lambda: Probe(NET, NET, X, y=X[:, 0]).measure(), ValueError, r"for mse, got \(32,\) and \(32, 2\)"),
    "loss of many": (
        lambda: Probe(NET, NET, X, y=X[:, :2], loss=lambda a, b: a - b).measure(),
        ValueError,
        r"loss must return one number for the batch, as a tensor, got shape \(32, 2\)",
    ),
}


@pytest.mark.parametrize("case", INVALID_ARGUMENTS)
def test_invalid_arguments_raise(case):
    call, error, message = INVALID_ARGUMENTS[case]
    with pytest.raises(error, match=message):
        call()


def test_forward_passes_that_cannot_be_measured_raise():
    net = TwoInputs()
    layers = [net.a, F.relu, net.b]
    net.skip = True
    with pytest.raises(
        RuntimeError, match=r"no features of group '0': in evaluation mode .* does not call its consumer '2'"
    ):
        Probe(net, layers, (X, X)).measure()
    net.skip = False
    three = X[None].expand(3, -1, -1)
    assert Probe(net, layers, (X[:3], three[:, 0])).measure()
    conv = conv_net()

    class Sizes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return [self.conv[3](self.conv[:3](part)) for part in (x, x[:, :, 1:, 1:])]

    sizes = Sizes()
    with pytest.raises(
        ValueError, match=r"'3', consumer of group '0', reads a different shape in each call: \(2, 5, 6, 6\)"
    ):
        Probe(sizes, gnt.walk(conv)[:1], inputs(2, *IMAGE_SHAPE)).measure()


def test_invalid_saved_states_raise_and_change_nothing():
    plain, keeping = Probe(NET, NET, X), Probe(NET, NET, X, update=True)
    state = keeping.state_dict()
    cases = (
        (plain, state, "saved with update=True"),
        (keeping, plain.state_dict(), "saved without update=True"),
        (keeping, {**state, "version": 9}, "version 9; this gnt reads version 1"),
        (keeping, {**state, "steps": -1}, "state_dict holds steps -1, which must be an integer >= 0"),
        (keeping, {"steps": 3}, "not one of Probe.state_dict"),
        (keeping, {**state, "steps": 5, "change": {"snapshot": []}}, "same parameters, got 0 and 4 tensors"),
    )
    for probe, wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            probe.load_state_dict(wrong)
    assert plain.steps == keeping.steps == 0
