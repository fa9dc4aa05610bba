"""The remedies against their formulas, one number at a time."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import gnt
from tests.helpers.ensembles import mlp
from tests.twins import regularization as twin
from tests.twins.networks import NETWORKS, Builder, conv_flatten, grouped, mlp2, mlp_norms


def built(build: Builder) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(*build()).double()


def learned(net: nn.Module, shape: tuple[int, ...], seed: int, reg: gnt.L2Init | gnt.L2 | None = None) -> None:
    """Gradients of one batch."""
    x = torch.randn(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    net.zero_grad()
    loss = net(x).square().mean()
    (loss if reg is None else loss + reg()).backward()


@pytest.mark.parametrize("kind", [gnt.L2, gnt.L2Init])
@pytest.mark.parametrize("build", NETWORKS)
def test_the_penalty_is_its_formula_along_a_run(build: Builder, kind: type[gnt.L2]) -> None:
    net, strength = built(build), 0.03
    reg = kind(net, strength)
    start = twin.arrays(net)
    targets = start if kind is gnt.L2Init else [0 * theta for theta in start]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for t in range(5):
        thetas = twin.arrays(net)
        wanted = twin.penalty(thetas, targets, strength)
        assert reg().item() == pytest.approx(wanted, rel=1e-12, abs=0)
        plain = copy.deepcopy(net)
        learned(plain, NETWORKS[build], t)
        learned(net, NETWORKS[build], t, reg)
        for p, q, theta, target in zip(net.parameters(), plain.parameters(), thetas, targets, strict=True):
            assert p.grad is not None
            assert q.grad is not None
            wanted_gradient = q.grad.numpy() + twin.penalty_gradient(theta, target, strength)
            np.testing.assert_allclose(p.grad.numpy(), wanted_gradient, rtol=1e-12, atol=1e-15)
        summed = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        learned(net, NETWORKS[build], t)
        reg.backward()
        for p, wanted_sum in zip(net.parameters(), summed, strict=True):
            torch.testing.assert_close(p.grad, wanted_sum, rtol=1e-12, atol=1e-15)
        optimizer.step()


@pytest.mark.parametrize("kind", [gnt.L2, gnt.L2Init])
def test_the_penaltys_gradient_is_that_of_numbers(kind: type[gnt.L2]) -> None:
    """And the gradient's gradient, too."""
    net = built(mlp2)
    reg = kind(net, 0.7)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(2)))
    parameters = tuple(net.parameters())

    def value(*_: torch.Tensor) -> torch.Tensor:
        return reg()

    assert torch.autograd.gradcheck(value, parameters)
    assert torch.autograd.gradgradcheck(value, parameters)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_l2_is_coupled_weight_decay_of_twice_the_strength(make: type[torch.optim.Optimizer]) -> None:
    net = built(mlp2)
    decayed = copy.deepcopy(net)
    reg = gnt.L2(net, 0.05)
    optimizer = make(net.parameters(), lr=0.01)  # type: ignore[call-arg]
    by_decay = make(decayed.parameters(), lr=0.01, weight_decay=0.1)  # type: ignore[call-arg]
    for t in range(20):
        learned(net, (5,), t, reg)
        learned(decayed, (5,), t)
        optimizer.step()
        by_decay.step()
    for p, q in zip(net.parameters(), decayed.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def fresh_draws(net: nn.Sequential, generator: torch.Generator) -> dict[str, np.ndarray]:
    """A draw from the initial distribution for each parameter, from the numbers that the generator gives."""
    layers = {f"{name}.{key}": module for name, module in net.named_modules() for key in module._parameters}
    uniform = {n: p for n, p in net.named_parameters() if not isinstance(layers[n], twin_norms())}
    numbers = twin.draws(list(uniform.values()), "uniform", generator)
    out = {n: twin.bound(layers[n]) * drawn for n, drawn in zip(uniform, numbers, strict=True)}
    for name, p in net.named_parameters():
        if name not in out:  # a fresh norm has weight 1 and bias 0
            out[name] = np.full(p.shape, 1.0 if name.endswith("weight") else 0.0)
    return out


def twin_norms() -> tuple[type[nn.Module], ...]:
    return (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


@pytest.mark.parametrize("build", [mlp2, mlp_norms, conv_flatten, grouped])
@pytest.mark.parametrize("distribution", ["init", "normal"])
def test_shrink_and_perturb_is_its_formula(build: Builder, distribution: str) -> None:
    net = built(build)
    rules = {"shrink": 0.8, "noise": 0.3, "distribution": distribution}
    perturb = gnt.ShrinkAndPerturb(net, **rules, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        before = dict(zip([n for n, _ in net.named_parameters()], twin.arrays(net), strict=True))
        if distribution == "init":
            p = fresh_draws(net, generator)
        else:
            numbers = twin.draws(list(net.parameters()), "normal", generator)
            p = dict(zip(before, numbers, strict=True))
        assert perturb.step()
        for name, found in net.named_parameters():
            wanted = twin.shrink_and_perturb(before[name], 0.8, 0.3, p[name])
            np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-13, atol=1e-16, err_msg=name)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(7, 400), nn.Conv2d(4, 200, 3), nn.Conv2d(4, 200, 3, groups=2), nn.ConvTranspose2d(6, 200, 3),
        nn.Embedding(300, 5), nn.LayerNorm(300), nn.BatchNorm1d(30), nn.PReLU(4),
    ],
    ids=str,
)  # fmt: skip
def test_the_initial_distribution_is_torchs_own(layer: nn.Module) -> None:
    """With shrink 0 and noise 1 every parameter is fresh: as large as torch's, and as spread."""
    fresh = copy.deepcopy(layer)
    gnt.ShrinkAndPerturb(fresh, shrink=0.0, noise=1.0, generator=torch.Generator().manual_seed(0)).apply()
    for (name, mine), (_, theirs) in zip(fresh.named_parameters(), layer.named_parameters(), strict=True):
        largest, smallest = theirs.abs().max().item(), theirs.std(correction=0).item()
        assert mine.abs().max().item() == pytest.approx(largest, rel=0.35 if isinstance(layer, nn.Embedding) else 0.05)
        assert mine.std(correction=0).item() == pytest.approx(smallest, rel=0.15, abs=1e-7), name
        if smallest:
            assert not torch.equal(mine, theirs)


