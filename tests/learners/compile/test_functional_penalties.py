"""Penalties of methods are part of a compiled step, with the gradients of the eager step."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnt
from gnt.regularization import FunctionalPenalty
from tests.helpers.compiled_learners import (
    assert_states_close,
    eager_and_compiled,
    run_both,
    run_graphs_uncompiled,
    samples,
    with_methods,
)
from tests.helpers.ensembles import FREQUENT_REPLACEMENT, member_batches
from tests.helpers.ensembles import mlp as member_mlp
from tests.helpers.small_runs import IMAGE_SHAPE, conv_net, mlp

PENALTIES: dict[str, Callable[..., Any]] = {
    "l2": lambda net, _=None: gnt.L2(net, 0.03),
    "l2_init": lambda net, _=None: gnt.L2Init(net, 0.03),
    "spectral": lambda net, _=None: gnt.Spectral(net, 0.03, exponent=3.0, generator=torch.Generator().manual_seed(3)),
    "parseval": lambda net, _=None: gnt.Parseval(net, 0.03, scale=0.5),
    "ewc": lambda net, _=None: gnt.EWC(net, 30.0, likelihood="gaussian"),
    "mas": lambda net, _=None: gnt.MAS(net, 3.0),
}
each_penalty = pytest.mark.parametrize("name", PENALTIES)


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return run_graphs_uncompiled(monkeypatch)


def end_task(*learners: Any) -> None:
    draws = torch.Generator().manual_seed(9)
    data = [(torch.randn(8, 4, generator=draws).double(), torch.randn(8, 2, generator=draws).double())]
    for learner in learners:
        learner.end_task(data=data)


@each_penalty
@pytest.mark.parametrize("kind", [gnt.Backprop, gnt.ContinualBackprop])
def test_weights_and_states_are_those_of_the_eager_learner(name: str, kind: Any, graphs: list[int]) -> None:
    eager, compiled = with_methods(mlp().double(), PENALTIES[name], kind=kind, opt="adam", step_size=0.01)
    without = copy.deepcopy(eager)
    without.methods = ()
    replaced = run_both(eager, compiled, range(12), 4)
    if name in ("ewc", "mas"):
        end_task(eager, compiled)
    replaced += run_both(eager, compiled, range(12, 40), 4)
    assert_states_close(eager, compiled, rtol=1e-7, atol=1e-9)
    assert len(graphs) == (2 if name in ("ewc", "mas") else 1)  # before the first task has ended there is no penalty
    assert bool(replaced) == (kind is gnt.ContinualBackprop)
    run_both(without, copy.deepcopy(without), range(40), 4)
    assert not torch.allclose(without.net[0].weight, eager.net[0].weight, rtol=1e-3)


def test_several_penalties_of_a_network_with_convolutions(graphs: list[int]) -> None:
    net = conv_net().double()
    for module in net.modules():  # before a batch norm its gradient is only rounding, which Adam turns into full steps
        if isinstance(module, nn.Conv2d):
            module.bias = None
    eager, compiled = with_methods(
        net, *(PENALTIES[name] for name in ("spectral", "l2_init", "parseval")), opt="adam", step_size=0.01
    )
    run_both(eager, compiled, range(12), *IMAGE_SHAPE)
    assert_states_close(eager, compiled, rtol=1e-6, atol=1e-8)
    assert len(graphs) == 1


@each_penalty
def test_strength_may_change_in_each_step(name: str, graphs: list[int]) -> None:
    eager, compiled = with_methods(mlp().double(), PENALTIES[name], opt="sgd", step_size=0.05)
    end_task(*[each for each in (eager, compiled) if name in ("ewc", "mas")])
    for t in range(9):
        for learner in (eager, compiled):
            learner.methods[0].strength = 0.1 / (1 + t)
        run_both(eager, compiled, range(t, t + 1), 4)
    assert_states_close(eager, compiled, rtol=1e-8, atol=1e-10)
    assert len(graphs) == 1


@pytest.mark.parametrize("name", ["l2", "l2_init", "spectral", "parseval"])  # others measure one network's outputs
def test_penalty_of_an_ensemble(name: str) -> None:
    own = {"opt": "adam", "step_size": 0.01, **FREQUENT_REPLACEMENT}
    made = [gnt.Ensemble(member_mlp(6, 8, 7, 3), [3, 11], compile=flag, **own) for flag in (False, True)]
    for ensemble in made:
        ensemble.methods = [PENALTIES[name](ensemble.net)]
    for t in range(20):
        results = [ensemble.learn(*member_batches(t, 2, 2, (6,), 3, "mse")) for ensemble in made]
        torch.testing.assert_close(results[0].loss, results[1].loss)
    for a, b in zip(made[0].net.parameters(), made[1].net.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@each_penalty
def test_frozen_parameters(name: str, graphs: list[int]) -> None:
    eager, compiled = with_methods(mlp().double(), PENALTIES[name], opt="sgd", step_size=0.05)
    run_both(eager, compiled, range(3), 4)
    end_task(*[each for each in (eager, compiled) if name in ("ewc", "mas")])
    before = compiled.net[0].weight.detach().clone()
    for learner in (eager, compiled):
        learner.net[0].weight.requires_grad_(False)
    run_both(eager, compiled, range(3, 8), 4)
    assert_states_close(eager, compiled)
    assert torch.equal(compiled.net[0].weight, before)
    assert len(graphs) == 2


def test_a_parameter_that_only_the_penalty_changes() -> None:
    net = mlp().double()
    net.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    eager, compiled = with_methods(net, PENALTIES["l2"], opt="sgd", step_size=0.05)
    run_both(eager, compiled, range(5), 4)
    assert_states_close(eager, compiled)
    assert 0.9 < compiled.net.unused[0].item() < 1.0


def test_losses_that_are_not_finite_change_nothing() -> None:
    _, compiled = with_methods(mlp(), PENALTIES["spectral"], opt="sgd", step_size=0.05)
    for t in range(3):
        torch.manual_seed(t)
        compiled.learn(torch.randn(8, 4), torch.randn(8, 2))
    before = copy.deepcopy(compiled.state_dict())
    del before["kind"]
    with pytest.raises(FloatingPointError, match="nothing was changed"):
        compiled.learn(torch.full((8, 4), torch.nan), torch.randn(8, 2))
    after = {name: compiled.state_dict()[name] for name in before}
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_parameters_of_another_network_are_refused() -> None:
    compiled = gnt.Backprop(mlp(), compile=True, methods=[gnt.L2(mlp(), 0.1)])
    x, y = torch.randn(8, 4), torch.randn(8, 2)
    compiled.learn(x, y)
    with pytest.raises(RuntimeError, match="6 of the 6 parameters of a penalty are not parameters of the learner's"):
        compiled.learn(x, y)


class Changed(gnt.L2):
    """A subclass with another penalty than its functional one."""

    def penalty(self) -> Tensor:
        return super().penalty().sqrt()


class Both(Changed):
    """A penalty of one's own in both forms: strength * the length of all parameters."""

    def functional_penalty(self) -> FunctionalPenalty:
        return FunctionalPenalty(_length, self.parameters, numbers=[self.strength])


