"""Draws of new weights: by name, orthogonal, and by a user's function."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gnt
from gnt.initialization import INITS


def make_net(inputs: int = 20, units: int = 400) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, 1))


@pytest.mark.parametrize("name", [each for each in INITS if each not in ("default", "xavier", "lecun", "kaiming")])
def test_normal_and_orthogonal_draws_have_their_standard_deviation(name: str) -> None:
    expected = {
        "xavier_normal": math.sqrt(2) * math.sqrt(2 / 420),
        "lecun_normal": math.sqrt(1 / 20),
        "kaiming_normal": math.sqrt(2 / 20),
        "normal": 0.02,
        "truncated_normal": 0.02 * math.sqrt(0.7737),
        "orthogonal": math.sqrt(2) / math.sqrt(400),
    }[name]
    net = make_net()
    gnt.GnT(net, init=name).replace([torch.arange(400)])
    assert net[0].weight.std().item() == pytest.approx(expected, rel=0.04)
    if name == "truncated_normal":
        assert 0.039 < net[0].weight.abs().max() <= 0.04


@pytest.mark.parametrize(("inputs", "units"), [(30, 10), (10, 30), (10, 10)])
def test_orthogonal_rows_are_those_of_a_matrix_of_the_layers_shape(inputs: int, units: int) -> None:
    net = make_net(inputs, units)
    engine = gnt.GnT(net, init="orthogonal")
    engine.replace([torch.arange(units)])
    weight = net[0].weight.detach()
    gram = weight @ weight.T if units <= inputs else weight.T @ weight
    torch.testing.assert_close(gram, 2.0 * torch.eye(min(inputs, units)), rtol=0, atol=1e-5)
    before = weight.clone()
    engine.replace([[3, 5]])
    assert torch.equal(weight[[0, 1, 2, 4]], before[[0, 1, 2, 4]])
    if units <= inputs:
        torch.testing.assert_close(weight[[3, 5]] @ weight[[3, 5]].T, 2.0 * torch.eye(2))


def fill_with_ones(tensor, slot, generator):
    tensor.fill_(1.0 + 0 * slot.num_units)


def test_a_function_fills_the_new_rows() -> None:
    net = make_net()
    engine = gnt.GnT(net, init=fill_with_ones)
    engine.replace([[3, 5]])
    assert (net[0].weight[[3, 5]] == 1.0).all()
    assert (net[0].weight[4] != 1.0).all()
    assert "init=tests.initialization.test_draws.fill_with_ones" in repr(engine).replace(
        fill_with_ones.__module__, "tests.initialization.test_draws"
    )
    engine.load_state_dict(engine.state_dict())
    assert engine.slot_inits[0][0].weights == (fill_with_ones,)


FAULTS = {
    "did not fill its tensor in place": lambda t, s, g: torch.zeros_like(t),
    "left 20 of 40 values of its tensor that are not finite": lambda t, s, g: t[0].fill_(0.0),
    "made its tensor require a gradient": lambda t, s, g: t.fill_(0.0).requires_grad_(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_function_that_does_not_fill_its_tensor_is_named_and_nothing_changes(fault: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 1))
    engine = gnt.GnT(net, init=FAULTS[fault])
    before = [p.detach().clone() for p in net.parameters()]
    state = engine.generator.get_state()
    with pytest.raises(ValueError, match=f"<lambda> {fault}, for '0'; nothing was replaced"):
        engine.replace([[1, 2], [0]])
    assert all(map(torch.equal, before, net.parameters()))
    assert torch.equal(state, engine.generator.get_state())
