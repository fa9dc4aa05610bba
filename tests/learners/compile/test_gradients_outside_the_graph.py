"""Optimizers and methods that act on gradients after the graph give the results of the eager learner.

The graph then ends with the gradients, which are left in ``.grad``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnt
from gnt.optim import UPGD, CBPAdam
from tests.helpers.compiled_learners import (
    Learner,
    assert_states_close,
    eager_and_compiled,
    run_both,
    run_graphs_uncompiled,
    samples,
    state,
    with_methods,
)
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, IMAGE_SHAPE, assert_same, conv_net, mlp

Params = Any


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return run_graphs_uncompiled(monkeypatch)


def upgd(params: Params) -> torch.optim.Optimizer:
    return UPGD(params, lr=0.02, sigma=0.01, generator=torch.Generator().manual_seed(2))


def clipped_sgd(params: Params) -> torch.optim.Optimizer:
    params = list(params)
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.8)

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(params, 0.5)

    optimizer.register_step_pre_hook(clip)
    return optimizer


OPTIMIZERS: dict[str, Callable[[Params], torch.optim.Optimizer]] = {
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "UPGD": upgd,
    "SGD with a hook": clipped_sgd,
}


@pytest.mark.parametrize("opt", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_optimizer(opt: Any, graphs: list[int]) -> None:
    eager, compiled = eager_and_compiled(mlp().double(), opt=opt)
    assert run_both(eager, compiled, range(40)) > 10
    assert_states_close(eager, compiled)
    assert len(graphs) == 1
    for own, other in zip(eager.net.parameters(), compiled.net.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.parametrize("measure_every", [1, 3])
def test_buffers_dropout_features_and_measures(measure_every: int, graphs: list[int]) -> None:
    net = nn.Sequential(*conv_net(), nn.Dropout(0.3), nn.ReLU(), nn.Linear(2, 2)).double()
    opt: Any = OPTIMIZERS["RMSprop"]
    eager, compiled = eager_and_compiled(net, opt=opt, measure_every=measure_every)
    assert run_both(eager, compiled, range(20), *IMAGE_SHAPE) > 10
    assert_states_close(eager, compiled, rtol=1e-6, atol=1e-8)
    assert len(graphs) == 1


class WithPredict(nn.Module):
    def __init__(self, *, retains_gradients: bool = True) -> None:
        super().__init__()
        self.layers, self.retains_gradients = mlp(), retains_gradients

    def predict(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        first = self.layers[:2](x)
        second = self.layers[2:4](first)
        for feature in (first, second) if self.retains_gradients else ():
            feature.retain_grad()  # for measures that read it
        return self.layers[4:](second), [first, second]


def test_features_returned_by_predict() -> None:
    opt: Any = OPTIMIZERS["RMSprop"]
    eager, compiled = eager_and_compiled(WithPredict(retains_gradients=False).double(), opt=opt)
    assert run_both(eager, compiled, range(20)) > 10
    assert_states_close(eager, compiled)


class TwoReaders(nn.Module):
    """Hidden units that two layers read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.left, self.right = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.left(h) + self.right(h)


def cbp_adam(net: nn.Module) -> torch.optim.Optimizer:
    return CBPAdam(net, lr=0.01, generator=torch.Generator().manual_seed(4), **FREQUENT_REPLACEMENT)  # type: ignore[arg-type]


