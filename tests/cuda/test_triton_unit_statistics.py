"""The Triton kernels of an engine's update against the same update by torch operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.importance import MEASURES
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, IMAGE_SHAPE, batch, conv_net, mlp

ONE_PASS = ["contribution", "weight", "adaptation", "activation", "adaptive_contribution"]


def wide():
    """A network without dead units, of which any may be chosen first."""
    return nn.Sequential(*(nn.Tanh() if isinstance(each, nn.ReLU) else each for each in mlp(4, 300, 150, 2)))


def grouped():
    """A grouped convolution among the consumers, which the kernels leave to torch operations."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )


def engine_and_optimizer(net, utility, **settings):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    generator = torch.Generator(net[0].weight.device).manual_seed(5)
    return gnt.GnT(net, optimizer, utility=utility, generator=generator, **FREQUENT_REPLACEMENT, **settings), optimizer


def assert_same_update(make, shape, utility, device, dtype=torch.float64, tolerance=1e-9, steps=12, size=8, **settings):
    """Runs with and without kernels replace the same units and have the same averages."""
    runs = []
    for kernels in (None, False):
        net = make().to(device, dtype)
        engine, optimizer = engine_and_optimizer(net, utility, kernels=kernels, **settings)
        chosen = []
        for t in range(steps):
            x, y = (tensor.to(device, dtype) for tensor in batch(t, *shape, n=size if t % 5 else 3))
            optimizer.zero_grad()
            F.mse_loss(net(x), y).backward()
            optimizer.step()
            chosen.append([units.tolist() for units in engine.step()])
        runs.append((engine, chosen))
    (ours, our_units), (theirs, their_units) = runs
    assert our_units == their_units
    for a, b in zip(ours.groups, theirs.groups, strict=True):
        torch.testing.assert_close(a.state.utility, b.state.utility, rtol=tolerance, atol=tolerance * 1e-3)
        torch.testing.assert_close(a.state.mean_features, b.state.mean_features, rtol=tolerance, atol=tolerance)
        assert torch.equal(a.state.age, b.state.age)
        assert torch.equal(a.state.last_active, b.state.last_active)
    return ours


def uses_triton(engine):
    kind = type(engine.importance.evaluator.parts[0]._evaluation).__name__
    return kind == "TritonEvaluation" and engine.importance.evaluator.parts[0].shared._advance_triton is not None


@pytest.mark.parametrize("utility", ONE_PASS)
@pytest.mark.parametrize(("make", "shape"), [(mlp, (4,)), (conv_net, IMAGE_SHAPE)], ids=["mlp", "conv"])
def test_updates_equal_those_of_torch_operations(make, shape, utility, device):
    assert uses_triton(assert_same_update(make, shape, utility, device))


@pytest.mark.parametrize("size", [1, 200])
def test_sums_over_many_samples_and_rows_are_divided_into_chunks(size, device):
    assert_same_update(wide, (4,), "adaptive_contribution", device, size=size, steps=4)


def test_float32_is_equal_up_to_rounding(device):
    assert_same_update(mlp, (4,), "contribution", device, torch.float32, 1e-4, steps=6)


def test_grouped_convolutions_are_evaluated_by_torch_operations(device):
    assert_same_update(grouped, IMAGE_SHAPE, "contribution", device, steps=4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_summed_in_the_dtype_of_the_state(dtype, device):
    net = mlp(4, 32, 2).to(device)
    engines = [gnt.GnT(net, record=False, kernels=kernels) for kernels in (None, False)]
    features = torch.randn(50, 32, device=device).to(dtype)
    engines[0].update([features])
    state = {name: getattr(engines[0].groups[0].state, name).clone() for name in ("utility", "mean_features")}
    engines[1].update([features.float()])
    for name, value in state.items():
        torch.testing.assert_close(value, getattr(engines[1].groups[0].state, name), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_group_with_values_that_are_not_finite_keeps_its_corrected_averages(value, device):
    from gnt.importance._shared_state import SharedState
    from gnt.replacement.eligibility import UnitState

    settings = {"decay_rate": 0.9, "maturity_threshold": 5, "averaged": True}
    ours, theirs = (
        [UnitState(n, **settings, like=torch.zeros(1, dtype=torch.float64, device=device)) for n in (3, 1100)]
        for _ in range(2)
    )
    kernels, plain = SharedState(ours, triton=True), SharedState(theirs)
    torch.manual_seed(0)
    for t in range(4):
        measured = torch.randn(2 * 1103, dtype=torch.float64)
        measured[7] = 0.0
        if t == 2:
            measured[1103 + 1100] = value  # a utility of the second group
        for shared in (kernels, plain):
            shared.measured.copy_(measured)
            shared.follow_updates()
            shared.advance(checked=False)
    for a, b in zip(ours, theirs, strict=True):
        for name in ("utility", "mean_features", "last_active", "nonfinite"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-12, atol=1e-12)
        assert a.updates == b.updates == 4
    assert [state.nonfinite.item() for state in ours] == [0, 1]
    assert kernels._counts.on_device.tolist() == [4, 4]


def test_measures_of_two_passes_use_torch_operations(device):
    two_passes = [name for name in MEASURES if name not in ONE_PASS]
    assert "zero_contribution" in two_passes
    engine = assert_same_update(mlp, (4,), "zero_contribution", device, steps=6)
    assert not uses_triton(engine)


def test_results_are_the_same_in_every_run(device):
    runs = [assert_same_update(wide, (4,), "contribution", device, torch.float32, 1e-3, steps=3) for _ in range(2)]
    for a, b in zip(*(run.groups for run in runs), strict=True):
        assert torch.equal(a.state.utility, b.state.utility)