@pytest.mark.parametrize("distribution", ["init", "normal"])
def test_members_of_an_ensemble_are_the_runs_that_they_are_alone(distribution: str) -> None:
    seeds = [3, 14, 15]
    make_net = mlp(4, 6, 2)
    ensemble = gnt.Ensemble(make_net, seeds, replacement_rate=0.0)
    settings = {"shrink": 0.9, "noise": 0.1, "distribution": distribution}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    together = gnt.ShrinkAndPerturb(ensemble.net, **settings, generator=generators)
    reg = gnt.L2Init(ensemble.net, 0.1)
    alone, regs = [], []
    for seed in seeds:
        torch.manual_seed(seed)
        net = make_net()
        alone.append(gnt.ShrinkAndPerturb(net, **settings, generator=torch.Generator().manual_seed(seed)))
        regs.append(gnt.L2Init(net, 0.1))
        for _ in range(3):
            alone[-1].step()
    for _ in range(3):
        together.step()
    for number, single in enumerate(alone):
        for p, q in zip(ensemble.member(number).parameters(), single.parameters, strict=True):
            assert torch.equal(p, q)
    reg().backward()
    assert reg().item() == pytest.approx(sum(each().item() for each in regs), rel=1e-9)
    for number, each in enumerate(regs):
        each().backward()
        for stacked, own in zip(ensemble.net.parameters(), each.parameters, strict=True):
            assert stacked.grad is not None
            assert torch.equal(stacked.grad.unflatten(0, (len(seeds), -1))[number], own.grad)


def test_crelu_is_its_formula() -> None:
    x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    found = gnt.CReLU()(x)
    assert found.shape == (3, 10, 2)
    for i in range(3):
        for j in range(2):
            assert found[i, :, j].tolist() == twin.crelu(x[i, :, j].tolist())
    assert torch.equal(gnt.CReLU(dim=-1)(x.transpose(1, 2)), found.transpose(1, 2))
