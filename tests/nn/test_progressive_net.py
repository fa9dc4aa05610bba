"""`ProgressiveNet`: its formula, frozen columns, and units of the newest column."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch


def build(columns, adapter="linear", **options):
    torch.manual_seed(0)
    net = gnt.ProgressiveNet(4, [6, 5], adapter=adapter, **options)
    for outputs in range(2, 2 + columns):
        net.add_column(outputs)
    return net


def written_out(net, x, task):
    """The formula with one term for each earlier column."""
    hidden = []
    for number in range(task + 1):
        column, h, features = net.columns[number], x, []
        for i, layer in enumerate(column.layers):
            width = h.shape[1]
            z = h @ layer.weight[:, :width].T + layer.bias
            if i and number:
                further = layer.weight[:, width:]
                if not len(column.adapters):
                    for j in range(number):
                        z = z + hidden[j][i - 1] @ further[:, j * width : (j + 1) * width].T
                else:
                    adapter = column.adapters[i - 1]
                    read = adapter.project.bias
                    for j in range(number):
                        part = adapter.project.weight[:, j * width : (j + 1) * width]
                        read = read + adapter.factors[j] * hidden[j][i - 1] @ part.T
                    z = z + torch.tanh(read) @ further.T
            h = z if i == len(column.layers) - 1 else torch.tanh(z)  # laterals are added before the nonlinearity
            features.append(h)
        hidden.append(features)
    return h


@pytest.mark.parametrize("adapter", ["linear", "nonlinear"])
def test_outputs_agree_with_the_formula(adapter):
    net = build(3, adapter, activation=nn.Tanh).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    for task in range(3):
        torch.testing.assert_close(net(x, task), written_out(net, x, task), rtol=0, atol=1e-13)
    assert net(x).equal(net(x, 2))


@settings(max_examples=4, deadline=None)
@given(st.sampled_from(["linear", "nonlinear"]), st.booleans(), st.integers(1, 2))
def test_outputs_of_earlier_columns_are_equal_bit_for_bit(adapter, engine, more):
    net, x = build(1, adapter), torch.ones(3, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before = []
    for _ in range(more + 1):
        if engine:
            groups = gnt.trace(net, x, include=net.newest)
            gnt_engine = gnt.GnT(groups, optimizer, **FREQUENT_REPLACEMENT).attach()
        for t in range(6):
            optimizer.zero_grad()
            net(batch(t)[0]).square().mean().backward()
            optimizer.step()
        if engine:
            assert sum(group.state.replaced for group in gnt_engine.groups) > 0
            gnt_engine.close()
        assert_same([net(x, task).detach() for task in range(len(before))], before)
        before.append(net(x).detach())
        optimizer.add_param_group({"params": net.add_column(2).parameters()})  # the optimizer still holds the old ones


def test_everything_of_earlier_columns_is_frozen_and_all_of_the_newest_is_trained():
    net = build(3, "nonlinear")
    net(torch.randn(5, 4)).square().sum().backward()
    for number, column in enumerate(net.columns):
        for parameter in column.parameters():
            assert parameter.requires_grad == (number == 2)
            assert (parameter.grad is not None) == (number == 2)
    assert [column.training for column in net.columns] == [False, False, True]


def test_a_new_column_has_the_device_and_dtype_of_the_others():
    net = build(1).double()
    assert {p.dtype for p in net.add_column(2).parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net(torch.ones(1, 4), 2), r"task must be the number of a column, 0\.\.1, or None, got 2"),
        (lambda net: net(torch.ones(1, 4), True), "got True"),
        (lambda net: net.add_column(0), "outputs must be an integer >= 1, got 0"),
        (lambda net: gnt.ProgressiveNet(4, []), "hidden must be a list"),
        (lambda net: gnt.ProgressiveNet(4, [3, 0]), r"hidden\[1\] must be an integer >= 1, got 0"),
        (lambda net: gnt.ProgressiveNet(4, [3], adapter="x"), "adapter must be one of linear, nonlinear, got 'x'"),
        (
            lambda net: gnt.ProgressiveNet(4, [3], activation=nn.ReLU()),
            r"function that makes a module, .* got ReLU\(\)",
        ),
    ],
)
def test_errors_change_nothing(call, message):
    net = build(2)
    before = copy.deepcopy(dict(net.state_dict()))
    with pytest.raises((TypeError, ValueError), match=message):
        call(net)
    assert_same(dict(net.state_dict()), before)
    assert all(parameter.requires_grad for parameter in net.columns[1].parameters())


def test_without_a_column_the_error_says_how_to_add_one():
    net = gnt.ProgressiveNet(4, [6])
    with pytest.raises(RuntimeError, match=r"there is no column yet: call add_column\(outputs\), one for each task"):
        net(torch.randn(2, 4))