def sgd_with_engine(net: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    settings: Any = FREQUENT_REPLACEMENT
    gnt.GnT(net, optimizer, generator=torch.Generator().manual_seed(4), **settings).attach()
    return optimizer


@pytest.mark.parametrize("make", [cbp_adam, sgd_with_engine])
def test_optimizers_with_an_engine(make: Callable[[nn.Module], torch.optim.Optimizer], graphs: list[int]) -> None:
    nets = mlp().double(), mlp().double()
    eager, compiled = (
        gnt.Backprop(net, opt=make(net), compile=compile) for net, compile in zip(nets, (False, True), strict=True)
    )
    assert run_both(eager, compiled, range(40)) > 10
    assert_states_close(eager, compiled)
    assert len(graphs) == 1


def si(net: Any, _: Any) -> gnt.SI:
    return gnt.SI(net, 0.5)


def ewc(net: Any, _: Any) -> gnt.EWC:
    return gnt.EWC(net, 2.0, likelihood="gaussian")


def swr(net: Any, optimizer: torch.optim.Optimizer) -> gnt.SWR:
    generator = torch.Generator().manual_seed(3)
    return gnt.SWR(net, optimizer, select="proportional", factor=0.1, period=4, generator=generator)


def agem(net: Any, _: Any) -> gnt.AGEM:
    return gnt.AGEM(net, gnt.ReplayBuffer(20, generator=torch.Generator().manual_seed(1)), nn.MSELoss())


class Sign:
    """Replaces gradients by their signs."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def after_backward(self) -> None:
        for parameter in self.net.parameters():
            if parameter.grad is not None:
                parameter.grad.sign_()


METHODS: dict[str, list[Callable[[Any, Any], Any]]] = {
    "SI": [si],
    "SI after EWC": [ewc, si],
    "SWR": [swr],
    "A-GEM": [agem],
    "GEM": [lambda net, _: gnt.GEM(net, nn.MSELoss(), per_task=9, generator=torch.Generator().manual_seed(1))],
    "own": [lambda net, _: Sign(net)],
    "L2 Init before a method of one's own": [lambda net, _: gnt.L2Init(net, 0.1), lambda net, _: Sign(net)],
}


@pytest.mark.parametrize("kind", [gnt.Backprop, gnt.ContinualBackprop])
@pytest.mark.parametrize("makers", METHODS.values(), ids=METHODS)
def test_methods_that_read_or_change_gradients(makers: Any, kind: type[Learner], graphs: list[int]) -> None:
    eager, compiled = with_methods(mlp().double(), *makers, kind=kind, opt="adam", step_size=0.01)
    for task in range(3):
        for learner in (eager, compiled):
            learner.begin_task(task=task)
        run_both(eager, compiled, range(10 * task, 10 * task + 10))
        for learner in (eager, compiled):
            data = [samples(t, learner.net) for t in range(2)]
            learner.end_task(data=data)
    assert_states_close(eager, compiled, rtol=1e-7, atol=1e-9)
    assert 1 <= len(graphs) <= 2  # EWC has no penalty in the first task


def test_hooks_on_parameters(graphs: list[int]) -> None:
    eager, compiled = eager_and_compiled(mlp().double())
    seen: list[list[Tensor]] = [[], []]
    run_both(eager, compiled, range(5))
    for learner, own in zip((eager, compiled), seen, strict=True):
        first, last = learner.net[0].weight, learner.net[4].bias
        first.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
        last.register_post_accumulate_grad_hook(lambda parameter, own=own: own.append(parameter.grad.clone()))
    assert run_both(eager, compiled, range(5, 25)) > 5
    assert_states_close(eager, compiled)
    assert len(graphs) == 2
    assert len(seen[0]) == len(seen[1]) == 20
    torch.testing.assert_close(seen[0], seen[1])


def test_what_needs_gradients_may_come_and_go(graphs: list[int]) -> None:
    eager, compiled = eager_and_compiled(mlp().double(), opt="adam", step_size=0.01)
    run_both(eager, compiled, range(5))
    for learner in (eager, compiled):
        learner.methods = [gnt.SI(learner.net, 0.5)]
    run_both(eager, compiled, range(5, 10))
    assert all(parameter.grad is not None for parameter in compiled.net.parameters())
    handles = []
    for learner in (eager, compiled):
        learner.methods = []
        handles.append(learner.opt.register_step_post_hook(lambda *_: None))
    run_both(eager, compiled, range(10, 15))
    for handle in handles:
        handle.remove()
    run_both(eager, compiled, range(15, 30))
    assert_states_close(eager, compiled)
    assert len(graphs) == 2  # with the optimizer's step and without


def test_no_gradient_of_an_earlier_step_is_left_by_a_graph_with_the_optimizer() -> None:
    learner = gnt.Backprop(mlp(), compile=True)
    with_gradients = []
    for t, size in enumerate((8, 8, 8, 5, 8)):  # the first step with each size runs without a graph
        learner.learn(*samples(t, learner.net, n=size))
        with_gradients.append(all(parameter.grad is not None for parameter in learner.net.parameters()))
        assert with_gradients[-1] or all(parameter.grad is None for parameter in learner.net.parameters())
    assert with_gradients == [True, False, False, True, False]


def test_a_hook_on_a_parameter_of_the_loss_and_methods_that_are_assigned_again(graphs: list[int]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
            self.scale.register_hook(lambda gradient: gradient)

        def forward(self, output: Tensor, y: Tensor) -> Tensor:
            return (self.scale * output - y).square().mean()

    learner = gnt.Backprop(mlp().double(), loss=Scaled(), compile=True)
    for t in range(6):
        learner.learn(*samples(t, learner.net))
        learner.methods = [gnt.L2(learner.net, 0.1)]
    assert len(graphs) == 1


def test_other_readers_of_features_and_earlier_forwards() -> None:
    def snr(net: Any, optimizer: torch.optim.Optimizer) -> gnt.SNR:
        generator = torch.Generator().manual_seed(3)
        return gnt.SNR(net, optimizer, longest=4, estimate_every=7, eta=0.2, generator=generator)

    eager, compiled = with_methods(
        mlp().double(), snr, kind=gnt.ContinualBackprop, opt=OPTIMIZERS["RMSprop"], replacement_rate=0.02
    )
    for t in range(30):
        if t % 5 == 4:
            for learner in (eager, compiled):
                learner.net(samples(100 + t, learner.net)[0])
        run_both(eager, compiled, range(t, t + 1))
    assert_states_close(eager, compiled)


def train_both(eager: gnt.Ensemble, compiled: gnt.Ensemble) -> None:
    """Train two ensembles of two members; assert equal losses, outputs, replaced units and states."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x, y = (torch.randn(2, 5, n, generator=generator, dtype=torch.float64) for n in (4, 2))
        one, other = eager.learn(x, y), compiled.learn(x, y)
        torch.testing.assert_close((one.loss, one.output), (other.loss, other.output))
        assert [u.tolist() for u in one.replaced] == [u.tolist() for u in other.replaced]
    assert_states_close(eager, compiled)


@pytest.mark.parametrize("settings", [{"replacement_rate": 0.0}, FREQUENT_REPLACEMENT], ids=["backprop", "engine"])
def test_members_of_an_ensemble(settings: dict[str, Any], graphs: list[int]) -> None:
    def make_net() -> nn.Module:
        layers = nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2)
        return nn.Sequential(*layers).double()

    opt: Any = OPTIMIZERS["NAdam"]
    eager, compiled = (gnt.Ensemble(make_net, [3, 11], opt=opt, compile=each, **settings) for each in (False, True))
    train_both(eager, compiled)
    assert len(graphs) == 1


