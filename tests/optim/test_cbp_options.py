"""Options of the CBP optimizers that are not valid: refused at construction, in new groups, and in a step."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

from gnt import GnT
from gnt.optim import CBPSGD, CBPAdam, CBPAdamW
from tests.helpers.small_runs import assert_same, full_state, mlp, train

NAN, INF = float("nan"), float("inf")

INVALID = [
    (CBPSGD, {"lr": INF}, ValueError, "lr must be finite, got inf"),
    (CBPSGD, {"lr": True}, TypeError, "lr must be a number or a tensor of one element, got True"),
    (CBPSGD, {"lr": -0.1}, ValueError, "lr must not be negative, got -0.1"),
    (CBPSGD, {"momentum": NAN}, ValueError, "momentum must not be negative, got nan; allowed is a finite number >= 0"),
    (CBPSGD, {"momentum": "0.9"}, TypeError, "momentum must be a number, got '0.9'"),
    (CBPSGD, {"dampening": NAN}, ValueError, "dampening must be finite, got nan; allowed is a finite number"),
    (CBPSGD, {"weight_decay": INF}, ValueError, "weight_decay must be finite, got inf"),
    (CBPSGD, {"nesterov": "yes"}, TypeError, "nesterov must be True or False, got 'yes'"),
    (CBPSGD, {"nesterov": True}, ValueError, "nesterov=True requires momentum > 0 and dampening 0, got momentum=0"),
    (CBPSGD, {"foreach": "no"}, TypeError, "foreach must be True, False or None, got 'no'"),
    (CBPAdam, {"eps": 0.0}, ValueError, "eps must be greater than 0, got 0.0"),
    (CBPAdam, {"amsgrad": "yes"}, TypeError, "amsgrad must be True or False, got 'yes'"),
    (CBPAdamW, {"weight_decay": True}, TypeError, "weight_decay must be a number, got True"),
]


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize(("kind", "options", "error", "message"), INVALID, ids=str)
def test_invalid_options_are_refused_and_change_nothing(kind, options, error, message, kernels):
    with pytest.raises(error, match=re.escape(message)):
        kind(mlp(), **options)
    net = mlp()
    optimizer = kind(net, 0.01, maturity_threshold=1, replacement_rate=0.5, kernels=kernels)
    train(net, optimizer, None, range(3))
    with pytest.raises(error, match=re.escape(message)):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **options})
    before = copy.deepcopy(full_state(net, optimizer))
    damaged = copy.deepcopy(optimizer.state_dict())
    damaged["param_groups"][0].update(options)
    with pytest.raises(error, match=f"parameter group 0 of the loaded state_dict: {re.escape(message)}"):
        optimizer.load_state_dict(damaged)
    valid = dict(optimizer.param_groups[0])
    optimizer.param_groups[0].update(options)
    with pytest.raises(error, match=re.escape(message)):
        optimizer.step()
    optimizer.param_groups[0].update(valid)
    assert_same(full_state(net, optimizer), before)
    train(net, optimizer, None, range(3, 5))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
def test_an_optimizer_without_eps_is_refused_before_units_are_replaced(kind):
    net = mlp()
    with pytest.raises(ValueError, match=f"{kind.__name__} has eps=0.0; it must be greater than 0"):
        GnT(net, kind(net.parameters(), eps=0.0))
    engine = GnT(net, kind(net.parameters()))
    engine.optimizer.param_groups[0]["eps"] = 0.0
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="must be greater than 0"):
        engine.replace([torch.tensor([0]) for _ in engine.groups])
    assert_same(net.state_dict(), before)
