"""Joint evaluation of all simple groups, by torch operations or kernels, against the evaluation of each group alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import gnt
import gnt._kernels
from gnt.importance import MEASURES, compute_measure
from tests.helpers.shared_units import ActorCritic, Gated
from tests.helpers.small_runs import assert_same, batch, mlp
from tests.helpers.strategies import Network, networks

PRODUCTS = [name for name, measure in MEASURES.items() if measure.product]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}  # relative error: subtracting the mean feature loses digits


def evaluate_separately(engine: gnt.GnT, features: Any) -> list[tuple[Tensor, Tensor]]:
    """Mean features and utilities of each group, computed group by group."""
    with torch.no_grad():
        signals = engine.signals(engine.take_features(features))
        return [compute_measure(engine.measure, engine.utility, each) for each in signals]


def evaluate_as_update(engine: gnt.GnT, features: Any, *, together: bool) -> list[tuple[Tensor, Tensor]]:
    """Mean features and utilities of each group, as an update computes them."""
    with torch.no_grad():
        batch = engine.take_features(features)
        (part,) = engine.importance.evaluator.parts
        if together:
            assert part.all_simple
            assert part.evaluate_simple(batch.plain)
        else:
            engine.evaluate(batch)
        return list(zip(part.shared.means, part.shared.utilities, strict=True))


def assert_close(actual: list[tuple[Tensor, Tensor]], expected: list[tuple[Tensor, Tensor]]) -> None:
    for actual_group, expected_group in zip(actual, expected, strict=True):
        for a, b in zip(actual_group, expected_group, strict=True):
            scale = max(b.abs().max().item(), 1.0)  # a deviation from the mean may be pure rounding error
            tolerance = TOLERANCE[a.dtype]
            torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=tolerance * scale)


def updated_engine(net: nn.Module, shape: tuple[int, ...], utility: str, kernels: bool, samples: int) -> gnt.GnT:
    """An engine after three updates with replacement (so ages and averages differ), holding recorded features."""
    engine = gnt.GnT(net, utility=utility, kernels=kernels, replacement_rate=0.3, maturity_threshold=0)
    draws = torch.Generator().manual_seed(samples)
    dtype = next(net.parameters()).dtype
    for _ in range(3):
        net(torch.randn(samples, *shape, generator=draws, dtype=dtype))
        engine.step()
    net(torch.randn(samples, *shape, generator=draws, dtype=dtype))
    return engine


@given(
    network=networks(dropout=False),
    utility=st.sampled_from(PRODUCTS),
    kernels=st.booleans(),
    samples=st.integers(2, 9),
)
def test_joint_evaluation_equals_separate_evaluation(
    network: Network, utility: str, kernels: bool, samples: int
) -> None:
    engine = updated_engine(network.net, network.shape, utility, kernels, samples)
    recorded = [[f.contiguous() for f in tap.take()] for tap in engine.feature_buffer.taps]
    assert_close(evaluate_as_update(engine, recorded, together=True), evaluate_separately(engine, recorded))


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("utility", ["contribution", "adaptable_contribution"])
@pytest.mark.parametrize("samples", [1, 64, 65, 300])
@pytest.mark.parametrize("widths", [(3, 700, 1100, 2), (2, 1, 1, 1), (5, 513, 512, 9)])
def test_layers_and_batches_larger_than_a_kernel_block(widths, samples, utility, kernels) -> None:
    engine = updated_engine(mlp(*widths), (widths[0],), utility, kernels, samples)
    recorded = engine.feature_buffer.take().per_tap
    assert_close(evaluate_as_update(engine, recorded, together=True), evaluate_separately(engine, recorded))


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize(("utility", "chunk"), [("contribution", 100), ("adaptable_contribution", 1000)])
def test_large_weights_are_reduced_in_chunks(monkeypatch, utility, chunk, kernels) -> None:
    monkeypatch.setattr("gnt.importance._evaluate.eager._PART", chunk)
    engine = updated_engine(mlp(3, 60, 70, 2), (3,), utility, kernels, 4)
    recorded = engine.feature_buffer.take().per_tap
    assert_close(evaluate_as_update(engine, recorded, together=True), evaluate_separately(engine, recorded))


@pytest.mark.parametrize("kernels", [False, True])
def test_features_with_a_time_dimension(kernels) -> None:
    engine = updated_engine(mlp(4, 6, 5, 2), (3, 7, 4), "zero_contribution", kernels, 2)
    recorded = engine.feature_buffer.take().per_tap
    assert_close(evaluate_as_update(engine, recorded, together=True), evaluate_separately(engine, recorded))


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("layout", ["transposed feature", "transposed weight", "two forwards"])
def test_layouts_that_kernels_cannot_read_give_the_same_result(layout, kernels) -> None:
    net = mlp(4, 6, 5, 2)
    engine = updated_engine(net, (4,), "adaptable_contribution", kernels, 3)
    recorded = engine.feature_buffer.take().per_tap
    if layout == "transposed feature":
        recorded = [[feature.t().contiguous().t()] for (feature,) in recorded]
    elif layout == "transposed weight":
        net[2].weight.data = net[2].weight.data.t().contiguous().t()
    else:
        recorded = [[feature, feature[:1]] for (feature,) in recorded]
    assert_close(evaluate_as_update(engine, recorded, together=False), evaluate_separately(engine, recorded))


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("utility", [*PRODUCTS, "random"])
def test_simple_groups_mixed_with_groups_of_several_consumers(utility, kernels) -> None:
    nets = ActorCritic(), Gated(), mlp(5, 6, 3)
    groups = [nets[0].group(), nets[1].group(), *gnt.walk(nets[2])]
    engine = gnt.GnT(groups, utility=utility, kernels=kernels, maturity_threshold=0)
    inputs = [torch.randn(3, 5) for _ in range(4)]
    for x in inputs:
        for net in nets:
            net(x)
        state = engine.generator.get_state()
        recorded = engine.feature_buffer.take().per_tap
        together = [(a.clone(), b.clone()) for a, b in evaluate_as_update(engine, recorded, together=False)]
        engine.generator.set_state(state)
        assert_close(together, evaluate_separately(engine, recorded))
        for net in nets:
            net(x)
        engine.step()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_kernels_replace_the_same_units_as_torch_operations(optimizer: str) -> None:
    """Uses float64 so that rounding does not change which units are selected."""
    runs = []
    for kernels in (False, True):
        net = mlp(5, 12, 8, 2).double()
        learner = gnt.ContinualBackprop(
            net, opt=optimizer, replacement_rate=0.05, maturity_threshold=5,
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        engine = gnt.GnT(
            net, learner.opt, replacement_rate=0.05, maturity_threshold=5, kernels=kernels,
            generator=torch.Generator().manual_seed(1), utility="adaptable_contribution",
        )  # fmt: skip
        replaced = []
        for t in range(200):
            x, y = (tensor.double() for tensor in batch(t, 5))
            learner.opt.zero_grad()
            (net(x) - y[:, :2] if y.shape[1] >= 2 else net(x) - y).square().mean().backward()
            learner.opt.step()
            replaced.append([units.tolist() for units in engine.step()])
            learner.gnt.discard()
        runs.append((replaced, [p.detach().clone() for p in net.parameters()]))
    assert sum(len(units) for step in runs[0][0] for units in step) > 50
    assert runs[0][0] == runs[1][0]
    torch.testing.assert_close(runs[1][1], runs[0][1], rtol=1e-9, atol=1e-9)


def test_copied_and_converted_networks_use_kernels() -> None:
    net = mlp(5, 6, 3)
    engine = gnt.GnT(net, kernels=True)
    net(torch.randn(2, 5))
    engine.step()
    net_copy, engine_copy = copy.deepcopy((net, engine))
    for each_net, each_engine in ((net, engine), (net_copy, engine_copy)):
        each_net(torch.ones(2, 5))
        each_engine.step()
        assert each_engine.kernels
    assert_same(engine_copy.state_dict(), engine.state_dict())
    net.double()
    net(torch.ones(2, 5, dtype=torch.float64))
    engine.step()
    assert engine.groups[0].state.utility.dtype == torch.float64


def test_half_precision_uses_torch_operations() -> None:
    net = mlp(5, 6, 3).bfloat16()
    engine = gnt.GnT(net, kernels=True)
    net(torch.randn(2, 5, dtype=torch.bfloat16))
    engine.step()
    assert engine.updates == 1


def test_kernels_must_be_a_bool() -> None:
    with pytest.raises(TypeError, match="kernels"):
        gnt.GnT(mlp(5, 6, 3), kernels="yes")


def test_an_engine_that_requires_kernels_says_why_there_are_none(monkeypatch) -> None:
    monkeypatch.setattr(gnt._kernels.library, "loaded_library", lambda: "no C compiler was found")
    with pytest.raises(RuntimeError, match=r"there are none: no C compiler was found.*kernels=None uses"):
        gnt.GnT(mlp(5, 6, 3), kernels=True)


@pytest.mark.parametrize("kernels", [True, False])
def test_the_means_over_one_sample_and_one_output_are_the_values(kernels) -> None:
    net = mlp(4, 3, 1)
    nn.init.constant_(net[2].weight, -0.5)
    engine = gnt.GnT(net, decay_rate=0.0, replacement_rate=0.0, kernels=kernels, record=False)
    h = torch.tensor([[0.5, -2.0, 0.0]])
    engine.update([h])
    state = engine.groups[0].state
    assert torch.equal(state.mean_feature, h[0])
    assert torch.equal(state.utility, h[0].abs() * 0.5)
    assert state.last_active.tolist() == [1, 1, 0]
