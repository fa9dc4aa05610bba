"""CBP optimizers constructed from parameters and layers, as trainers construct optimizers."""

from __future__ import annotations

import pytest
import torch

import gnt
from gnt.optim import CBPSGD, CBPAdamW
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, full_state, mlp, replaced, train


def seeded_generator():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("kind", [CBPSGD, CBPAdamW])
@pytest.mark.parametrize("given", ["generator", "list", "groups"])
@pytest.mark.parametrize("layers", [lambda net: net, list, gnt.walk])
def test_parameters_with_layers_equal_the_network(kind, given, layers):
    net, other = mlp(), mlp()
    params = {"generator": other.parameters(), "list": list(other.parameters())}
    params["groups"] = [{"params": list(other.parameters())}]
    mine = kind(net, 0.01, generator=seeded_generator(), **FREQUENT_REPLACEMENT)
    theirs = kind(params[given], 0.01, layers=layers(other), generator=seeded_generator(), **FREQUENT_REPLACEMENT)
    train(net, mine, None, range(10))
    train(other, theirs, None, range(10))
    assert_same(full_state(net, mine), full_state(other, theirs))
    assert min(replaced(mine.gnt)) > 0


def test_options_of_parameter_groups_are_kept():
    net = mlp()
    weights = {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 0.3}
    biases = {"params": [p for p in net.parameters() if p.ndim == 1], "lr": 0.5}
    optimizer = CBPAdamW([weights, biases], lr=0.01, layers=net)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.01, 0.3), (0.5, 0.01)]


def test_invalid_combinations_are_refused():
    net = mlp()
    with pytest.raises(TypeError, match=r"or CBPSGD\(parameters, lr=\.\.\., layers=\.\.\.\)"):
        CBPSGD(net.parameters())
    with pytest.raises(TypeError, match="params was given in addition to parameters as the first argument, a list"):
        CBPSGD(list(net.parameters()), layers=net, params=net.parameters())
    with pytest.raises(ValueError, match=r"does not hold 4\.weight"):
        CBPSGD(net[:4].parameters(), layers=net)
