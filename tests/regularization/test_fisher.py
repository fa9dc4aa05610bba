"""`EWC.consolidate` and `MAS.consolidate`: importance agrees with loops over samples and labels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnt
from tests.twins import memory as twin


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Shared(nn.Module):
    """One linear layer used twice, and one used beside its module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(self.a(x).tanh())
        return self.b(h) + nn.functional.linear(x, self.b.weight)


class Gated(nn.Module):
    """Weight and bias of linear layers have a second use, which the first of the samples lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        is_on = (x[:, :1] > -2.0).to(x.dtype)
        second = is_on * nn.functional.linear(x.square(), self.a.weight)
        out: Tensor = self.b(self.a(x) + second) + self.c(x) + is_on * self.c.bias * x[:, :3]
        return out


class Refusing(nn.Module):
    """Control flow that depends on the data, which vmap does not support."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return a + 0 * b if x.sum() > 0 else b + 0 * a


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(6, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


MODELS: dict[str, Any] = {
    "linear layers": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (4,)),
    "positions": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Flatten(), nn.Linear(10, 3)), (2, 4)),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), Flat(), nn.Linear(4, 3)), (2, 5, 5)),
    "shared weights": (Shared, (4,)),
    "a second use of some samples": (Gated, (4,)),
    "control flow": (Refusing, (4,)),
    "norm and dropout": (Norms, (4,)),
    "an activation with a weight": (lambda: nn.Sequential(nn.Linear(4, 6), nn.PReLU(), nn.Linear(6, 3)), (4,)),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    make, shape = MODELS[name]
    net = make().double()
    x = torch.randn(7, *shape, dtype=torch.float64)
    x[0] = -x[0].abs() - 2.0
    return net, x


def check(found: list[Tensor], expected: list[Tensor]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", MODELS)
def test_exact_and_empirical_fisher_and_mas_agree_with_loops_over_samples(name: str) -> None:
    net, x = build(name)
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    evaluated = copy.deepcopy(net).eval()
    exact, empirical, mas = (
        gnt.EWC(net, 1.0, chunk=3),
        gnt.EWC(net, 1.0, fisher="empirical"),
        gnt.MAS(net, 1.0, chunk=2),
    )
    exact.consolidate(net, x)
    empirical.consolidate(net, [(x[:4], y[:4]), (x[4:], y[4:])])
    mas.consolidate(net, [x[:1], x[1:]])
    check([exact.importance(p) for p in net.parameters()], twin.fisher(evaluated, x))
    check([empirical.importance(p) for p in net.parameters()], twin.fisher(evaluated, x, y))
    check([mas.importance(p) for p in net.parameters()], twin.sensitivity(evaluated, x))


def test_fisher_does_not_depend_on_batches_or_chunks() -> None:
    net, x = build("linear layers")
    results = []
    for data, chunk in ((x, 256), (list(x.split(1)), 1), (list(x.split(3)), 2)):
        ewc = gnt.EWC(net, 1.0, chunk=chunk)
        ewc.consolidate(net, data)
        results.append([ewc.importance(p) for p in net.parameters()])
    check(results[1], results[0])
    check(results[2], results[0])


def test_fisher_of_softmax_regression_has_its_closed_form() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 3).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    ewc = gnt.EWC(net, 1.0)
    ewc.consolidate(net, x)
    p = net(x).detach().softmax(1)
    torch.testing.assert_close(ewc.importance(net.weight), (p * (1 - p)).t() @ x.square() / 6)
    torch.testing.assert_close(ewc.importance(net.bias), (p * (1 - p)).mean(0))


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
def test_mean_of_sampled_fishers_approaches_the_exact_one(likelihood: Any) -> None:
    torch.manual_seed(0)
    net = nn.Linear(2, 3).double()
    x = torch.randn(2, 2, dtype=torch.float64)
    exact = gnt.EWC(net, 1.0, likelihood=likelihood)
    exact.consolidate(net, x)
    sampled = gnt.EWC(net, 1.0, likelihood=likelihood, fisher="sample", generator=torch.Generator().manual_seed(1))
    sampled.consolidate(net, x.repeat(4000, 1))
    for p in net.parameters():
        torch.testing.assert_close(sampled.importance(p), exact.importance(p), rtol=0.1, atol=0.0)


