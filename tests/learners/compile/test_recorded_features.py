"""Objects that record features, such as SNR, act after a compiled step as after an eager one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnt
from tests.helpers.compiled_learners import (
    assert_states_close,
    eager_and_compiled,
    run_both,
    run_graphs_uncompiled,
    with_methods,
)
from tests.helpers.ensembles import FREQUENT_REPLACEMENT, member_batches
from tests.helpers.ensembles import mlp as member_mlp
from tests.helpers.small_runs import IMAGE_SHAPE, batch, conv_net, mlp

MakeMethod = Callable[[Any, torch.optim.Optimizer], Any]


def snr(net: Any, optimizer: torch.optim.Optimizer, **settings: Any) -> gnt.SNR:
    generator = torch.Generator().manual_seed(3)
    return gnt.SNR(net, optimizer, longest=4, estimate_every=7, eta=0.2, generator=generator, **settings)


def redo(net: Any, optimizer: torch.optim.Optimizer) -> gnt.ReDo:
    return gnt.ReDo(net, optimizer, tau=0.5, period=3, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return run_graphs_uncompiled(monkeypatch)


@pytest.mark.parametrize("make", [snr, redo])
@pytest.mark.parametrize(("net", "shape"), [(mlp, (4,)), (conv_net, IMAGE_SHAPE)], ids=["mlp", "conv"])
def test_units_and_states_are_those_of_the_eager_learner(
    make: MakeMethod, net: Callable[[], nn.Module], shape: tuple[int, ...], graphs: list[int]
) -> None:
    made = net().double()
    for module in made.modules():  # before a batch norm its gradient is only rounding, which Adam turns into full steps
        if isinstance(module, nn.Conv2d):
            module.bias = None
    eager, compiled = with_methods(made, make, opt="adam", step_size=0.02)
    assert run_both(eager, compiled, range(40), *shape) > 10
    assert_states_close(eager, compiled)
    assert len(graphs) == 1


def test_step_counts_of_units_that_a_method_resets() -> None:
    """The graph is captured before the first reset, when the optimizer has no counts of units."""

    def adam(params: Any) -> torch.optim.Optimizer:
        return gnt.AdamGnT(params, lr=0.02)

    eager, compiled = with_methods(mlp().double(), redo, opt=adam)
    assert run_both(eager, compiled, range(40)) > 10
    assert_states_close(eager, compiled)


def test_two_methods_beside_the_engine_of_the_learner() -> None:
    eager, compiled = with_methods(mlp().double(), snr, redo, kind=gnt.ContinualBackprop, opt="sgd", step_size=0.05)
    assert run_both(eager, compiled, range(40)) > 30
    assert_states_close(eager, compiled)


class ReadTwice(nn.Module):
    """The units of the first layer are read by two layers, at other positions by one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mixed, self.flat = nn.Conv1d(2, 6, 1), nn.Conv1d(6, 3, 1), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x.view(-1, 2, 4)))
        return self.mixed(h).mean(-1)[:, :2] + self.flat(h.flatten(1))[:, :2]


def test_units_with_several_consumers() -> None:
    torch.manual_seed(0)
    eager, compiled = eager_and_compiled(ReadTwice().double(), gnt.Backprop, opt="adam", step_size=0.02)
    for learner in (eager, compiled):
        groups = gnt.trace(learner.net, torch.randn(1, 8, dtype=torch.float64))
        assert len(groups[0].outgoing) == 2
        learner.methods = [snr(groups, learner.opt), redo(groups, learner.opt)]
    assert run_both(eager, compiled, range(40), 8) > 5
    assert_states_close(eager, compiled)


def test_an_ensemble() -> None:
    def make(compiled: bool) -> gnt.Ensemble:
        settings = {"opt": "adam", "step_size": 0.02, **FREQUENT_REPLACEMENT, "replacement_rate": 0.0}
        ensemble = gnt.Ensemble(member_mlp(6, 8, 7, 3), [3, 11], compile=compiled, **settings)
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        ensemble.methods = [gnt.SNR(ensemble.net, ensemble.opt, longest=4, generator=generators)]
        return ensemble

    eager, compiled = make(False), make(True)
    total = 0
    for t in range(40):
        x, y = member_batches(t, 2, 2, (6,), 3, "mse")
        a, b = eager.learn(x, y), compiled.learn(x, y)
        torch.testing.assert_close(b.loss, a.loss)
        assert [each.tolist() for each in a.replaced] == [each.tolist() for each in b.replaced]
        total += sum(map(len, a.replaced))
    assert total > 10


@pytest.mark.parametrize("backward", [True, False])
def test_forwards_of_ones_own_before_the_step(backward: bool) -> None:
    eager, compiled = with_methods(mlp().double(), snr, opt="sgd", step_size=0.05)
    for t in range(30):
        x, _ = batch(t)
        if t % 3 == 2:
            for learner in (eager, compiled):
                output = learner.net(10.0 * x.double())
                if backward:
                    output.sum().backward()
        run_both(eager, compiled, range(t, t + 1), n=1)
    assert_states_close(eager, compiled)


