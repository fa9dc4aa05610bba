"""`GnT(soft=...)`: agreement with the literal twin and with ccbp-pytorch, ensembles, resume, protection, errors."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gnt
from tests.helpers.ensembles import mlp
from tests.twins.soft import SoftLayer

SIZES = (3, 6, 5, 2)


def make_net(*, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(SIZES):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def backward(net: nn.Sequential, seed: int) -> torch.Tensor:
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed), dtype=net[0].weight.dtype)
    net.zero_grad()
    (net(x) - x[:, :2].square()).square().mean().backward()
    return x


@pytest.mark.parametrize("transfer", [True, False])
def test_moves_agree_with_the_twin(transfer: bool) -> None:
    net = make_net()
    linear = [net[0], net[2], net[4]]
    settings: dict[str, Any] = {"rate": 0.5, "steepness": 4.0}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = gnt.GnT(
        net, optimizer, utility="gradient", decay_rate=0.8, maturity_threshold=3, bias_transfer=transfer,
        soft=gnt.SoftReplacement(**settings, period=2), generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    twins = [SoftLayer(units, **settings, decay_rate=0.8, maturity=3) for units in SIZES[1:-1]]
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        x = backward(net, step)
        features = [net[:2](x).detach().numpy(), net[:4](x).detach().numpy()]
        optimizer.step()
        weights = [layer.weight.detach().numpy().copy() for layer in linear]
        biases = [layer.bias.detach().numpy().copy() for layer in linear]
        replaced = engine.step()
        for number, twin in enumerate(twins):
            twin.update(features[number], linear[number].weight.grad.numpy())
        fresh = []
        for layer in linear[:2] if step % 2 else ():
            bound = 1 / layer.in_features**0.5
            fresh.append(torch.empty_like(layer.weight).uniform_(-bound, bound, generator=generator).numpy())
        for number, new in enumerate(fresh):
            after = biases[number + 1] if transfer else None
            twins[number].move(weights[number], biases[number], weights[number + 1], after, new)
        for layer, weight, bias in zip(linear, weights, biases, strict=True):
            np.testing.assert_allclose(layer.weight.detach().numpy(), weight, rtol=1e-12)
            np.testing.assert_allclose(layer.bias.detach().numpy(), bias, rtol=1e-12)
        for group, twin in zip(engine.groups, twins, strict=True):
            np.testing.assert_allclose(group.state.utility.numpy(), twin.utility, rtol=1e-12)
        assert not any(map(len, replaced))


def test_moves_agree_with_ccbp_pytorch() -> None:
    ccbp_pytorch = pytest.importorskip("ccbp_pytorch")
    nets = [make_net(bias=False).float(), make_net(bias=False).float()]
    fresh = torch.Generator().manual_seed(5)
    theirs = ccbp_pytorch.CCBP(
        torch.optim.Adam(nets[0].parameters(), lr=0.01), model=nets[0][:4], replacement_rate=0.3, reset_interval=2,
        utility_ema_decay=0.0, init_fn=lambda weight: weight.normal_(0.0, 0.4, generator=fresh),
        neuron_configs=[
            ccbp_pytorch.NeuronConfig(param=nets[0][i].weight, outgoing_param=nets[0][i + 2].weight) for i in (0, 2)
        ],
    )  # fmt: skip
    mine = torch.optim.Adam(nets[1].parameters(), lr=0.01)
    engine = gnt.GnT(
        nets[1], mine, utility="gradient", decay_rate=0.0, maturity_threshold=0, bias_transfer=False,
        soft=gnt.SoftReplacement(rate=0.3, period=2), generator=torch.Generator().manual_seed(5),
        init=lambda weight, slot, generator: weight.normal_(0.0, 0.4, generator=generator),
    )  # fmt: skip
    for step in range(6):
        for net in nets:
            backward(net, step)
        theirs.step()
        mine.step()
        engine.step()
        for own, other in zip(nets[1].parameters(), nets[0].parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_convolutions_and_norms_move() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2, groups=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 2),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net[1].parameters():
            parameter.add_(0.5)
    engine = gnt.GnT(net, soft=gnt.SoftReplacement(rate=1.0, steepness=0.0, period=1), maturity_threshold=0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(torch.randn(5, 2, 5, 5)).square().mean().backward()
    engine.step()  # sigmoid(0) = 1/2 for all units
    torch.testing.assert_close(net[1].weight.detach(), (before["1.weight"] + 1.0) / 2)
    torch.testing.assert_close(net[1].bias.detach(), before["1.bias"] / 2)
    torch.testing.assert_close(net[6].weight.detach(), before["6.weight"] / 2)
    bound = 1 / (2 * 2 * 2) ** 0.5  # of the consumer that is a producer, too: half of a quarter, and half of a draw
    assert ((net[3].weight - before["3.weight"] / 4).abs() <= bound / 2).all()
    assert not torch.equal(net[0].weight, before["0.weight"])


@pytest.mark.parametrize("kind", ["ensemble", "resumed"])
def test_the_same_run_in_an_ensemble_and_after_loading(kind: str) -> None:
    seeds, build = [3, 14], mlp(3, 6, 2)
    rules: dict[str, Any] = {
        "opt": "adam", "decay_rate": 0.9, "soft": gnt.SoftReplacement(rate=0.3, period=2),
    }  # fmt: skip

    def learner(seed: int) -> gnt.ContinualBackprop:
        torch.manual_seed(seed)
        return gnt.ContinualBackprop(build(), **rules, generator=torch.Generator().manual_seed(seed))

    def batch(step: int, net: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step)).to(next(net.parameters()).dtype)
        return x, x[:, :2]

    alone = [learner(seed) for seed in seeds]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    ensemble = gnt.Ensemble(build, seeds, generators=generators, **rules)
    other = learner(0)
    for step in range(6):
        x, y = batch(step, alone[0].net)
        for each in alone:
            each.learn(x, y)
        ensemble.learn(torch.stack([x, x]), torch.stack([y, y]))
        if step == 2:
            other.net.load_state_dict(alone[0].net.state_dict())
            other.load_state_dict(copy.deepcopy(alone[0].state_dict()))
        elif step > 2:
            other.learn(x, y)
    if kind == "resumed":
        for mine, theirs in zip(other.net.parameters(), alone[0].net.parameters(), strict=True):
            assert torch.equal(mine, theirs)
    else:
        for number, each in enumerate(alone):
            for mine, theirs in zip(ensemble.member(number).parameters(), each.net.parameters(), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("every", [1, 4])
def test_the_mean_utility_of_a_group_stays(every: int) -> None:
    net = make_net()
    engine = gnt.GnT(
        net, maturity_threshold=4, decay_rate=0.9, measure_every=every,
        soft=gnt.SoftReplacement(rate=1.0, steepness=0.0, period=12),
    )  # fmt: skip
    before = []
    for _ in range(12):
        before = [group.state.corrected_utility.clone() for group in engine.groups]
        backward(net, 0)
        engine.step()
    for group, utility in zip(engine.groups, before, strict=True):  # sigmoid(0) = 1/2: half way to the mean
        torch.testing.assert_close(group.state.corrected_utility, (utility + utility.mean()) / 2)


def moved_once(protect: object, rate: float) -> tuple[nn.Sequential, nn.Sequential]:
    """A network before and after one move of all units by ``rate``."""
    net = make_net()
    engine = gnt.GnT(
        net, protect=protect, maturity_threshold=0, soft=gnt.SoftReplacement(rate=rate, steepness=0.0, period=1)
    )
    before = copy.deepcopy(net)
    backward(net, 0)
    engine.step()
    return before, net


def test_protected_units_stay() -> None:
    class Held:
        def protected(self, group: gnt.UnitGroup) -> torch.Tensor:
            return torch.tensor([1.0, 0.5, *[0.0] * (group.num_units - 2)])

    before, net = moved_once(Held(), 1.0)
    # rate 1 and steepness 0: alpha is 1/2 where nothing is protected
    ratio = (net[4].weight.detach() / before[4].weight.detach())[0]
    torch.testing.assert_close(ratio, torch.tensor([1.0, 0.75, 0.5, 0.5, 0.5], dtype=torch.float64))


def test_units_that_are_not_available_stay() -> None:
    class NotNow:
        def protected(self, group: gnt.UnitGroup) -> None:
            return None

        def available(self, group: gnt.UnitGroup) -> torch.Tensor:
            return torch.arange(group.num_units) >= 2

    before, net = moved_once(NotNow(), 0.5)
    changed = (net[0].weight.detach() != before[0].weight.detach()).any(1)
    assert changed.tolist() == [False, False, True, True, True, True]


def test_errors_and_the_repr_name_the_setting() -> None:
    for wrong, message in [
        ({"rate": 1.5}, "rate must be a number in"),
        ({"steepness": -1.0}, "steepness must be a finite number >= 0, got -1.0"),
        ({"period": 0}, "period must be an integer >= 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            gnt.SoftReplacement(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"soft must be None, True or a gnt\.SoftReplacement, got 0\.1"):
        gnt.GnT(make_net(), soft=0.1)  # type: ignore[arg-type]
    engine = gnt.GnT(make_net(), soft=True)
    assert "soft=SoftReplacement(rate=0.015, steepness=16.0, period=1000)" in repr(engine)
    with pytest.raises(RuntimeError, match=r"SoftReplacement\(.*\) moves all units and selects none: call step\(\)"):
        engine.select()
    engine.soft = None
    assert not any(map(torch.Tensor.numel, engine.select()))
    assert "soft" not in repr(engine)
