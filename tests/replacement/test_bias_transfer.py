"""A replacement leaves the network's output on the mean feature as it is (``bias_transfer=True``), in float64."""

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


def close(found: Tensor, wanted: Tensor) -> None:
    scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10 * scale)


def constant(layer: HiddenLayer, feature: Tensor) -> Tensor:
    """What the consumer reads when unit i's feature is ``feature[i]`` everywhere; convolutions read 7 pixels a side."""
    if isinstance(layer.consumer, nn.Linear):
        return feature.repeat_interleave(layer.consumer.in_features // layer.units)[None]
    dims = layer.consumer.weight.ndim - 2
    return feature.view(1, -1, *[1] * dims).expand(1, -1, *[7] * dims).clone()


def interior(consumer: nn.Module) -> Tensor:
    """Where no zero of the padding is read: where a kernel of ones over a map of ones sums to its whole size."""
    if isinstance(consumer, nn.Linear):
        return torch.ones((), dtype=torch.bool)
    kernel = torch.ones(1, 1, *consumer.kernel_size)
    ones = torch.ones(1, 1, *[7] * (kernel.ndim - 2))
    seen = CONVOLVE[type(consumer)](ones, kernel, None, consumer.stride, consumer.padding, consumer.dilation)
    return seen[0, 0] == kernel.numel()


with_bias = networks(bias=True, dtypes=DOUBLE)


@given(
    run=training_runs(of=with_bias, settings=engine_settings(bias_transfer=True)),
    steps=st.integers(1, 4),
    data=st.data(),
)
def test_every_consumer_says_the_same_on_the_mean_feature(run, steps, data):
    """Whatever the new units say. Consumers' units that are new themselves are left out."""
    run.train_without_replacement(steps)
    units = data.draw(unit_choices(run))
    layers, groups = run.layers, run.engine.groups
    means = [group.state.corrected_mean_feature.clone() for group in groups]
    with torch.no_grad():
        before = [layer.consumer(constant(layer, mean)) for layer, mean in zip(layers, means, strict=True)]
        run.engine.replace(units)
        newborn = [*units[1:], torch.tensor([], dtype=torch.int64)]
        for layer, mean, wanted, chosen, new_readers in zip(layers, means, before, units, newborn, strict=True):
            mean[chosen] = run.randn(len(chosen))
            found = layer.consumer(constant(layer, mean))
            old_readers = torch.ones(found.shape[1], dtype=torch.bool)
            old_readers[new_readers] = False
            where = interior(layer.consumer)
            assert where.any()
            close(found[:, old_readers][..., where], wanted[:, old_readers][..., where])


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
def test_the_whole_network_says_the_same_on_an_input_whose_features_are_the_means(run, steps, updates, data):
    """An input that is the same at every pixel gives features that are, so each equals its mean.

    Without padding, and without norms that carry a new unit's feature over to the others.
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
        close(run.net(x), before)