def with_dropout() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2)
    return nn.Sequential(*layers).double()


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    eager, compiled = eager_and_compiled(with_dropout(), opt=OPTIMIZERS["RMSprop"])
    run_both(eager, compiled, range(4))
    before, random_state = state(compiled), torch.get_rng_state()
    for learner in (eager, compiled):
        x, y = samples(4, learner.net)
        with pytest.raises(FloatingPointError, match="the loss is nan; nothing was changed"):
            learner.learn(x, y * torch.nan)
    assert_same(before, state(compiled))
    assert_same(random_state, torch.get_rng_state())
    assert not compiled.gnt.waiting
    run_both(eager, compiled, range(5, 15))
    assert_states_close(eager, compiled)


def test_an_error_in_the_step_of_the_optimizer_leaves_what_the_forward_changed() -> None:
    class Failing(torch.optim.RMSprop):
        fails = False

        def step(self, closure: Any = None) -> None:
            if self.fails:
                raise RuntimeError("no step")
            super().step(closure)

    compiled = gnt.ContinualBackprop(net := with_dropout(), opt=Failing(net.parameters()), compile=True)
    for t in range(4):
        compiled.learn(*samples(t, net))
    before, random_state = state(compiled), torch.get_rng_state()
    compiled.opt.fails = True
    with pytest.raises(RuntimeError, match="no step"):
        compiled.learn(*samples(4, net))
    assert_same(before, state(compiled))
    assert_same(random_state, torch.get_rng_state())
    assert not compiled.gnt.waiting


