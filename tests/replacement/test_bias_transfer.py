"""A replacement leaves the network's output on the mean feature as it is (``bias_transfer=True``), in float64."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.ownership import HiddenLayer
from tests.helpers.strategies import APART, choices, engine_settings, lives, networks, optimizer_cases

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


@given(life=lives(of=with_bias, settings=engine_settings(bias_transfer=True)), steps=st.integers(1, 4), data=st.data())
def test_every_consumer_says_the_same_on_the_mean_feature(life, steps, data):
    """Whatever the new units say. Consumers' units that are new themselves are left out."""
    life.learn(steps)
    units = data.draw(choices(life))
    layers, groups = life.layers, life.engine.groups
    means = [group.state.corrected_mean_feature.clone() for group in groups]
    with torch.no_grad():
        before = [layer.consumer(constant(layer, mean)) for layer, mean in zip(layers, means, strict=True)]
        life.engine.replace(units)
        newborn = [*units[1:], torch.tensor([], dtype=torch.int64)]
        for layer, mean, wanted, chosen, new_readers in zip(layers, means, before, units, newborn, strict=True):
            mean[chosen] = life.draw(len(chosen))
            found = layer.consumer(constant(layer, mean))
            old_readers = torch.ones(found.shape[1], dtype=torch.bool)
            old_readers[new_readers] = False
            where = interior(layer.consumer)
            assert where.any()
            close(found[:, old_readers][..., where], wanted[:, old_readers][..., where])


@given(
    life=lives(
        of=networks(norms=APART, dropout=False, padding=False, bias=True, dtypes=DOUBLE),
        settings=engine_settings(bias_transfer=True),
        cases=st.none() | optimizer_cases(),
    ),
    steps=st.integers(0, 2),
    updates=st.integers(1, 3),
    data=st.data(),
)
def test_the_whole_network_says_the_same_on_an_input_whose_features_are_the_means(life, steps, updates, data):
    """An input that is the same at every pixel gives features that are, so each equals its mean.

    Without padding, and without norms that carry a new unit's feature over to the others.
    """
    for _ in range(steps):
        life.descend()
    life.engine.discard()
    life.net.eval()
    if isinstance(life.net[0], nn.Linear):
        x = life.draw(life.shape[-1])
    else:
        x = life.draw(life.shape[0], *[1 for _ in life.shape[1:]])
    x = x.expand(2, *life.shape).clone()
    for _ in range(updates):
        life.engine.update(life.consumer_inputs(x))
    with torch.no_grad():
        before = life.net(x)
        life.engine.replace(data.draw(choices(life)))
        close(life.net(x), before)