@pytest.mark.parametrize("fisher", ["sample", "exact"])
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fisher_in_16_bits_is_near_that_in_64(dtype: torch.dtype, likelihood: Any, fisher: Any) -> None:
    """Also of a class with a probability near 1, and of one that is rare."""
    x = torch.rand(20_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    found = []
    for each, how in ((torch.float64, "exact"), (dtype, fisher)):
        net = nn.Linear(2, 2).to(each)
        with torch.no_grad():
            net.weight.zero_()
            net.bias.copy_(torch.tensor([6.0, 0.0]))
        draws = torch.Generator().manual_seed(1)
        ewc = gnt.EWC(net, 1.0, likelihood=likelihood, fisher=how, generator=draws, chunk=4096)
        ewc.consolidate(net, x.to(each))
        found.append([ewc.importance(p).double() for p in net.parameters()])
    for exact, low in zip(*found, strict=True):
        torch.testing.assert_close(low, exact, rtol=0.4 if fisher == "sample" else 0.02, atol=0.0)


def test_gaussian_fisher_of_linear_regression_is_the_mean_of_squared_inputs() -> None:
    net = nn.Linear(3, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    ewc = gnt.EWC(net, 1.0, likelihood="gaussian")
    ewc.consolidate(net, x)
    torch.testing.assert_close(ewc.importance(net.weight), x.square().mean(0).expand(2, 3))


def test_samples_limits_the_number_of_samples_exactly() -> None:
    net, x = build("linear layers")
    ewc = gnt.EWC(net, 1.0, samples=4)
    ewc.consolidate(net, list(x.split(3)))
    check([ewc.importance(p) for p in net.parameters()], twin.fisher(net, x[:4]))


def test_only_the_outputs_of_the_task_count() -> None:
    net, x = build("linear layers")
    ewc = gnt.EWC(net, 1.0)
    ewc.consolidate(net, x, output=lambda x: net(x)[:, :2])
    assert not ewc.importance(net[2].weight)[2].any()  # type: ignore[index]
    assert ewc.importance(net[2].weight)[:2].any()  # type: ignore[index]


def test_consolidate_leaves_modes_buffers_gradients_generators_and_features_as_they_were() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3))
    engine = gnt.GnT(gnt.trace(net, torch.randn(2, 4)))
    x = torch.randn(8, 4)
    net(x).square().mean().backward()
    recorded = copy.deepcopy(engine.state_dict())
    net[4].eval()
    before = copy.deepcopy(net.state_dict())
    grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    modes, random = [m.training for m in net.modules()], torch.get_rng_state()
    hooks = [len(m._forward_hooks) for m in net.modules()]
    ewc = gnt.EWC(net, 1.0)
    ewc.consolidate(net, x)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values(), strict=True))
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True) if p.grad is not None)
    assert modes == [m.training for m in net.modules()]
    assert torch.equal(torch.get_rng_state(), random)
    assert hooks == [len(m._forward_hooks) for m in net.modules()]
    assert str(recorded) == str(engine.state_dict())


INVALID: list[tuple[type[Exception], str, dict[str, Any], Any]] = [
    (ValueError, "at least one sample, got none", {}, []),
    (ValueError, "at least one sample, got none", {}, torch.zeros(0, 4)),
    (TypeError, "data must be x, .x, y. or an iterable of batches, got None", {}, None),
    (ValueError, "fisher='empirical' needs labels", {"fisher": "empirical"}, torch.zeros(2, 4)),
    (
        ValueError,
        r"labels must be in 0..2, got 1..3",
        {"fisher": "empirical"},
        (torch.zeros(2, 4), torch.tensor([1, 3])),
    ),
    (ValueError, r"same length, got \[1, 2\]", {"fisher": "empirical"}, (torch.zeros(2, 4), torch.tensor([1]))),
    (FloatingPointError, "importance of parameter 0.weight is not finite", {}, torch.full((2, 4), float("nan"))),
]


@pytest.mark.parametrize(("error", "message", "settings", "data"), INVALID)
def test_data_that_do_not_fit_are_refused_and_nothing_changes(
    error: type[Exception], message: str, settings: dict[str, Any], data: Any
) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    ewc = gnt.EWC(net, 1.0, **settings)
    ewc.consolidate(net, (torch.randn(4, 4), torch.tensor([0, 1, 2, 0])))
    before = copy.deepcopy(ewc.state_dict())
    with pytest.raises(error, match=message):
        ewc.consolidate(net, data)
    assert str(before) == str(ewc.state_dict())


def test_networks_that_do_not_fit_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    ewc = gnt.EWC(net, 1.0)
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match="at least 2 classes, got \\(samples, 1\\)"):
        ewc.consolidate(net, x)
    with pytest.raises(ValueError, match=r"net does not have parameter 0.weight of this EWC"):
        ewc.consolidate(copy.deepcopy(net), x)
    net.append(nn.Linear(1, 2))
    with pytest.raises(ValueError, match=r"parameter 3.weight of net is not one of this EWC"):
        ewc.consolidate(net, x)
    net[2].weight.data = torch.zeros(2, 6)
    with pytest.raises(ValueError, match=r"parameter 2.weight had shape \(1, 6\)"):
        ewc()


def test_an_importance_that_is_not_finite_leaves_the_generator_as_it_was() -> None:
    net, x = nn.Linear(4, 3), torch.randn(5, 4)
    x[2] = torch.inf
    ewc = gnt.EWC(net, 1.0, fisher="sample")
    assert ewc.generator is not None
    before = ewc.generator.get_state()
    with pytest.raises(
        FloatingPointError, match="the importance of parameter weight is not finite; nothing was changed"
    ):
        ewc.consolidate(net, x)
    assert torch.equal(ewc.generator.get_state(), before)
    assert ewc.tasks == 0