def test_each_gradient_has_memory_of_its_own() -> None:
    """The gradients of both biases are equal, and that of ``unused`` does not exist."""

    class TwoBiases(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.other = nn.Linear(4, 3), nn.Parameter(torch.zeros(3))
            self.unused = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + self.other

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return output.sum() + y.sum() * 0

    net = TwoBiases()
    learner = gnt.Backprop(net, loss=loss, opt=torch.optim.RMSprop(net.parameters()), compile=True)
    for _ in range(4):
        learner.learn(torch.ones(2, 4), torch.ones(2, 3))
    assert net.unused.grad is None
    gradients = net.linear.weight.grad, net.linear.bias.grad, net.other.grad
    for number, gradient in enumerate(gradients):
        assert gradient is not None
        assert gradient.is_contiguous()
        assert gradient.unique().tolist() == [2.0]
        gradient.add_(number + 1)
    assert [each.unique().tolist() for each in gradients if each is not None] == [[3.0], [4.0], [5.0]]


def test_learning_rate_schedules_do_not_warn() -> None:
    eager, compiled = eager_and_compiled(mlp().double(), opt=OPTIMIZERS["RMSprop"])
    schedulers = [torch.optim.lr_scheduler.StepLR(learner.opt, 5) for learner in (eager, compiled)]
    for t in range(15):
        run_both(eager, compiled, range(t, t + 1))
        for scheduler in schedulers:
            scheduler.step()
    assert_states_close(eager, compiled)


MEASURES = ["gradient_activation", "replacement_cost"]


@pytest.mark.parametrize("utility", MEASURES)
@pytest.mark.parametrize("net", [mlp, TwoReaders, WithPredict])
def test_measures_of_gradients_of_features(net: Callable[[], nn.Module], utility: str, graphs: list[int]) -> None:
    made = net().double()
    settings: dict[str, Any] = {}
    learners = []
    for compiled in (False, True):
        own = copy.deepcopy(made)
        if net is TwoReaders:
            settings = {"layers": gnt.trace(own, torch.zeros(2, 4, dtype=torch.float64))}
        opt, generator = torch.optim.RMSprop(own.parameters(), lr=0.01), torch.Generator().manual_seed(5)
        given = {**FREQUENT_REPLACEMENT, **settings, "generator": generator, "utility": utility, "compile": compiled}
        learners.append(gnt.ContinualBackprop(own, opt=opt, **given))
    assert run_both(*learners, range(30)) > 5
    assert_states_close(*learners)
    assert len(graphs) == 1


@pytest.mark.parametrize("utility", MEASURES)
def test_measures_of_gradients_of_features_in_an_ensemble(utility: str, graphs: list[int]) -> None:
    def make_net() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()

    opt: Any = OPTIMIZERS["RMSprop"]
    settings: Any = {"opt": opt, "utility": utility, **FREQUENT_REPLACEMENT}
    eager, compiled = (gnt.Ensemble(make_net, [3, 11], compile=each, **settings) for each in (False, True))
    train_both(eager, compiled)
    assert len(graphs) == 1
