"""With ``bias_transfer=True`` a replacement does not change the network's output on the mean feature (in float64)."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import gnt
from gnt.units import UnitGroup
from tests.helpers.ownership import HiddenLayer
from tests.helpers.small_runs import assert_same, make_run, mlp, train
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


class Movable:
    """Lets only some entries of each bias move, and follows the changes."""

    def __init__(self, masks: dict[Tensor, Tensor]) -> None:
        self.masks, self.changes = masks, {}

    def protected(self, group: UnitGroup) -> None:
        return None

    def movable_bias(self, bias: Tensor) -> Tensor:
        return self.masks[bias]

    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        pass

    def move_bias(self, bias: Tensor, change: Tensor) -> None:
        self.changes[bias] = change.clone()


@given(run=training_runs(of=with_bias, settings=engine_settings(bias_transfer=True)), data=st.data())
def test_biases_that_may_not_move_keep_their_bits_and_others_preserve_the_output(run, data):
    """The output of the layers on the mean feature; followers are told the changes that were made."""
    run.train_without_replacement(2)
    units, layers, groups = data.draw(unit_choices(run)), run.layers, run.engine.groups
    biases = [layer.consumer.bias for layer in layers]
    masks = [torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(b), max_size=len(b)))) for b in biases]
    keep = Movable(dict(zip(biases, masks, strict=True)))
    run.engine.protect = [keep, Movable({bias: torch.ones_like(bias, dtype=torch.bool) for bias in biases})]
    run.engine.follow(keep)
    means = [group.state.corrected_mean_feature.clone() for group in groups]
    with torch.no_grad():
        for bias, mask in zip(biases, masks, strict=True):
            bias[~mask] = -0.0  # adding 0 would change its sign
        before = [bias.clone() for bias in biases]
        outputs = [layer.consumer(constant_input(layer, mean)) for layer, mean in zip(layers, means, strict=True)]
        run.engine.replace(units)
        new_consumer_units = [*units[1:], torch.tensor([], dtype=torch.int64)]
        for number, (layer, mask, new) in enumerate(zip(layers, masks, new_consumer_units, strict=True)):
            bias, kept = biases[number], torch.ones(len(mask), dtype=torch.bool)
            kept[new] = False
            fixed = kept & ~mask
            assert torch.equal(torch.signbit(bias[fixed]), torch.signbit(before[number][fixed]))
            assert torch.equal(bias[fixed], before[number][fixed])
            if len(units[number]):
                assert torch.equal(keep.changes[bias][kept], (bias - before[number])[kept])
            means[number][units[number]] = run.randn(len(units[number]))
            output = layer.consumer(constant_input(layer, means[number]))
            where, moved = interior(layer.consumer), kept & mask
            assert_close(output[:, moved][..., where], outputs[number][:, moved][..., where])


WRONG = {
    "a list": ([True] * 2, TypeError, "a tensor of bools or None, got list"),
    "numbers": (torch.ones(2), TypeError, "a tensor of bools or None, got torch.float32"),
    "shape": (torch.ones(3, dtype=torch.bool), ValueError, r"a tensor of shape \(2,\), got \(3,\)"),
    "device": (
        torch.ones(2, dtype=torch.bool, device="meta"),
        ValueError,
        "on cpu, where the bias is, got one on meta",
    ),
    "layout": (torch.ones(2, dtype=torch.bool).to_sparse(), TypeError, "all entries, got torch.sparse_coo"),
}


@pytest.mark.parametrize(("answer", "error", "message"), WRONG.values(), ids=WRONG)
def test_an_answer_that_cannot_be_used_changes_no_weight(answer, error, message):
    net, optimizer, engine = make_run(mlp(4, 8, 2))
    train(net, optimizer, engine, range(2))
    bias = net[2].bias
    keep = Movable({bias: torch.zeros(2, dtype=torch.bool)})
    engine.protect = keep
    keep.masks[bias] = answer
    before = copy.deepcopy((net.state_dict(), engine.state_dict()))
    message = rf"movable_bias\(\) of Movable, for the bias of '2', must return .*{message}"
    with pytest.raises(error, match=message):
        engine.replace([[0]])
    with pytest.raises(error, match=message):
        gnt.GnT(net, protect=Movable({bias: answer}))
    assert_same(before, (net.state_dict(), engine.state_dict()))
    keep.movable_bias = 3
    with pytest.raises(TypeError, match=r"movable_bias of Movable, an object in protect, must be a method .* got 3"):
        gnt.GnT(net, protect=keep)


def test_layers_and_redo_leave_biases_that_may_not_move():
    """With a `CBPLinear` in the network; ReDo moves no bias at all."""
    fc1, fc2 = nn.Linear(4, 8), nn.Linear(8, 2)
    keep = Movable({fc2.bias: torch.tensor([True, False])})
    layer = gnt.CBPLinear(fc1, fc2, replacement_rate=1.0, maturity_threshold=0, protect=keep)
    net = nn.Sequential(fc1, nn.ReLU(), layer, fc2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    before = fc2.bias.detach().clone()
    net(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    assert layer.group.state.replaced == 8
    assert (fc2.bias == before).tolist() == [False, True]
    changes = dict(layer.engine.dry_run().groups[0].changes)
    assert [count for name, count in changes.items() if name.endswith("1.bias")] == [1]
    redo = gnt.ReDo([fc1, fc2], tau=10.0, period=1, protect=keep)
    redo.step([torch.rand(3, 8)])
    assert redo.groups[0].state.replaced == 8
