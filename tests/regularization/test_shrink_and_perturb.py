"""`ShrinkAndPerturb`: agreement with the formula and torch's initial distributions, draws, freezing, saved states."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gnt
from tests.helpers.ensembles import mlp
from tests.regularization.networks import float64_net, net, partly_frozen
from tests.twins import regularization as twin
from tests.twins.networks import Builder, conv_flatten, grouped, mlp2, mlp_norms
from tests.twins.upgd import philox_normal

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


def values(module: nn.Module) -> list[torch.Tensor]:
    """Copies of all parameters."""
    return [p.detach().clone() for p in module.parameters()]


def init_draws(net: nn.Sequential, generator: torch.Generator) -> dict[str, np.ndarray]:
    """Draws of the generator, scaled to the initial distribution of each parameter, by parameter name."""
    layers = {f"{name}.{key}": module for name, module in net.named_modules() for key in module._parameters}
    uniform = {n: p for n, p in net.named_parameters() if not isinstance(layers[n], NORMS)}
    numbers = twin.draws(list(uniform.values()), "uniform", generator)
    out = {n: twin.bound(layers[n]) * drawn for n, drawn in zip(uniform, numbers, strict=True)}
    for name, p in net.named_parameters():
        if name not in out:  # norms are initialized with weight 1 and bias 0
            out[name] = np.full(p.shape, 1.0 if name.endswith("weight") else 0.0)
    return out


@pytest.mark.parametrize("build", [mlp2, mlp_norms, conv_flatten, grouped])
@pytest.mark.parametrize("distribution", ["init", "normal"])
def test_steps_agree_with_the_formula(build: Builder, distribution: str) -> None:
    net = float64_net(build)
    rules = {"shrink": 0.8, "noise": 0.3, "distribution": distribution, "kernels": False}
    perturb = gnt.ShrinkAndPerturb(net, **rules, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        before = dict(zip([n for n, _ in net.named_parameters()], twin.arrays(net), strict=True))
        if distribution == "init":
            p = init_draws(net, generator)
        else:
            numbers = twin.draws(list(net.parameters()), "normal", generator)
            p = dict(zip(before, numbers, strict=True))
        assert perturb.step()
        for name, found in net.named_parameters():
            expected = twin.shrink_and_perturb(before[name], 0.8, 0.3, p[name])
            np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-13, atol=1e-16, err_msg=name)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_steps_by_the_kernel_agree_with_the_formula(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((40, 31), (7,), (0, 2), (3, 5, 2))]
    rules: dict[str, Any] = {"shrink": 0.8, "noise": 0.3, "distribution": "normal", "kernels": True}
    perturb = gnt.ShrinkAndPerturb(params, **rules, generator=torch.Generator().manual_seed(3))
    expected, generator = [p.detach().double().numpy().copy() for p in params], torch.Generator().manual_seed(3)
    for _ in range(3):
        version = params[0]._version
        assert perturb.step()
        assert params[0]._version > version
        key = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
        for n, values in enumerate(expected):
            drawn = philox_normal(values.size, key, n, dtype).reshape(values.shape)
            expected[n] = twin.shrink_and_perturb(values, 0.8, 0.3, drawn)
    for found, value in zip(params, expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), value, rtol=tolerance, atol=tolerance)


def test_steps_by_the_kernel_do_not_depend_on_the_number_of_threads() -> None:
    results, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            some = nn.Linear(700, 100, bias=False)
            nn.init.zeros_(some.weight)
            generator = torch.Generator().manual_seed(3)
            gnt.ShrinkAndPerturb(
                some, shrink=1.0, noise=1.0, distribution="normal", generator=generator, kernels=True
            ).step()
            results.append(some.weight.detach())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
    assert results[0].std().item() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(7, 400), nn.Conv2d(4, 200, 3), nn.Conv2d(4, 200, 3, groups=2), nn.ConvTranspose2d(6, 200, 3),
        nn.Embedding(300, 5), nn.LayerNorm(300), nn.BatchNorm1d(30), nn.PReLU(4),
    ],
    ids=str,
)  # fmt: skip
def test_init_draws_match_the_initialization_of_torch(layer: nn.Module) -> None:
    """With shrink 0 and noise 1 every parameter is a new draw: its maximum and deviation are those of torch's own."""
    fresh = copy.deepcopy(layer)
    gnt.ShrinkAndPerturb(fresh, shrink=0.0, noise=1.0, generator=torch.Generator().manual_seed(0)).apply()
    for (name, mine), (_, theirs) in zip(fresh.named_parameters(), layer.named_parameters(), strict=True):
        largest, smallest = theirs.abs().max().item(), theirs.std(correction=0).item()
        assert mine.abs().max().item() == pytest.approx(largest, rel=0.35 if isinstance(layer, nn.Embedding) else 0.05)
        assert mine.std(correction=0).item() == pytest.approx(smallest, rel=0.15, abs=1e-7), name
        if smallest:
            assert not torch.equal(mine, theirs)


