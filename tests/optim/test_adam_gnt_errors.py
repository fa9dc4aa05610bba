"""Errors of AdamGnT: the message, and that nothing was changed."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

from gnt.optim import AdamGnT
from tests.helpers.small_runs import assert_same
from tests.optim.adam_runs import stepped


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, "lr must not be negative, got -1.0"),
        ({"lr": float("nan")}, ValueError, "lr must not be negative, got nan"),
        ({"lr": "fast"}, TypeError, "lr must be a number or a tensor of one element, got 'fast'"),
        ({"lr": torch.ones(2)}, ValueError, "lr as a tensor must have one element, got shape (2,)"),
        ({"lr": torch.tensor(0.1), "foreach": True}, ValueError, "lr as a tensor cannot be combined with foreach=True"),
        ({"betas": (0.9, 1.0)}, ValueError, "betas must be in [0, 1), got (0.9, 1.0)"),
        ({"betas": (-0.1, 0.9)}, ValueError, "betas must be in [0, 1), got (-0.1, 0.9)"),
        ({"betas": 0.9}, TypeError, "betas must be two numbers, got 0.9"),
        ({"betas": (0.9, 0.99, 0.999)}, TypeError, "betas must be two numbers"),
        ({"betas": (0.9, None)}, TypeError, "betas must be two numbers, got (0.9, None)"),
        ({"eps": -1e-8}, ValueError, "eps must not be negative, got -1e-08"),
        ({"eps": None}, TypeError, "eps must be a number, got None"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must not be negative, got -0.1"),
        ({"foreach": True, "fused": True}, ValueError, "foreach=True and fused=True cannot be combined"),
    ],
)
def test_invalid_options_are_refused(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        AdamGnT([nn.Parameter(torch.ones(2))], **options)
    _, optimizer = stepped((2,))
    with pytest.raises(error, match=re.escape(message)):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **options})
    assert len(optimizer.param_groups) == 1


def test_complex_parameters_are_refused():
    message = "requires real parameters, got dtype torch.complex64 for a parameter of shape (2,)"
    complex_param = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(TypeError, match=re.escape(message)):
        AdamGnT([complex_param])
    _, optimizer = stepped((2,))
    with pytest.raises(TypeError, match=re.escape(message)):
        optimizer.add_param_group({"params": complex_param})
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_are_refused_before_anything_is_changed():
    params, optimizer = stepped((2,), (3, 2))
    optimizer.add_param_group({"params": [sparse := nn.Parameter(torch.ones(2))]})
    for param in params:
        param.grad = torch.ones_like(param)
    sparse.grad = torch.ones(2).to_sparse()
    before = copy.deepcopy((optimizer.state_dict(), params))
    with pytest.raises(RuntimeError, match=r"dense gradients, got layout torch.sparse_coo .* shape \(2,\)"):
        optimizer.step()
    assert_same(optimizer.state_dict(), before[0])
    assert_same([p.detach() for p in params], [p.detach() for p in before[1]])


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((2, [0]), ValueError, "dim=2 for a parameter of shape (4, 3); allowed: 0 (rows) or 1 (columns)"),
        ((-1, [0]), ValueError, "dim=-1 for a parameter of shape (4, 3)"),
        ((1.0, [0]), TypeError, "dim must be an int, got 1.0"),
        ((True, [0]), TypeError, "dim must be an int, got True"),
        ((0, [4]), ValueError, "index must be in 0..3, got 4"),
        ((0, [-1]), ValueError, "index must be in 0..3, got -1"),
        ((1, torch.tensor([0, 3])), ValueError, "index must be in 0..2, got 3"),
        ((0, [0.0]), TypeError, "a list of ints, got [0.0]"),
        ((0, [True, False]), TypeError, "a list of ints, got [True, False]"),
        ((0, "01"), TypeError, "a list of ints, got '01'"),
        ((0, 1), TypeError, "a list of ints, got 1"),
        ((0, None), TypeError, "a list of ints, got None"),
        ((0, torch.tensor([1.0])), TypeError, "got a torch.float32 tensor of shape (1,)"),
        ((0, torch.tensor([1], dtype=torch.int32)), TypeError, "got a torch.int32 tensor of shape (1,)"),
        ((0, torch.ones(4, dtype=torch.bool)), TypeError, "got a torch.bool tensor of shape (4,)"),
        ((0, torch.tensor(1)), TypeError, "got a torch.int64 tensor of shape ()"),
        ((1, [0], 0), ValueError, "groups must be at least 1 and divide the 4 rows of shape (4, 3), got 0"),
        ((1, [0], 3), ValueError, "groups must be at least 1 and divide the 4 rows of shape (4, 3), got 3"),
        ((1, [0], "2"), TypeError, "groups must be an int, got '2'"),
        ((1, [0], 2), ValueError, "groups=2 for a parameter of shape (4, 3), but earlier calls had groups=1"),
    ],
)
def test_invalid_resets_are_refused_and_change_nothing(args, error, message):
    (param,), optimizer = stepped((4, 3))
    optimizer.reset_units(param, 1, [1])
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=re.escape(message)):
        optimizer.reset_units(param, *args)
    assert_same(optimizer.state_dict(), before)


def test_resets_of_dimensions_without_units_are_refused():
    (bias, scalar), optimizer = stepped((4,), ())
    with pytest.raises(ValueError, match=re.escape("dim=1 for a parameter of shape (4,); allowed: 0 (rows)")):
        optimizer.reset_units(bias, 1, [0])
    with pytest.raises(ValueError, match=re.escape("shape (); allowed: none (it has no units)")):
        optimizer.reset_units(scalar, 0, [0])
    with pytest.raises(ValueError, match=re.escape("shape (4,) is not in any of this optimizer's groups")):
        optimizer.reset_units(bias.detach().clone(), 0, [0])
    with pytest.raises(TypeError, match="param must be a parameter of this optimizer, got str"):
        optimizer.reset_units("bias", 0, [0])