def test_a_step_that_is_refused_records_nothing() -> None:
    _, compiled = with_methods(mlp(), snr, opt="sgd", step_size=0.05)
    for t in range(5):
        compiled.learn(*batch(t))
    x, y = batch(5)
    before = copy.deepcopy(compiled.state_dict())
    with pytest.raises(FloatingPointError, match="nothing was changed"):
        compiled.learn(x, y * torch.nan)
    assert compiled.methods[0].steps == 5
    assert str(before) == str(compiled.state_dict())


def test_another_method_that_records_in_the_same_layers() -> None:
    eager, compiled = with_methods(mlp().double(), snr, opt="sgd", step_size=0.05)
    others = [redo(learner.net, learner.opt) for learner in (eager, compiled)]
    run_both(eager, compiled, range(5))
    for learner, other in zip((eager, compiled), others, strict=True):
        other.discard()
        learner.methods = [other]
    assert run_both(eager, compiled, range(5, 20)) > 3
    assert_states_close(eager, compiled)
    assert [other.steps for other in others] == [15, 15]
    compiled.net.zero_grad()
    compiled.learn(*(each.double() for each in batch(20)))
    assert all(p.grad is None for p in compiled.net.parameters())  # the step was compiled


def test_a_method_that_is_bound_to_other_groups() -> None:
    eager, compiled = with_methods(mlp().double(), snr, opt="sgd", step_size=0.05)
    run_both(eager, compiled, range(5))
    for learner in (eager, compiled):
        method = learner.methods[0]
        method.rebind(method.groups[1:])
    run_both(eager, compiled, range(5, 30))
    assert_states_close(eager, compiled)


def algorithm_1(net: Any, optimizer: torch.optim.Optimizer) -> gnt.GnT:
    settings: dict[str, Any] = {"replacement_rate": 0.1, "maturity_threshold": 3, "decay_rate": 0.9}
    return gnt.algorithm_1(net, optimizer, **settings, generator=torch.Generator().manual_seed(3))


def measuring_every_third(net: Any, optimizer: torch.optim.Optimizer) -> gnt.GnT:
    settings: dict[str, Any] = {"replacement_rate": 0.1, "maturity_threshold": 3, "decay_rate": 0.9}
    return gnt.GnT(net, optimizer, **settings, measure_every=3, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("make", "learner_steps"), [(redo, 1), (algorithm_1, 1), (measuring_every_third, 1), (algorithm_1, 3)]
)
def test_an_object_that_the_caller_steps(make: MakeMethod, learner_steps: int) -> None:
    eager, compiled = with_methods(mlp().double(), snr, opt="sgd", step_size=0.05)
    others = [make(learner.net, learner.opt) for learner in (eager, compiled)]
    for t in range(12):
        run_both(eager, compiled, range(t * learner_steps, (t + 1) * learner_steps), n=2)
        first, second = ([units.tolist() for units in other.step()] for other in others)
        assert first == second
    assert [sum(group.state.replaced for group in other.groups) > 3 for other in others] == [True, True]
    for one, two in zip(others[0].groups, others[1].groups, strict=True):
        torch.testing.assert_close(two.state.utility, one.state.utility)
        torch.testing.assert_close(two.state.mean_features, one.state.mean_features)
    for t in (40, 41):  # in the second step, features of the first one are waiting
        compiled.net.zero_grad()
        compiled.learn(*(each.double() for each in batch(t, n=2)))
    assert all(p.grad is None for p in compiled.net.parameters())  # the step was compiled


def test_a_graph_is_captured_while_features_wait() -> None:
    eager, compiled = with_methods(mlp().double(), opt="sgd", step_size=0.05)
    others = [algorithm_1(learner.net, learner.opt) for learner in (eager, compiled)]
    for sizes in ([8], [2], [8, 2, 2], [8, 2], [2, 8]):  # of size 2 the graph is captured in the third round
        for n in sizes:
            run_both(eager, compiled, range(n, n + 1), n=n)
        first, second = ([units.tolist() for units in other.step()] for other in others)
        assert first == second
    for one, two in zip(others[0].groups, others[1].groups, strict=True):
        torch.testing.assert_close(two.state.utility, one.state.utility)


def test_readers_of_gradients_of_features(graphs: list[int]) -> None:
    eager, compiled = eager_and_compiled(mlp().double(), utility="replacement_cost")
    readers = [gnt.importance.Importance(each.net, measure="gradient_activation") for each in (eager, compiled)]
    for t in range(20):
        run_both(eager, compiled, range(t, t + 1))
        for reader in readers:
            reader.update()
    for one, two in zip(readers[0].groups, readers[1].groups, strict=True):
        torch.testing.assert_close(two.state.utility, one.state.utility)
        assert one.state.utility.max() > 0
    assert len(graphs) == 1
