"""`gnt.optim.UPGD`: agreement with the literal twin, ensembles, resume, replacement, errors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gnt
from gnt.optim import UPGD
from tests.helpers.ensembles import mlp
from tests.twins.regularization import draws
from tests.twins.upgd import TwinUPGD

OPTIONS: dict[str, Any] = {
    "lr": 0.1, "decay_rate": 0.9, "sigma": 0.1, "weight_decay": 0.01, "factor": 2.0, "protecting": True,
    "scaling": "global", "betas": None, "eps": 1e-8,
}  # fmt: skip


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def backward(net: nn.Module, seed: int) -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed), dtype=next(net.parameters()).dtype)
    net.zero_grad()
    (net(x) - x[:, :2]).square().mean().backward()


@pytest.mark.parametrize(
    "changed",
    [{}, {"protecting": False}, {"scaling": "local", "factor": 1.0}, {"betas": (0.9, 0.99)}, {"sigma": 0.0}],
    ids=str,
)
def test_steps_agree_with_the_twin(changed: dict[str, Any]) -> None:
    options = {**OPTIONS, **changed}
    net = make_net()
    parameters = list(net.parameters())
    optimizer = UPGD(parameters, **options, kernels=False, generator=torch.Generator().manual_seed(1))
    twin = TwinUPGD([p.detach().numpy() for p in parameters], **options)
    generator = torch.Generator().manual_seed(1)
    for step in range(5):
        backward(net, step)
        gradients = [p.grad.numpy().copy() for p in parameters if p.grad is not None]
        noise = draws(parameters, "normal", generator) if options["sigma"] else gradients
        optimizer.step()
        twin.step(gradients, noise)
        for parameter, expected in zip(parameters, twin.weights, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-10)


def test_weights_without_utility_step_as_in_sgd() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimizer = UPGD([weight], lr=0.5, sigma=0.0)
    weight.grad = torch.tensor([1.0, -2.0, 4.0])
    optimizer.step()
    assert torch.equal(weight.detach(), -0.5 * weight.grad)


def test_members_of_an_ensemble_equal_networks_trained_alone() -> None:
    seeds = [3, 14]
    build = mlp(3, 5, 2)

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    for options in ({"sigma": 0.1}, {"sigma": 0.1, "scaling": "local", "betas": (0.9, 0.99)}):
        given: dict[str, Any] = {"lr": 0.1, **options}
        ensemble = gnt.Ensemble(
            build, seeds, replacement_rate=0.0, opt=lambda p, g=given: UPGD(p, **g, generator=generators())
        )
        alone = []
        for seed, generator in zip(seeds, generators(), strict=True):
            torch.manual_seed(seed)
            net = build()
            alone.append(gnt.Backprop(net, opt=UPGD(net.parameters(), **given, generator=generator)))
        for step in range(3):
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step)).double()
            x = x.to(next(alone[0].net.parameters()).dtype)
            y = torch.stack([x.sum(1), x.prod(1)], 1)
            for learner in alone:
                learner.learn(x, y)
            ensemble.learn(torch.stack([x, x]), torch.stack([y, y]))
        for number, learner in enumerate(alone):
            for mine, theirs in zip(ensemble.member(number).parameters(), learner.net.parameters(), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
    with pytest.raises(TypeError, match="give it a list of 2 generators, one for each member; it has 1"):
        gnt.Ensemble(build, seeds, opt=lambda params: UPGD(params))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_resumed_run_equals_an_uninterrupted_one(dtype: torch.dtype) -> None:
    def build() -> tuple[nn.Module, UPGD]:
        net = make_net().to(dtype)
        return net, UPGD(net.parameters(), lr=0.1, sigma=0.1, betas=(0.9, 0.99))

    (net, optimizer), (resumed, later) = build(), build()
    for step in range(3):
        backward(net, step)
        optimizer.step()
    resumed.load_state_dict(net.state_dict())
    later.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3, 5):
        for each, own in ((net, optimizer), (resumed, later)):
            backward(each, step)
            own.step()
    for mine, theirs in zip(resumed.parameters(), net.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert optimizer.state[next(net.parameters())]["avg_utility"].dtype is torch.promote_types(dtype, torch.float32)


def test_a_state_can_be_loaded_again_and_into_a_copy() -> None:
    net = make_net()
    optimizer = UPGD(net.parameters(), lr=0.1)
    backward(net, 0)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    copied = copy.deepcopy(optimizer)
    for each in (optimizer, optimizer, copied):
        each.load_state_dict(state)
        each.load_state_dict(each.state_dict())


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this torch has no gradients of another dtype")
@pytest.mark.parametrize("kernels", [None, False])
@pytest.mark.parametrize("betas", [None, (0.9, 0.99)])
@pytest.mark.parametrize("dtypes", [(torch.float64, torch.float32), (torch.float32, torch.float64)], ids=str)
def test_gradients_of_another_dtype_act_as_those_of_the_state(
    dtypes: tuple[torch.dtype, torch.dtype], betas: tuple[float, float] | None, kernels: bool | None
) -> None:
    own, of_gradient = dtypes
    weights = [nn.Parameter(torch.linspace(-1, 1, 15, dtype=own).view(5, 3)) for _ in range(2)]
    gradient = torch.linspace(2, -1, 15).view(5, 3)
    weights[0].grad_dtype = of_gradient
    for weight, dtype in zip(weights, (of_gradient, own), strict=True):
        weight.grad = gradient.to(dtype)
        UPGD([weight], lr=0.1, sigma=0.0, betas=betas, kernels=kernels).step()
    assert torch.equal(*weights)


def test_errors_name_the_option_and_change_nothing() -> None:
    net = make_net()
    for wrong, message in [
        ({"lr": -1.0}, "lr must be a finite number >= 0, got -1.0"),
        ({"decay_rate": 1.0}, "decay_rate must be a number in"),
        ({"sigma": float("nan")}, "sigma must be a finite number"),
        ({"scaling": "row"}, "scaling must be 'global' or 'local', got 'row'"),
        ({"betas": (0.9,)}, "betas must be None or two numbers in"),
    ]:
        with pytest.raises(ValueError, match=message):
            UPGD(net.parameters(), **wrong)  # type: ignore[arg-type]
        optimizer = UPGD(net.parameters())
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], **wrong})
        assert len(optimizer.param_groups) == 1
    before = optimizer.state_dict()
    for damaged in (torch.optim.SGD(net.parameters()).state_dict(), {**before, "generators": []}):
        with pytest.raises(ValueError, match="generators"):
            optimizer.load_state_dict(damaged)
    assert torch.equal(optimizer.state_dict()["generators"][0], before["generators"][0])


@pytest.mark.parametrize("protecting", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_large_parameters_change_in_pieces_as_whole_tensors_would(
    monkeypatch: pytest.MonkeyPatch, protecting: bool, sigma: float
) -> None:
    results = []
    for piece in (2**20, 64):
        monkeypatch.setattr("gnt.optim._pieces.PIECE", piece)
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(shape)) for shape in [(40, 7), (3,), (0, 2), (100, 5), (21,)]]
        generator = torch.Generator().manual_seed(1)
        optimizer = UPGD(
            params, sigma=sigma, protecting=protecting, weight_decay=0.1, generator=generator, kernels=False
        )
        for _ in range(3):
            for param in params:
                param.grad = torch.randn(param.shape)
            version = params[0]._version
            optimizer.step()
            assert params[0]._version > version
        results.append(torch.cat([param.detach().flatten() for param in params]))
    assert torch.equal(*results)


def test_damaged_states_of_parameters_are_refused() -> None:
    net = make_net()
    optimizer = UPGD(net.parameters())
    backward(net, 0)
    optimizer.step()
    before = optimizer.state_dict()
    own = before["state"][0]
    for wrong, message in [
        (None, "is not one of UPGD: it lacks 'state', 'param_groups', 'generators', got NoneType"),
        ({"generators": before["generators"]}, "it lacks 'state', 'param_groups'"),
        ({**before, "state": {0: {**own, "avg_utility": torch.zeros(2)}}}, "avg_utility must have the shape"),
        ({**before, "state": {0: {**own, "exp_avg": torch.zeros(2)}}}, "exp_avg must have the shape"),
        ({**before, "state": {0: {"step": 1}}}, "lacks avg_utility"),
        ({**before, "state": {0: {**own, "step": "x"}}}, "step 'x', which must be an integer"),
    ]:
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(wrong)  # type: ignore[arg-type]
    assert optimizer.state[next(net.parameters())]["step"] == 1


def test_a_parameter_without_weights_takes_part() -> None:
    empty, other = nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.ones(2))
    optimizer = UPGD([empty, other], lr=0.5, sigma=0.0)
    empty.grad, other.grad = torch.zeros(0, 3), torch.ones(2)
    optimizer.step()
    assert bool((other.detach() < 1.0).all())
