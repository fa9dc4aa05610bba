"""Steps of engines with ``kernels=True`` equal steps with torch operations, also after the network or data change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gnt
from gnt.importance import FeatureBuffer
from gnt.optim import CBPSGD, CBPAdam
from tests.helpers.small_runs import assert_same, mlp, replaced

Change = Callable[[nn.Module, Any], None]


def inputs(t: int, n: int = 4, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(t), dtype=torch.float64).to(dtype)


def learn(net: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    net(x).square().mean().backward()
    optimizer.step()


def build(dtype: torch.dtype = torch.float64, **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer, gnt.GnT]:
    net = mlp(5, 9, 7, 2).to(dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    settings = {"replacement_rate": 0.05, "maturity_threshold": 4, **settings}
    engine = gnt.GnT(net, optimizer, generator=torch.Generator().manual_seed(3), **settings)
    return net, optimizer, engine


def assert_equal_runs(*runs: tuple[nn.Module, gnt.GnT]) -> None:
    (net, engine), (other_net, other_engine) = runs
    assert replaced(engine) == replaced(other_engine)
    for group, other in zip(engine.groups, other_engine.groups, strict=True):
        assert torch.equal(group.state.age, other.state.age)
        torch.testing.assert_close(group.state.utility, other.state.utility, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(list(net.parameters()), list(other_net.parameters()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("utility", ["contribution", "adaptable_contribution", "weight", "adaptation"])
@pytest.mark.parametrize("accumulate", [True, False])
def test_kernels_replace_the_same_units(utility: str, accumulate: bool) -> None:
    runs = [build(utility=utility, accumulate=accumulate, kernels=kernels) for kernels in (True, False)]
    for t in range(80):
        for net, optimizer, engine in runs:
            learn(net, optimizer, inputs(t))
            engine.step()
    assert sum(replaced(runs[0][2])) > 10
    assert_equal_runs(*((net, engine) for net, _, engine in runs))


@pytest.mark.parametrize("kind", [CBPSGD, CBPAdam])
def test_attached_engines_with_kernels_replace_the_same_units(kind: type) -> None:
    runs = []
    for kernels in (True, False):
        net = mlp(5, 9, 7, 2).double()
        generator = torch.Generator().manual_seed(3)
        optimizer = kind(net, kernels=kernels, replacement_rate=0.05, maturity_threshold=4, generator=generator)
        runs.append((net, optimizer))
    for t in range(60):
        for net, optimizer in runs:
            learn(net, optimizer, inputs(t))
    assert_equal_runs(*((net, optimizer.gnt) for net, optimizer in runs))


@pytest.mark.parametrize("kind", [CBPSGD, CBPAdam])
def test_a_weight_without_a_gradient_that_was_changed_through_its_data_is_measured(kind: type) -> None:
    utilities = []
    for kernels in (True, False):
        net = mlp(5, 9, 7, 2).double()
        optimizer = kind(net, kernels=kernels, replacement_rate=0.0)
        for t in range(4):
            learn(net, optimizer, inputs(t))
        net[4].weight.data.mul_(3.0)
        net(inputs(4)).square().mean().backward()
        net[4].weight.grad = None
        optimizer.step()
        utilities.append(optimizer.gnt.groups[1].state.utility)
    torch.testing.assert_close(*utilities)


@pytest.mark.parametrize("kind", [CBPSGD, CBPAdam])
def test_a_step_of_a_network_in_another_dtype_writes_no_means_into_the_memory_for_those_of_the_dtype_before(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = mlp(5, 9, 7, 2).double()
    optimizer = kind(net, kernels=True, replacement_rate=0.0)
    for t in range(3):
        learn(net, optimizer, inputs(t))
    means = [means.rows if means.columns is None else means.columns for means in optimizer.gnt.weight_means.values()]
    before = [each.clone() for each in means]
    net.float()
    for state in optimizer.state.values():
        state.update({key: state[key].float() for key in ("exp_avg", "exp_avg_sq")})
    monkeypatch.setattr(optimizer.gnt, "step_recorded", lambda: True)
    learn(net, optimizer, inputs(3, dtype=torch.float32))
    assert_same(means, before)


def two_forwards(net: nn.Module, _: gnt.GnT) -> None:
    net(inputs(100, dtype=next(net.parameters()).dtype))


def strided_features(net: nn.Module, _: gnt.GnT) -> None:
    net[1].register_forward_hook(lambda module, args, output: output.t().contiguous().t())


def float64_network(net: nn.Module, _: gnt.GnT) -> None:
    net.double()


def loaded_state(_: nn.Module, engine: gnt.GnT) -> None:
    engine.load_state_dict(engine.state_dict())


def strided_weight(net: nn.Module, _: gnt.GnT) -> None:
    net[2].weight.data = net[2].weight.data.t().contiguous().t()


def another_batch_size(net: nn.Module, _: gnt.GnT) -> None:
    """The next batch has three samples."""


@pytest.mark.parametrize(
    "change", [two_forwards, strided_features, float64_network, loaded_state, strided_weight, another_batch_size]
)
def test_kernels_equal_torch_operations_after_a_change(change: Change) -> None:
    dtype = torch.float32 if change is float64_network else torch.float64
    runs = [build(dtype, kernels=kernels) for kernels in (True, False)]
    for net, optimizer, engine in runs:
        for t in range(20):
            learn(net, optimizer, inputs(t, dtype=dtype))
            engine.step()
        change(net, engine)
        for t in range(20, 40):
            learn(net, optimizer, inputs(t, 3 if change is another_batch_size else 4, next(net.parameters()).dtype))
            engine.step()
    if dtype is torch.float32:
        assert replaced(runs[0][2]) == replaced(runs[1][2])
        assert runs[0][2].groups[0].state.utility.dtype == torch.float64
    else:
        assert_equal_runs(*((net, engine) for net, _, engine in runs))


def moved_weight(net: nn.Module, _: torch.optim.Optimizer) -> None:
    net[2].weight.data = net[2].weight.data.clone()


def another_parameter(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    new = nn.Parameter(net[2].weight.detach() + 0.1)
    params = optimizer.param_groups[0]["params"]
    params[next(i for i, param in enumerate(params) if param is net[2].weight)] = new
    net[2].weight = new


def forward_in_eval_mode(net: nn.Module, _: torch.optim.Optimizer) -> None:
    net.eval()(inputs(50))
    net.train()


def forward_without_backward(net: nn.Module, _: torch.optim.Optimizer) -> None:
    net(inputs(50))


def backward_of_the_first_group_only(net: nn.Module, _: torch.optim.Optimizer) -> None:
    net[:3](inputs(50)).square().mean().backward()


CHANGES = [
    *(None, moved_weight, another_parameter, forward_in_eval_mode, forward_without_backward),
    backward_of_the_first_group_only,
]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 3, 4]), st.sampled_from(CHANGES)), min_size=8, max_size=14),
    st.sampled_from([1, 2, 3]),
)
def test_steps_like_the_one_before_equal_full_steps_in_any_order(steps: list[tuple[int, Any]], every: int) -> None:
    runs = [build(kernels=True, maturity_threshold=2, measure_every=every) for _ in range(2)]
    for t, (size, change) in enumerate(steps):
        for number, (net, optimizer, engine) in enumerate(runs):
            if change is not None:
                change(net, optimizer)
            learn(net, optimizer, inputs(t, size))
            if number == 0:
                engine.importance.evaluator.repeated = None
            engine.step()
    (net, _, engine), (other_net, _, other) = runs
    assert_same(engine.state_dict(), other.state_dict())
    assert_same(net.state_dict(), other_net.state_dict())


@pytest.mark.parametrize("every", [1, 3])
def test_steps_like_the_one_before_take_no_features_one_by_one(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer, engine = build(kernels=True, replacement_rate=0.0, measure_every=every)
    full_steps = []
    take = FeatureBuffer.take
    monkeypatch.setattr(FeatureBuffer, "take", lambda *args, **given: full_steps.append(t) or take(*args, **given))
    for t in range(1, 13):
        learn(net, optimizer, inputs(t))
        engine.step()
    assert full_steps == [*range(1, every + 1)]
    assert engine.groups[1].state.age.unique().tolist() == [12]


@pytest.mark.parametrize("stop", ["backward", "forward"])
def test_a_group_that_took_no_part_does_not_age_between_measured_updates(stop: str) -> None:
    net, optimizer, engine = build(kernels=True, replacement_rate=0.0, measure_every=3)
    for t in range(1, 7):
        learn(net, optimizer, inputs(t))
        engine.step()
    optimizer.zero_grad()
    (net[:3] if stop == "forward" else net)(inputs(7)).square().mean().backward()
    if stop == "backward":
        net[2].weight.grad = net[4].weight.grad = None
    engine.step()
    assert [group.state.age.unique().tolist() for group in engine.groups] == [[7], [6]]


def test_a_step_like_the_one_before_with_values_that_are_not_finite_changes_nothing() -> None:
    net, optimizer, engine = build(kernels=True)
    for t in range(4):
        learn(net, optimizer, inputs(t))
        engine.step()
    before = engine.state_dict()
    net(inputs(4) * float("inf")).square().mean().backward()
    with pytest.raises(FloatingPointError, match="group '0' are not finite"):
        engine.step()
    assert_same(engine.state_dict(), before)


def test_features_in_half_precision_are_evaluated_in_float32() -> None:
    runs = [build(torch.float32, kernels=kernels, replacement_rate=0.0) for kernels in (True, False)]
    for t in range(10):
        for net, optimizer, engine in runs:
            with torch.autocast("cpu", torch.bfloat16):
                net(inputs(t, dtype=torch.float32)).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            engine.step()
    for group, other in zip(runs[0][2].groups, runs[1][2].groups, strict=True):
        torch.testing.assert_close(group.state.utility, other.state.utility)


@pytest.mark.parametrize("kernels", [True, False])
def test_failed_steps_leave_the_engine_unchanged(kernels: bool) -> None:
    net, optimizer, engine = build(kernels=kernels)
    for t in range(5):
        learn(net, optimizer, inputs(t))
        engine.step()
    with pytest.raises(RuntimeError, match="no features of group '0', '2'"):
        engine.step()
    before = engine.state_dict()
    net(inputs(9) * float("nan"))
    with pytest.raises(FloatingPointError, match="group '0' are not finite"):
        engine.step()
    assert_same(engine.state_dict(), before)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.step()
