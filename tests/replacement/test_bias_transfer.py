"""With ``bias_transfer=True`` a replacement does not change the network's output on the mean feature (in float64)."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.ownership import HiddenLayer
from tests.helpers.strategies import (
    PER_UNIT_NORMS,
    engine_settings,
    networks,
    optimizer_cases,
    training_runs,
    unit_choices,
)

DOUBLE = (torch.float64,)
CONVOLVE = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


def assert_close(actual: Tensor, expected: Tensor) -> None:
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10 * scale)


def constant_input(layer: HiddenLayer, feature: Tensor) -> Tensor:
    """A consumer input with ``feature[i]`` at every position of unit i; 7 pixels per dimension for convolutions."""
    if isinstance(layer.consumer, nn.Linear):
        return feature.repeat_interleave(layer.consumer.in_features // layer.units)[None]
    dims = layer.consumer.weight.ndim - 2
    return feature.view(1, -1, *[1] * dims).expand(1, -1, *[7] * dims).clone()


def interior(consumer: nn.Module) -> Tensor:
    """Mask of output positions that read no padding: a kernel of ones over an input of ones sums to its size there."""
    if isinstance(consumer, nn.Linear):
        return torch.ones((), dtype=torch.bool)
    kernel = torch.ones(1, 1, *consumer.kernel_size)
    ones = torch.ones(1, 1, *[7] * (kernel.ndim - 2))
    sums = CONVOLVE[type(consumer)](ones, kernel, None, consumer.stride, consumer.padding, consumer.dilation)
    return sums[0, 0] == kernel.numel()


with_bias = networks(bias=True, dtypes=DOUBLE)


@given(
    run=training_runs(of=with_bias, settings=engine_settings(bias_transfer=True)),
    steps=st.integers(1, 4),
    data=st.data(),
)
def test_consumer_outputs_on_the_mean_feature_are_unchanged(run, steps, data):
    """For any features of the new units. Consumer units that were replaced too are not compared."""
    run.train_without_replacement(steps)
    units = data.draw(unit_choices(run))
    layers, groups = run.layers, run.engine.groups
    means = [group.state.corrected_mean_feature.clone() for group in groups]
    with torch.no_grad():
        before = [layer.consumer(constant_input(layer, mean)) for layer, mean in zip(layers, means, strict=True)]
        run.engine.replace(units)
        new_consumer_units = [*units[1:], torch.tensor([], dtype=torch.int64)]
        for layer, mean, expected, chosen, new in zip(layers, means, before, units, new_consumer_units, strict=True):
            mean[chosen] = run.randn(len(chosen))
            output = layer.consumer(constant_input(layer, mean))
            kept = torch.ones(output.shape[1], dtype=torch.bool)
            kept[new] = False
            where = interior(layer.consumer)
            assert where.any()
            assert_close(output[:, kept][..., where], expected[:, kept][..., where])


@given(
    run=training_runs(
        of=networks(norms=PER_UNIT_NORMS, dropout=False, padding=False, bias=True, dtypes=DOUBLE),
        settings=engine_settings(bias_transfer=True),
        cases=st.none() | optimizer_cases(),
    ),
    steps=st.integers(0, 2),
    updates=st.integers(1, 3),
    data=st.data(),
)
def test_network_output_is_unchanged_on_an_input_whose_features_equal_the_means(run, steps, updates, data):
    """An input that is equal at every pixel gives constant features, so each equals its mean.

    Requires networks without padding and without norms across units, which would mix in the features of new units.
    """
    for _ in range(steps):
        run.optimizer_step()
    run.engine.discard()
    run.net.eval()
    if isinstance(run.net[0], nn.Linear):
        x = run.randn(run.shape[-1])
    else:
        x = run.randn(run.shape[0], *[1 for _ in run.shape[1:]])
    x = x.expand(2, *run.shape).clone()
    for _ in range(updates):
        run.engine.update(run.consumer_inputs(x))
    with torch.no_grad():
        before = run.net(x)
        run.engine.replace(data.draw(unit_choices(run)))
        assert_close(run.net(x), before)