@pytest.mark.parametrize(("distribution", "kernels"), [("init", None), ("normal", True), ("normal", False)])
def test_members_of_an_ensemble_equal_networks_trained_alone(distribution: str, kernels: bool | None) -> None:
    seeds = [3, 14, 15]
    make_net = mlp(4, 6, 2)
    ensemble = gnt.Ensemble(make_net, seeds, replacement_rate=0.0)
    settings = {"shrink": 0.9, "noise": 0.1, "distribution": distribution, "kernels": kernels}
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


def test_an_ensemble_takes_one_generator_or_one_for_each_member() -> None:
    ensemble = gnt.Ensemble(net, range(2), replacement_rate=0.0)
    for number in (1, 2):
        generators = [torch.Generator() for _ in range(number)]
        assert gnt.ShrinkAndPerturb(ensemble.net, shrink=0.5, noise=0.1, generator=generators).step()
    four = [torch.Generator() for _ in range(4)]  # 4 divides the 12 and 4 units of the stacked layers
    with pytest.raises(ValueError, match="generator holds 4 generators; this ensemble has 2 members"):
        gnt.ShrinkAndPerturb(ensemble.net, shrink=0.5, noise=0.1, generator=four)


@pytest.mark.parametrize("every", [1, 3])
def test_resuming_from_a_saved_state_is_exact(every: int, tmp_path: Any) -> None:
    def perturbed(seed: int) -> tuple[nn.Sequential, gnt.ShrinkAndPerturb]:
        some = net(seed)
        return some, gnt.ShrinkAndPerturb(some, shrink=0.99, noise=0.1, every=every)

    some, perturb = perturbed(0)
    acted = [perturb.step() for _ in range(4)]
    torch.save([some.state_dict(), perturb.state_dict()], tmp_path / "state")
    acted += [perturb.step() for _ in range(4)]
    assert acted == [(i + 1) % every == 0 for i in range(8)]
    other, resumed = perturbed(1)
    weights, state = torch.load(tmp_path / "state", weights_only=True)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert [resumed.step() for _ in range(4)] == acted[4:]
    assert all(torch.equal(p, q) for p, q in zip(some.parameters(), other.parameters(), strict=True))


def test_with_every_0_only_apply_acts() -> None:
    some = net()
    perturb = gnt.ShrinkAndPerturb(some, shrink=0.5, noise=0.0, every=0)
    before = values(some)
    assert not any(perturb.step() for _ in range(5))
    assert all(torch.equal(p, q) for p, q in zip(some.parameters(), before, strict=True))
    perturb.apply()
    assert all(torch.equal(p, 0.5 * q) for p, q in zip(some.parameters(), before, strict=True))
    assert perturb.steps == 5


def test_draws_depend_on_the_global_seed_and_do_not_advance_the_global_generator() -> None:
    runs = []
    for _ in range(2):
        some = net()
        perturb = gnt.ShrinkAndPerturb(some, shrink=1.0, noise=1.0)
        state = torch.get_rng_state()
        perturb.step()
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(values(some))
    assert all(torch.equal(p, q) for p, q in zip(*runs, strict=True))


def test_memory_format_and_dtype_are_preserved() -> None:
    conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(conv).to(memory_format=torch.contiguous_format)
    for each in (conv, plain):
        gnt.ShrinkAndPerturb(each, shrink=0.5, noise=0.5, generator=torch.Generator().manual_seed(0)).step()
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(conv.weight, plain.weight)
    half = nn.Linear(3, 3).half()
    gnt.ShrinkAndPerturb(half, shrink=0.5, noise=0.5).step()
    assert half.weight.dtype == torch.float16


