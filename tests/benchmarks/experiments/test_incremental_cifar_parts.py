"""The network, images, augmentation, schedule and early stopping of class-incremental CIFAR."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import gnt
from benchmarks.datasets import mnist_images
from benchmarks.datasets.labelled_images import Splits
from benchmarks.errors import CannotRun
from benchmarks.incremental_cifar.augmentation import AugmentationDraws, augment, draw_augmentation
from benchmarks.incremental_cifar.early_stopping import BestNetwork
from benchmarks.incremental_cifar.images import split
from benchmarks.incremental_cifar.net import ResNet18, reset
from benchmarks.incremental_cifar.schedule import class_order, learning_rate
from benchmarks.seeds import stream

SIZE = 12


def test_the_network_is_resnet18_for_small_images():
    net = ResNet18(3, 100)
    assert sum(parameter.numel() for parameter in net.parameters()) == 11_220_132  # as published for CIFAR-100
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 100)
    strides = [layer.stride[0] for layer in net.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] == 3]
    assert strides == [1, *[1] * 4, *[2, 1, 1, 1] * 3]


def test_replaceable_units_are_those_inside_the_blocks():
    net = ResNet18(1, 10, width=4)
    groups = gnt.trace(net, torch.rand(2, 1, SIZE, SIZE))
    assert [group.name for group in groups] == [f"blocks.{i}.conv1" for i in range(8)]
    assert [group.num_units for group in groups] == [4, 4, 8, 8, 16, 16, 32, 32]


def test_initial_weights_are_kaiming_normal():
    torch.manual_seed(0)
    net = ResNet18(3, 100, width=32)
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan_in = layer.weight[0].numel()
            assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
    assert net.head.bias.eq(0).all()


def test_reset_draws_new_weights_and_zeroes_the_bias():
    net = ResNet18(1, 10, width=4)
    with torch.no_grad():
        net.head.bias.fill_(1)
    before = net.head.weight.clone()
    reset(net.head)
    assert not torch.equal(net.head.weight, before)
    assert net.head.bias.eq(0).all()


def literal(image, flip, top, left, degrees, padding=4):
    """Literal implementation for one image (channels, size, size), pixel by pixel, in double precision."""
    image = image.double().numpy()
    size = image.shape[1]
    if flip:
        image = image[:, :, ::-1]
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    crop = padded[:, top : top + size, left : left + size]
    rotated = np.zeros_like(crop)
    centre, angle = (size - 1) / 2, math.radians(degrees)
    for row in range(size):
        for column in range(size):
            right, up = column - centre, centre - row
            from_right = right * math.cos(angle) + up * math.sin(angle)  # rotated back, clockwise
            from_up = -right * math.sin(angle) + up * math.cos(angle)
            y, x = round(centre - from_up), round(centre + from_right)
            if 0 <= y < size and 0 <= x < size:
                rotated[:, row, column] = crop[:, y, x]
    return torch.from_numpy(rotated).float()


@pytest.mark.parametrize("padding", [0, 2, 4])
def test_augmentation_equals_the_literal_implementation(padding):
    images = torch.rand(40, 3, SIZE, SIZE, generator=stream(0, "images"))
    draws = draw_augmentation(40, stream(0, "draws"), padding)
    got = augment(images, draws, padding)
    for image, changed, *own in zip(images, got, *(part.tolist() for part in draws), strict=True):
        assert torch.equal(changed, literal(image, *own, padding))


def test_neutral_draws_leave_images_unchanged():
    images = mnist_images().in_unit_range()[:5]
    nothing = AugmentationDraws(torch.zeros(5, dtype=torch.bool), *torch.full((2, 5), 4), torch.zeros(5))
    assert torch.equal(augment(images, nothing), images)


def test_rotation_is_counter_clockwise():
    image = torch.zeros(1, 1, 21, 21)
    image[..., 10, 18] = 1  # right of the centre, by 8
    turn = AugmentationDraws(torch.zeros(1, dtype=torch.bool), *torch.full((2, 1), 4), torch.tensor([90.0]))
    assert augment(image, turn).nonzero().tolist() == [[0, 0, 2, 10]]  # above it


def test_draws_have_the_specified_distributions():
    flip, top, left, degrees = draw_augmentation(20_000, stream(3, "draws"))
    assert abs(flip.float().mean() - 0.5) < 0.02
    for offset in (top, left):
        assert torch.bincount(offset, minlength=9).min() > 20_000 / 9 * 0.9
        assert offset.unique().tolist() == list(range(9))
    assert torch.corrcoef(torch.stack([top, left]).float())[0, 1].abs() < 0.03
    assert degrees.min() >= 0
    assert 14.9 < degrees.max() < 15
    assert abs(degrees.mean() - 7.5) < 0.1


def test_learning_rates_of_short_stages():
    assert [learning_rate(1.0, epoch, 5) for epoch in range(5)] == pytest.approx([1, 1, 0.2, 0.04, 0.008])
    assert learning_rate(0.3, 0, 1) == 0.3


def test_class_orders_are_permutations_that_differ_between_seeds():
    assert sorted(class_order(100, 0).tolist()) == list(range(100))
    assert class_order(100, 0).tolist() != class_order(100, 1).tolist()


def test_splits_are_normalised_and_ordered_by_class():
    digits = mnist_images()
    order = class_order(10, 5)
    parts = split(Splits(digits, digits), order, train=40, validation=10, test=20)
    assert [len(part.x) for part in parts] == [400, 100, 200]
    assert parts.train.x.mean().abs() < 1e-4
    assert parts.train.x.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    images = digits.in_unit_range()
    train = torch.cat([images[500 * label : 500 * label + 40] for label in order.tolist()])
    mean, deviation = train.double().mean(), train.double().std(correction=0)
    for place in (0, 7):
        own = images[500 * order[place] : 500 * order[place] + 50]
        expected = ((own.double() - mean) / deviation).float()
        torch.testing.assert_close(parts.train.x[parts.train.y == place], expected[:40], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(parts.validation.x[parts.validation.y == place], expected[40:], atol=1e-5, rtol=1e-4)
    some = parts.test.up_to(3)
    assert some.y.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert torch.equal(some.x, parts.test.x[:60])


def test_shrunk_images_are_means_of_squares():
    digits = mnist_images()
    small = split(Splits(digits, digits), torch.arange(10), 3, 2, 2, shrink=2).train.x
    image = digits.in_unit_range()[500]  # class 1's first, which is training image 3
    squares = image[0].reshape(14, 2, 14, 2).mean((1, 3))
    assert small.shape == (30, 1, 14, 14)
    assert torch.corrcoef(torch.stack([small[3].flatten(), squares.flatten()]))[0, 1] > 0.99999


def test_too_few_images_are_reported():
    digits = mnist_images()
    with pytest.raises(CannotRun, match="class 4 has 500 images to train, fewer than the 510 asked for"):
        split(Splits(digits, digits), torch.tensor([4]), train=500, validation=10, test=5)


def test_restore_loads_the_best_network_in_place():
    torch.manual_seed(1)
    net = ResNet18(1, 10, width=2)
    best, states = BestNetwork(), []
    for accuracy in (0.2, 0.5, 0.5, 0.4):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1)
            net.bn.running_mean.add_(0.1)
        states.append({name: value.clone() for name, value in net.state_dict().items()})
        best.update(net, accuracy)
        saved = BestNetwork()
        saved.load_state_dict(best.state_dict())
        best = saved
    assert best.accuracy == 0.5
    parameters = list(net.parameters())
    best.restore(net)
    assert all(torch.equal(value, states[1][name]) for name, value in net.state_dict().items())
    assert all(one is other for one, other in zip(parameters, net.parameters(), strict=True))
    best.update(net, 0.1)
    assert best.accuracy == 0.1  # in the next stage the comparison starts again
