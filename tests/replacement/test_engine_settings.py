"""Settings of `GnT` that are refused at construction."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.small_runs import mlp

NAN = float("nan")
INVALID_SETTINGS = [
    *(({"replacement_rate": v}, ValueError, f"replacement_rate must be a number in [0, 1], got {v!r}")
      for v in (-0.1, 1.1, NAN, float("inf"), True, "0.1", None, 10**400)),
    *(({"maturity_threshold": v}, ValueError, f"maturity_threshold must be an integer >= 0, in updates, got {v!r}")
      for v in (-1, 1.5, 100.0, NAN, True, "100", None)),
    *(({"decay_rate": v}, ValueError, f"decay_rate must be a number in [0, 1), got {v!r}")
      for v in (-0.1, 1.0, 1, NAN, False, "0.9", None)),
    ({"utility": "contributions"}, ValueError,
     "utility must be one of contribution, weight, adaptation, zero_contribution, adaptable_contribution, "
     "feature_by_input, "),
    ({"utility": "contributions"}, ValueError, "got 'contributions'; did you mean 'contribution'?"),
    ({"utility": None}, ValueError, "got None"),
    ({"init": "he"}, ValueError, "init must be one of auto, default, xavier, lecun, kaiming, xavier_normal, "),
    ({"init": None}, ValueError, "or a function (tensor, slot, generator), got None"),
    ({"init": nn.init.zeros_}, TypeError, "takes (tensor, slot, generator), got torch.nn.init.zeros_(tensor"),
    ({"grad_scaler": 512.0}, TypeError, "grad_scaler must be a torch.amp.GradScaler or None, got float"),
    ({"bias_init": "ones"}, ValueError, "bias_init must be one of zero, initial, got 'ones'"),
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


@pytest.mark.parametrize(("settings", "error", "message"), INVALID_SETTINGS)
def test_invalid_settings_are_refused_without_side_effects(settings, error, message):
    net = mlp()
    before = torch.get_rng_state()
    with pytest.raises(error, match=re.escape(message)):
        gnt.GnT(**{"layers": net, **settings})
    assert not any(module._forward_pre_hooks for module in net)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("init", ["kaiming", "xavier"])
def test_an_init_that_needs_a_gain_requires_a_known_activation(init):
    layers = [nn.Linear(4, 8), nn.Linear(8, 2)]
    with pytest.raises(ValueError, match=f"init '{init}' needs the gain of .* group '0', but no activation is seen"):
        gnt.GnT(layers, init=init)
    unknown = [nn.Linear(4, 8), nn.LogSigmoid(), nn.Linear(8, 2)]
    with pytest.raises(ValueError, match=r"activation 'LogSigmoid' has no known gain: pass activation=NAME"):
        gnt.GnT(unknown, init=init)
    gnt.GnT(layers, init=init, activation="relu")
    gnt.GnT(unknown, init="default")


ACTIVATIONS = {
    "module": (lambda: mlp(4, 6, 2), nn.ReLU(), TypeError, "activation must be a name"),
    "layers contain an activation": (lambda: mlp(4, 6, 2), "tanh", ValueError, "activation='tanh' would be ignored"),
    "unit groups": (lambda: gnt.walk(mlp(4, 6, 2)), "tanh", ValueError, "unit groups have their own"),
}


@pytest.mark.parametrize(("make", "activation", "error", "message"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_an_activation_that_would_be_ignored_is_refused(make, activation, error, message):
    with pytest.raises(error, match=message):
        gnt.GnT(make(), activation=activation)


@pytest.mark.parametrize(
    ("flag", "allowed"), [("accumulate", "True, False or 'one'"), ("bias_transfer", "True or False")]
)
def test_flags_must_be_bools(flag, allowed):
    with pytest.raises(TypeError, match=f"{flag} must be {allowed}, got 'no'"):
        gnt.GnT(mlp(4, 6, 2), **{flag: "no"})
