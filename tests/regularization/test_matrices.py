"""`Spectral`, `Parseval` and `FIRE`: agreement with literal twins, gradients, ensembles, resume, errors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gnt
from tests.helpers.ensembles import mlp
from tests.twins import matrices as twin


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 7)
    ).double()


def weights(net: nn.Sequential) -> list[np.ndarray]:
    return [net[i].weight.detach().numpy().copy() for i in (0, 4, 6)]


def test_parseval_agrees_with_the_twin_and_its_gradient_with_that_of_the_formula() -> None:
    net = make_net()
    reg = gnt.Parseval(net, strength=0.3, scale=0.7)
    assert reg().item() == pytest.approx(twin.parseval_penalty(weights(net), 0.3, 0.7), rel=1e-12)
    reg.backward()
    rows = net[6].weight.detach()
    expected = 4 * 0.3 * (rows @ rows.T - 0.7 * torch.eye(7, dtype=torch.float64)) @ rows
    torch.testing.assert_close(net[6].weight.grad, expected)
    assert net[1].weight.grad is None


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_the_gradient_of_parsevals_gradient_is_that_of_the_formula(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    reg = gnt.Parseval([weight], 0.7, scale=0.3)
    assert torch.autograd.gradcheck(lambda _: reg(), weight)
    assert torch.autograd.gradgradcheck(lambda _: reg(), weight)


def test_spectral_agrees_with_the_twin_after_some_steps_of_power_iteration() -> None:
    net = make_net()
    reg = gnt.Spectral(net, strength=0.3, exponent=3.0)
    for _ in range(60):
        value = reg()
    assert value.item() == pytest.approx(twin.spectral_penalty(weights(net), 0.3, 3.0), rel=1e-6)
    value.backward()
    u, s, v = torch.linalg.svd(net[4].weight.detach())
    expected = 0.3 * 2 * (s[0] ** 3 - 1) * 3 * s[0] ** 2 * torch.outer(u[:, 0], v[0])
    torch.testing.assert_close(net[4].weight.grad, expected, rtol=1e-4, atol=1e-6)
    found = torch.cat(reg.largest_singular_values())
    assert found[1].item() == pytest.approx(s[0].item(), rel=1e-6)


def test_fire_agrees_with_the_twin_and_resets_the_optimizer_if_asked() -> None:
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(3, 2, 4, 4, dtype=torch.float64)).sum().backward()
    optimizer.step()
    expected = [twin.fire(weight, 4) for weight in weights(net)]
    bias = net[4].bias.detach().clone()
    fire = gnt.FIRE(net, optimizer, iterations=4, every=2)
    assert not fire.step()
    assert fire.step()
    for found, wanted in zip(weights(net), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-13)
    assert torch.equal(net[4].bias, bias)
    assert not optimizer.state[net[4].weight]["momentum_buffer"].any()
    assert optimizer.state[net[4].bias]["momentum_buffer"].any()
    other = gnt.FIRE(net)
    other.load_state_dict(fire.state_dict())
    assert other.steps == 2


def test_fire_treats_groups_and_transposed_convolutions_as_matrices_of_their_own_and_keeps_zeros() -> None:
    torch.manual_seed(0)
    grouped, transposed = nn.Conv1d(4, 6, 1, groups=2).double(), nn.ConvTranspose1d(6, 2, 1).double()
    parts = grouped.weight.detach().chunk(2)
    expected = np.concatenate([twin.fire(part.numpy(), 10) for part in parts])
    turned = twin.fire(transposed.weight.detach().transpose(0, 1).numpy(), 10).swapaxes(0, 1)
    zero = nn.Linear(2, 2)
    nn.init.zeros_(zero.weight)
    net = nn.ModuleList([grouped, transposed, zero])
    learner = gnt.Backprop(nn.Sequential(nn.Linear(2, 2)), methods=[gnt.FIRE(net)])
    learner.end_task()
    np.testing.assert_allclose(grouped.weight.detach().numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(transposed.weight.detach().numpy(), turned, rtol=1e-10)
    assert not zero.weight.any()


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_count_as_matrices_with_their_outputs_first(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 2, groups=groups).double()
    parts = [part.transpose(0, 1) for part in layer.weight.detach().chunk(groups)]
    turned = torch.cat(parts).numpy()
    spectral, parseval = gnt.Spectral(layer, 0.3), gnt.Parseval(layer, 0.3, scale=0.7)
    assert parseval().item() == pytest.approx(twin.parseval_penalty([turned], 0.3, 0.7), rel=1e-12)
    for _ in range(200):
        value = spectral()
    assert value.item() == pytest.approx(twin.spectral_penalty([turned], 0.3, 2.0), rel=1e-6)
    largest = np.linalg.svd(turned.reshape(6, -1))[1].max()
    assert spectral.largest_singular_values()[0].item() == pytest.approx(largest, rel=1e-6)


def test_members_of_an_ensemble_are_treated_as_networks_of_their_own() -> None:
    seeds, build = [3, 14], mlp(4, 6, 2)
    ensemble = gnt.Ensemble(build, seeds, replacement_rate=0.0)
    alone = [ensemble.member(number) for number in range(2)]
    values: list[list[float]] = [[], []]
    for nets in ([ensemble.net], alone):
        for net in nets:
            spectral = gnt.Spectral(net, 1.0, generator=torch.Generator().manual_seed(0))
            values[len(nets) - 1].append((spectral() + gnt.Parseval(net, 1.0)()).item())
            gnt.FIRE(net).apply()
    assert sum(values[0]) == pytest.approx(sum(values[1]), rel=1e-9)
    for number, net in enumerate(alone):
        for mine, theirs in zip(ensemble.member(number).parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_power_iteration_goes_on_after_loading() -> None:
    net = make_net()
    reg, other = gnt.Spectral(net, 1.0), gnt.Spectral(net, 1.0)
    reg()
    other.load_state_dict(reg.state_dict())
    assert torch.equal(reg(), other())


def test_vectors_follow_a_change_of_dtype() -> None:
    net = make_net().float()
    reg, other = gnt.Spectral(net, 1.0), gnt.Spectral(make_net(), 1.0)
    before = reg.largest_singular_values()
    net.double()
    torch.testing.assert_close(reg.largest_singular_values(), [each.double() for each in before])
    reg().backward()
    other.load_state_dict(reg.state_dict())
    assert torch.equal(reg.state_dict()["vectors"][0], other.state_dict()["vectors"][0])


@pytest.mark.parametrize("method", [gnt.Spectral, gnt.Parseval])
def test_errors_name_the_argument(method: Any) -> None:
    net = make_net()
    with pytest.raises(ValueError, match="strength must be a finite number >= 0, got -1"):
        method(net, -1.0)
    with pytest.raises(ValueError, match="or a list of weights with two dimensions or more; fewer has item 1"):
        method([net[0].weight, net[0].bias], 1.0)
    with pytest.raises(ValueError, match=r"takes a network, or a list .*; fewer has item 1, 2, 3, 5, 7"):
        method(net.parameters(), 1.0)
    with pytest.raises(ValueError, match="found no linear or convolution layer to be trained in ReLU"):
        method(nn.ReLU(), 1.0)
    with pytest.raises(TypeError, match="takes a module"):
        gnt.FIRE([net[0].weight])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iterations must be an integer >= 1, got 0"):
        gnt.FIRE(net, iterations=0)
    with pytest.raises(ValueError, match="exponent must be a finite number >= 1"):
        gnt.Spectral(net, 1.0, exponent=0.5)
    with pytest.raises(ValueError, match="scale must be a finite number > 0"):
        gnt.Parseval(net, 1.0, scale=0.0)
    reg = gnt.Spectral(net, 1.0)
    with pytest.raises(ValueError, match="vectors"):
        reg.load_state_dict({"version": 1, "vectors": []})


def test_the_power_iteration_goes_on_after_weights_of_zeros_or_nan() -> None:
    for bad in (0.0, torch.nan, torch.inf, 3e38):
        layer = nn.Linear(3, 4)
        kept = layer.weight.detach().clone()
        reg = gnt.Spectral(layer, 1.0)
        with torch.no_grad():
            layer.weight.fill_(bad)
            reg()
            layer.weight.copy_(kept)
        for _ in range(200):
            value = reg()
        largest = torch.linalg.matrix_norm(kept, 2)
        torch.testing.assert_close(value.detach(), (largest.square() - 1).square(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_fire_makes_very_small_and_very_large_weights_orthogonal(size: float) -> None:
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.mul_(size)
    gnt.FIRE(layer, iterations=40).apply()
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(4), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_units_are_left_out_and_weights_may_be_frozen_later() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 0), nn.Linear(0, 2))
    for reg in (gnt.Spectral(net, 1.0), gnt.Parseval(net, 1.0)):
        assert reg.names == ["0.weight"]
        net.requires_grad_(False)
        reg.backward()
        assert net[0].weight.grad is None
        net.requires_grad_(True)
    assert gnt.FIRE(net).names == ["0.weight"]
    with pytest.raises(ValueError, match="takes weights with at least one element, and 0 has none"):
        gnt.Parseval([net[1].weight], 1.0)
    swr = gnt.SWR(net, utility="magnitude", period=1)
    assert swr.step()


def test_vectors_of_another_length_are_refused() -> None:
    reg = gnt.Spectral(nn.Linear(3, 4), 1.0)
    kept = reg.state_dict()
    with pytest.raises(ValueError, match="vectors of lengths 0 to 0, which must be 1"):
        reg.load_state_dict({**kept, "vectors": [torch.zeros(1, 3)]})
    assert torch.equal(reg.state_dict()["vectors"][0], kept["vectors"][0])


@pytest.mark.parametrize("kind", [gnt.Spectral, gnt.Parseval])
def test_autocast_changes_no_penalty(kind: Any) -> None:
    """Neither value, gradient nor vectors, whether the backward pass is inside of autocast or not."""

    def run(enabled: bool, form: str) -> list[Any]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 24))
        reg = kind(net, 0.1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = reg()
            if form == "inside":
                value.backward()
            elif form == "direct":
                reg.backward()
        if form == "outside":
            value.backward()
        kept = reg.largest_singular_values() if kind is gnt.Spectral else []
        return [value.detach(), *(layer.weight.grad for layer in net), *kept]

    for form in ("outside", "direct", *(["inside"] if kind is gnt.Parseval else [])):
        for found, expected in zip(run(True, form), run(False, form), strict=True):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_autocast_changes_neither_singular_values_nor_fire() -> None:
    torch.manual_seed(0)
    nets = [nn.Linear(32, 16)]
    nets.append(copy.deepcopy(nets[0]))
    found = []
    for enabled, net in zip((False, True), nets, strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            reg = gnt.Spectral(net, 0.1, generator=torch.Generator().manual_seed(1))
            found.append(reg.largest_singular_values()[0])
            gnt.FIRE(net).apply()
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(net.weight for net in nets))
