"""`gnt.SWR`: agreement with the literal twin, optimizer state, ensembles, resume, errors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gnt
from tests.helpers.ensembles import mlp
from tests.twins.swr import TensorSWR


def norm_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2)).double()


def backward(net: nn.Module, seed: int, shape: tuple[int, ...] = (5, 3)) -> None:
    generator = torch.Generator().manual_seed(seed)
    net.zero_grad()
    x = torch.randn(*shape, generator=generator, dtype=next(net.parameters()).dtype)
    (net(x) - x.sum(-1, keepdim=True)).square().mean((-2, -1)).sum().backward()


def fresh_values(net: nn.Sequential, value: str, generator: torch.Generator) -> list[np.ndarray]:
    """New values for all parameters, drawn in order."""
    out = []
    for module in (net[0], net[1], net[3]):
        for name, parameter in module.named_parameters():
            new = torch.zeros(parameter.shape, dtype=torch.float64)
            if isinstance(module, nn.LayerNorm):
                new += name == "weight"
            elif name == "weight" and value == "resample":
                bound = 1 / parameter.shape[1] ** 0.5
                new.uniform_(-bound, bound, generator=generator)
            out.append(new.numpy())
    return out


@pytest.mark.parametrize(
    ("utility", "select", "factor", "value", "maturity", "decay_rate"),
    [
        ("gradient", "threshold", 0.3, "resample", 0, 0.0),
        ("gradient", "proportional", 0.53, "resample", 1, 0.95),
        ("magnitude", "threshold", 0.5, "mean", 2, 0.5),
        ("magnitude", "proportional", 0.4, "mean", 0, 0.0),
    ],
)
def test_steps_agree_with_the_twin(
    utility: Any, select: Any, factor: float, value: Any, maturity: int, decay_rate: float
) -> None:
    torch.manual_seed(0)
    net = norm_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    rules: dict[str, Any] = {"utility": utility, "select": select, "factor": factor, "value": value}
    swr = gnt.SWR(
        net, optimizer, **rules, period=2, maturity=maturity, decay_rate=decay_rate,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    parameters = list(net.parameters())
    twins = [TensorSWR(tuple(p.shape), decay_rate, maturity) for p in parameters]
    total = 0
    for step in range(8):
        backward(net, step)
        optimizer.step()
        weights = [p.detach().numpy().copy() for p in parameters]
        moments = [optimizer.state[p]["momentum_buffer"].numpy().copy() for p in parameters]
        due = swr.step()
        assert due == (step % 2 == 1)
        new = fresh_values(net, value, generator) if due else []
        for number, (twin, parameter) in enumerate(zip(twins, parameters, strict=True)):
            assert parameter.grad is not None
            found = twin.update(weights[number], parameter.grad.numpy(), utility)
            for position in twin.choose(found, select, factor) if due else []:
                weights[number][position] = new[number][position]
                moments[number][position] = 0.0
                total += 1
            np.testing.assert_array_equal(parameter.detach().numpy(), weights[number])
            np.testing.assert_array_equal(optimizer.state[parameter]["momentum_buffer"].numpy(), moments[number])
    assert total > 10
    assert sum(row.replaced for row in swr.report().parameters) == total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("utility", ["gradient", "magnitude"])
def test_averages_by_the_kernel_equal_those_by_torch_operations(
    utility: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 300), nn.ReLU(), nn.Linear(300, 9), nn.Linear(9, 2)).to(dtype)
    swrs = [gnt.SWR(net, utility=utility, decay_rate=decay, period=9) for decay in (0.9, 0.9)]
    for step in range(4):
        backward(net, step, (5, 7))
        net[3].weight.grad = net[3].weight.grad.t().contiguous().t()  # the kernel cannot read it
        swrs[0].step()
        with monkeypatch.context() as without:
            without.setattr("gnt.replacement._weight_utilities.use_kernels", lambda *_, **__: False)
            swrs[1].step()
    by_kernel, by_torch = (swr.state_dict() for swr in swrs)
    assert by_kernel["updates"] == by_torch["updates"] == [4] * 6
    torch.testing.assert_close(by_kernel["averages"], by_torch["averages"])


def test_without_utility_nothing_is_chosen_and_repetitions_are_counted() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    swr = gnt.SWR(net, period=1, factor=0.0, generator=torch.Generator().manual_seed(0))
    net[0].weight.grad = torch.zeros(3, 4)
    net[2].weight.grad = torch.tensor([[1.0, 0.0, 1.0]])
    before = copy.deepcopy(net.state_dict())
    for _ in range(2):
        swr.step()
    assert torch.equal(net[0].weight, before["0.weight"])
    assert torch.equal(net[2].weight[0] != before["2.weight"][0], torch.tensor([False, True, False]))
    first, second = swr.report().parameters
    assert (first.chosen, first.skipped) == (0, 1)
    assert (second.chosen, second.repeated, second.without_utility, second.replaced) == (1, 1, 1, 2)
    assert "repeated" in str(swr.report())


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.ASGD, gnt.AdamGnT])
def test_state_of_exactly_the_chosen_weights_is_reset(make: Any) -> None:
    torch.manual_seed(0)
    net = norm_net()
    optimizer = make(net.parameters())
    swr = gnt.SWR(net, optimizer, select="proportional", factor=0.5, period=3)
    for step in range(2):
        backward(net, step)
        optimizer.step()
        swr.step()
    backward(net, 2)
    optimizer.step()
    weight, state = net[0].weight, optimizer.state[net[0].weight]
    before = weight.detach().clone()
    kept = {k: v.clone() for k, v in state.items() if isinstance(v, torch.Tensor) and v.shape == weight.shape}
    swr.step()
    chosen = weight.detach() != before
    assert chosen.sum() == 9
    for key, value in kept.items():
        torch.testing.assert_close(state[key][~chosen], value[~chosen], rtol=0, atol=0)
        expected = weight.detach()[chosen] if key == "ax" else torch.zeros(9, dtype=torch.float64)
        torch.testing.assert_close(state[key][chosen], expected, rtol=0, atol=0)
    assert kept


@pytest.mark.parametrize("select", ["threshold", "proportional"])
def test_members_of_an_ensemble_equal_networks_trained_alone(select: Any) -> None:
    seeds = [3, 14]
    make_net = mlp(4, 6, 2)
    ensemble = gnt.Ensemble(make_net, seeds, replacement_rate=0.0)
    rules: dict[str, Any] = {"select": select, "factor": 0.3, "period": 2, "maturity": 1, "decay_rate": 0.5}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    together = gnt.SWR(ensemble.net, **rules, generator=generators)
    nets = []
    for seed in seeds:
        torch.manual_seed(seed)
        nets.append(make_net())
    alone = [gnt.SWR(n, **rules, generator=torch.Generator().manual_seed(s)) for n, s in zip(nets, seeds, strict=True)]
    for step in range(4):
        for net in nets:
            backward(net, step, (5, 4))
        for number, parameter in enumerate(ensemble.net.parameters()):
            parts = [list(net.parameters())[number].grad for net in nets]
            parameter.grad = torch.cat([part for part in parts if part is not None])
        together.step()
        for swr in alone:
            swr.step()
    for number, net in enumerate(nets):
        for mine, theirs in zip(ensemble.member(number).parameters(), net.parameters(), strict=True):
            assert torch.equal(mine, theirs)
    assert sum(row.replaced for row in together.report().parameters) > 10


def test_a_resumed_run_in_a_learner_equals_an_uninterrupted_one() -> None:
    def learner() -> Any:
        torch.manual_seed(0)
        net = norm_net()
        made = gnt.ContinualBackprop(net, opt="adam", replacement_rate=0.2, maturity_threshold=1)
        made.methods = [
            gnt.SWR(net, made.opt, select="proportional", factor=0.13, period=2, maturity=2, decay_rate=0.9)
        ]
        return made

    def train(made: Any, steps: range) -> None:
        for step in steps:
            x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            made.learn(x, x[:, :2])

    whole, first, second = learner(), learner(), learner()
    train(whole, range(9))
    train(first, range(5))
    second.net.load_state_dict(first.net.state_dict())
    second.load_state_dict(first.state_dict())
    train(second, range(5, 9))
    for mine, theirs in zip(second.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert sum(row.replaced for row in whole.methods[0].report().parameters) > 10


def test_weights_of_replaced_units_are_new() -> None:
    net = norm_net()
    swr = gnt.SWR(net, utility="magnitude", select="proportional", factor=1.0, period=3, maturity=1)
    engine = gnt.GnT(net, replacement_rate=0.0, follow=[swr])
    for _ in range(2):
        swr.step()
    engine.replace([torch.tensor([4])])
    before = net[0].weight.detach().clone()
    swr.step()
    changed = (net[0].weight != before).all(1)
    assert changed.tolist() == [True, True, True, True, False, True]


def test_errors_name_the_argument_and_change_nothing() -> None:
    net = norm_net()
    for wrong, message in [
        ({"utility": "saliency"}, "utility must be one of gradient, magnitude, random"),
        ({"select": "worst"}, "select must be 'threshold' or 'proportional', got 'worst'"),
        ({"factor": -0.1}, "factor must be a finite number >= 0, got -0.1"),
        ({"factor": 2.0, "select": "proportional"}, "factor must be in"),
        ({"period": 0}, "period must be an integer >= 1, got 0"),
        ({"value": "zero"}, "value must be one of 'resample', 'mean', got 'zero'"),
        ({"maturity": -1}, "maturity must be an integer >= 0"),
        ({"decay_rate": 1.0}, "decay_rate must be a number in"),
    ]:
        with pytest.raises(ValueError, match=message):
            gnt.SWR(net, **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a module"):
        gnt.SWR(list(net.parameters()))  # type: ignore[arg-type]
    ensemble = gnt.Ensemble(mlp(4, 6, 2), [1, 2], replacement_rate=0.0)
    for generator in (None, torch.Generator()):
        with pytest.raises(ValueError, match="those of 2 members: pass a list of 2 generators, one for each member"):
            gnt.SWR(ensemble.net, generator=generator)
    with pytest.raises(TypeError, match="Adafactor cannot be reset"):
        gnt.SWR(net, torch.optim.Adafactor(net.parameters()))
    with pytest.raises(ValueError, match=r"does not hold 0\.weight"):
        gnt.SWR(net, torch.optim.SGD(norm_net().parameters()))
    swr = gnt.SWR(net, period=1)
    with pytest.raises(RuntimeError, match=r"before optimizer\.zero_grad"):
        swr.step()
    saved = swr.state_dict()
    assert swr.steps == 0
    for damaged in ({**saved, "born": saved["born"][:1]}, {**saved, "updates": [-1] * 6}, {"version": 1}):
        with pytest.raises(ValueError, match="state_dict"):
            swr.load_state_dict(damaged)
    own = gnt.SWR(net, utility=lambda parameter: parameter[:1], period=1)
    with pytest.raises(ValueError, match=r"the utility of 0\.weight must be a tensor of shape"):
        own.step()


def test_new_weights_are_from_the_distribution_that_the_network_was_drawn_from() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(50, 60), nn.ReLU(), nn.Linear(60, 2))
    nn.init.kaiming_uniform_(net[0].weight, nonlinearity="relu")
    bound = (6 / 50) ** 0.5
    swr = gnt.SWR(net, utility="magnitude", select="proportional", factor=1.0, period=1)
    with torch.no_grad():
        net[0].weight.mul_(3.0)
    swr.step()
    assert 0.98 * bound < net[0].weight.abs().max() <= bound
    assert not net[0].bias.any()


def test_a_utility_function_may_return_integers_or_flags_and_nothing_complex() -> None:
    for utility in (lambda p: p > 0, lambda p: (10 * p).int().abs(), lambda p: p.abs().half()):
        for select in ("threshold", "proportional"):
            net = norm_net()
            swr = gnt.SWR(net, utility=utility, select=select, factor=0.5, period=1)  # type: ignore[arg-type]
            assert swr.step()
            assert swr.report().parameters[0].chosen > 0
    swr = gnt.SWR(norm_net(), utility=lambda p: p * 1j, period=1)
    with pytest.raises(ValueError, match=r"the utility of 0\.weight must be real numbers, got torch\.complex"):
        swr.step()
    assert swr.steps == 0
    with pytest.raises(ValueError, match="select must be 'threshold' or 'proportional', got \\['threshold'\\]"):
        gnt.SWR(norm_net(), select=["threshold"])  # type: ignore[arg-type]