def _length(parameters: Any, tensors: Any, numbers: Any) -> tuple[Tensor, tuple[()]]:
    assert not tensors
    return (numbers[0] * torch.stack([each.square().sum() for each in parameters]).sum()).sqrt(), ()


def test_penalties_of_ones_own() -> None:
    net = mlp().double()
    with pytest.raises(TypeError, match=r"Changed would not be part of it.*cannot call its penalty"):
        gnt.Backprop(net, compile=True, methods=[Changed(net, 0.1)])
    replaced = gnt.L2(net, 0.1)
    vars(replaced)["penalty"] = lambda: torch.zeros(())
    with pytest.raises(TypeError, match="L2 would not be part of it"):
        gnt.Backprop(net, compile=True, methods=[replaced])
    eager, compiled = eager_and_compiled(net, gnt.Backprop, step_size=0.05)
    for learner in (eager, compiled):
        learner.methods = [Both(learner.net, 0.1)]
    run_both(eager, compiled, range(6), 4)
    assert_states_close(eager, compiled)


def test_wrong_penalties_of_ones_own() -> None:
    class Wrong(gnt.L2):
        returned: Any = None

        def penalty(self) -> Tensor:
            return super().penalty()

        def functional_penalty(self) -> Any:
            return self.returned

    net = mlp()
    method = Wrong(net, 0.1)
    compiled = gnt.Backprop(net, compile=True, methods=[method])
    x, y = torch.randn(8, 4), torch.randn(8, 2)
    compiled.learn(x, y)
    for returned, error, message in [
        (3.0, TypeError, "functional_penalty of Wrong must return a gnt.regularization.FunctionalPenalty or None"),
        (FunctionalPenalty(lambda *_: (torch.ones(2), ()), [net[0].weight]), RuntimeError, r"got shape \(2,\) first"),
        (FunctionalPenalty(lambda *_: (1.0, ()), [net[0].weight]), RuntimeError, "got float first"),
        (
            FunctionalPenalty(lambda p, t, n: (p[0].sum(), t[:1]), [net[0].weight], [torch.ones(2)] * 2),
            RuntimeError,
            "of all its 2 tensors or of none, got 1",
        ),
    ]:
        vars(method)["returned"] = returned
        for _ in range(2 if error is RuntimeError else 1):
            before = copy.deepcopy(net.state_dict())
            try:
                compiled.learn(x, y)  # the first step of each kind runs eagerly
            except error as raised:
                assert re.search(message, str(raised))  # noqa: PT017
                torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
                break
        else:
            pytest.fail(f"{returned} was taken")
    vars(method)["returned"] = None
    compiled.learn(x, y)

    class Only:
        def functional_penalty(self) -> None:
            return None

        def after_step(self) -> None:
            pass

    with pytest.raises(TypeError, match="Only has functional_penalty and must have penalty, too"):
        gnt.Backprop(net, methods=[Only()])


@pytest.mark.parametrize("name", ["spectral", "parseval"])
def test_penalties_under_autocast_are_those_of_the_eager_step(name: str) -> None:
    eager, compiled = with_methods(mlp(), PENALTIES[name])
    for t in range(4):
        for learner in (eager, compiled):
            with torch.autocast("cpu", torch.bfloat16):
                learner.learn(*samples(t, learner.net))
    assert_states_close(eager, compiled, rtol=1e-2, atol=1e-3)