def test_frozen_parameters_of_a_module_are_left_out() -> None:
    some = partly_frozen()
    reg = gnt.L2(some, 1.0)
    assert reg.names == ["0.bias", "2.weight", "2.bias"]
    before = some[0].weight.detach().clone()
    gnt.ShrinkAndPerturb(some, shrink=0.5, noise=0.1).step()
    assert torch.equal(some[0].weight, before)


@pytest.mark.parametrize(("distribution", "kernels"), [("init", None), ("normal", True), ("normal", False)])
def test_parameters_frozen_later_are_left_unchanged(distribution: str, kernels: bool | None) -> None:
    def stepped(freeze: bool) -> list[torch.Tensor]:
        some = nn.Sequential(*net(), nn.LayerNorm(2))
        generator = torch.Generator().manual_seed(1)
        settings: dict[str, Any] = {"shrink": 0.5, "noise": 0.1, "distribution": distribution, "kernels": kernels}
        perturb = gnt.ShrinkAndPerturb(some, **settings, generator=generator)
        some[2 * freeze : 4 if freeze else 0].requires_grad_(False)
        perturb.step()
        return [p.detach() for p in some.parameters()]

    free, frozen = stepped(False), stepped(True)
    initial = [*net().parameters(), torch.ones(2), torch.zeros(2)]
    assert [torch.equal(a, b) for a, b in zip(frozen, initial, strict=True)] == [False, False, True, True, True, True]
    # freezing does not change the draws of the other parameters
    assert all(torch.equal(a, b) for a, b in zip(frozen[:2], free[:2], strict=True))


def test_the_padding_row_of_an_embedding_stays_0() -> None:
    some = nn.Embedding(5, 3, padding_idx=-2)
    gnt.ShrinkAndPerturb(some, shrink=0.5, noise=0.1).step()
    assert not some.weight[3].any()
    assert (some.weight[[0, 1, 2, 4]] != 0).all()


def test_registered_layers_are_drawn_like_the_type_they_name() -> None:
    class OwnLinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.zeros(6, 4)), nn.Parameter(torch.zeros(6))

    settings: dict[str, Any] = {"shrink": 0.0, "noise": 1.0}
    with pytest.raises(
        ValueError, match=r"initial distribution of weight \(OwnLinear\), bias \(OwnLinear\) is not known"
    ):
        gnt.ShrinkAndPerturb(OwnLinear(), **settings)
    with pytest.raises(ValueError, match=r"like must be a class of a layer that is known: Linear, .*, got .*ReLU"):
        gnt.regularization.register_init_distribution(OwnLinear, like=nn.ReLU)
    with pytest.raises(TypeError, match=r"layer_type must be a class of modules, such as nn.Linear, got OwnLinear\(\)"):
        gnt.regularization.register_init_distribution(OwnLinear(), like=nn.Linear)  # type: ignore[arg-type]
    gnt.regularization.register_init_distribution(OwnLinear, like=nn.Linear)
    drawn = []
    for layer in (OwnLinear(), nn.Linear(4, 6)):
        gnt.ShrinkAndPerturb(layer, **settings, generator=torch.Generator().manual_seed(0)).apply()
        drawn.append(values(layer))
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


def test_a_registered_type_takes_precedence_over_the_one_it_is_derived_from() -> None:
    class OwnConv(nn.Linear):
        pass

    class OwnNorm(OwnConv):
        pass

    gnt.regularization.register_init_distribution(OwnNorm, like=nn.BatchNorm2d)
    gnt.regularization.register_init_distribution(OwnConv, like=nn.Embedding)
    layer = OwnNorm(3, 2)
    gnt.ShrinkAndPerturb(layer, shrink=0.0, noise=1.0).apply()
    assert (layer.weight == 1).all()
    assert (layer.bias == 0).all()


def test_the_bias_of_a_layer_without_inputs_stays_0() -> None:
    some = nn.Linear(1, 3)
    some.weight = nn.Parameter(torch.empty(3, 0))
    nn.init.zeros_(some.bias)
    gnt.ShrinkAndPerturb(some, shrink=0.5, noise=0.1).step()
    assert not some.bias.any()
