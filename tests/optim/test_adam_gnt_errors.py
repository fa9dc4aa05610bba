"""Errors of AdamGnT: the message, and that nothing was changed."""

from __future__ import annotations

import copy
import re
from fractions import Fraction

import pytest
import torch
from torch import nn

from gnt.optim import CBPSGD, AdamGnT
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
        ({"lr": float("inf")}, ValueError, "lr must be finite, got inf; allowed is a finite number >= 0"),
        ({"lr": True}, TypeError, "lr must be a number or a tensor of one element, got True"),
        ({"lr": Fraction(1, 10)}, TypeError, "lr must be a number or a tensor of one element, got Fraction(1, 10)"),
        ({"lr": torch.tensor(float("nan"))}, ValueError, "lr must not be negative, got tensor(nan)"),
        ({"eps": float("inf")}, ValueError, "eps must be finite, got inf"),
        ({"eps": True}, TypeError, "eps must be a number, got True"),
        ({"weight_decay": float("inf")}, ValueError, "weight_decay must be finite, got inf"),
        ({"betas": (0.9, True)}, TypeError, "betas must be two numbers, got (0.9, True)"),
        ({"betas": (torch.tensor(0.9), torch.tensor(1.0))}, ValueError, "betas must be in [0, 1), got (tensor(0.9"),
        ({"betas": (torch.ones(2), 0.9)}, TypeError, "betas must be two numbers"),
        ({"betas": (torch.tensor(0.9), 0.9), "foreach": True}, ValueError, "betas as a tensor cannot be combined"),
        ({"amsgrad": "yes"}, TypeError, "amsgrad must be True or False, got 'yes'"),
        ({"maximize": 1}, TypeError, "maximize must be True or False, got 1"),
        ({"decoupled_weight_decay": None}, TypeError, "decoupled_weight_decay must be True or False, got None"),
        ({"fused": "yes"}, TypeError, "fused must be True, False or None, got 'yes'"),
    ],
)
def test_invalid_options_are_refused_at_construction_in_new_groups_in_loaded_states_and_in_a_step(
    options, error, message
):
    with pytest.raises(error, match=re.escape(message)):
        AdamGnT([nn.Parameter(torch.ones(2))], **options)
    params, optimizer = stepped((2,), (3,))
    optimizer.reset_units(params[0], 0, [1])
    with pytest.raises(error, match=re.escape(message)):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **options})
    assert len(optimizer.param_groups) == 1
    before = copy.deepcopy((optimizer.state_dict(), params))
    damaged = copy.deepcopy(optimizer.state_dict())
    damaged["param_groups"][0].update(options)
    with pytest.raises(error, match=f"parameter group 0 of the loaded state_dict: {re.escape(message)}"):
        optimizer.load_state_dict(damaged)
    group = optimizer.param_groups[0]
    valid = dict(group)
    group.update(options)
    with pytest.raises(error, match=re.escape(message)):
        optimizer.step()
    group.update(valid)
    assert_same(optimizer.state_dict(), before[0])
    assert_same([p.detach() for p in params], [p.detach() for p in before[1]])
    optimizer.step()


@pytest.mark.parametrize("kernels", [False, True])
def test_options_that_are_changed_in_place_are_checked_in_each_step(kernels):
    lr, betas = torch.tensor(0.1), [0.9, 0.99]
    (param,), optimizer = stepped((2, 2), lr=lr, betas=betas, kernels=kernels)
    before = param.detach().clone()
    lr.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"lr must be finite, got tensor\(inf\)"):
        optimizer.step()
    lr.fill_(0.1)
    betas[1] = 1.5
    with pytest.raises(ValueError, match=r"betas must be in \[0, 1\), got \[0.9, 1.5\]"):
        optimizer.step()
    assert torch.equal(param, before)


def test_states_of_other_optimizers_are_refused_and_change_nothing():
    o = torch.optim
    others = [o.SGD, o.Adagrad, o.RMSprop, o.Adamax, o.NAdam, o.RAdam, o.Adadelta]
    for kind in (AdamGnT, CBPSGD):
        for other in others:
            net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
            source, optimizer = other(net.parameters(), lr=0.1), kind(net if kind is CBPSGD else net.parameters())
            for each in (source, optimizer):
                net(torch.randn(4, 2)).sum().backward()
                each.step()
            if kind is CBPSGD and other is o.SGD:
                continue
            before = copy.deepcopy(optimizer.state_dict())
            with pytest.raises(ValueError, match=r"is not one of |the state_dict is of another optimizer"):
                optimizer.load_state_dict({**source.state_dict(), "gnt": before.get("gnt")})
            assert_same(optimizer.state_dict(), before)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("exp_avg", torch.ones(3), "exp_avg must have the shape (2,) of its parameter, got shape (3,)"),
        ("exp_avg_sq", None, "exp_avg_sq must have the shape (2,) of its parameter, got NoneType"),
        ("step", float("nan"), "step must be a whole number >= 0, got nan"),
        ("step", torch.tensor(-1.0), "step must be a whole number >= 0"),
        ("step", 1.5, "step must be a whole number >= 0, got 1.5"),
    ],
)
def test_damaged_states_are_refused_and_change_nothing(key, value, message):
    _, optimizer = stepped((2,), (3,))
    before = copy.deepcopy(optimizer.state_dict())
    damaged = copy.deepcopy(before)
    damaged["state"][0][key] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.load_state_dict(damaged)
    assert_same(optimizer.state_dict(), before)


@pytest.mark.parametrize("kernels", [False, True])
def test_parameters_of_another_shape_than_their_state_are_refused_before_anything_changes(kernels):
    params, optimizer = stepped((4, 3), (3, 2), (2,), kernels=kernels)
    optimizer.reset_units(params[1], 0, [0])
    params[1].data = params[1].data[:2]
    params[1].grad = torch.ones(2, 2)
    before = copy.deepcopy(params)
    with pytest.raises(RuntimeError, match=r"has shape \(2, 2\), but its state 'exp_avg' has shape \(3, 2\)"):
        optimizer.step()
    assert_same([p.detach() for p in params], [p.detach() for p in before])


def test_fused_is_refused_on_devices_that_do_not_have_it():
    for params in ([nn.Parameter(torch.ones(2, device="meta"))], stepped((2,))[0]):
        optimizer = AdamGnT(params)
        optimizer.add_param_group({"params": [meta := nn.Parameter(torch.ones(3, device="meta"))], "fused": True})
        for param in (*params, meta):
            param.grad = torch.ones_like(param)
        with pytest.raises(RuntimeError, match=r"fused=True requires .* shape \(3,\) on meta with dtype torch.float32"):
            optimizer.step()
        assert not any(optimizer.state.values())


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
