"""The network, pairs and images of class pairs."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gnt
from benchmarks.class_pairs.net import make_net, zero_head
from benchmarks.class_pairs.pairs import draw_pairs, make_pair
from benchmarks.class_pairs.settings import Settings
from benchmarks.datasets.classes import InMemoryClasses, sample_images
from benchmarks.datasets.digits import mnist_images
from benchmarks.datasets.labelled_images import Splits
from benchmarks.errors import CannotRun
from benchmarks.seeds import stream


@pytest.mark.parametrize(("channels", "size", "flat"), [(3, 32, 512), (1, 28, 128)])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_network_has_the_published_layers(channels, size, flat, layer_norm):
    net = make_net(channels, size, layer_norm)
    weights = [tuple(layer.weight.shape) for layer in net if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))]
    assert weights == [
        (32, channels, 5, 5), (64, 32, 3, 3), (128, 64, 3, 3), (128, flat), (128, 128), (2, 128)
    ]  # fmt: skip
    assert net(torch.rand(4, channels, size, size)).shape == (4, 2)
    norms = [layer for layer in net if isinstance(layer, (torch.nn.GroupNorm, torch.nn.LayerNorm))]
    assert len(norms) == 5 * layer_norm
    assert [group.num_units for group in gnt.GnT(net).groups] == [32, 64, 128, 128, 128]


def test_zero_head_changes_only_the_last_layer():
    net = make_net(1, 28)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    zero_head(net)
    assert torch.equal(net(torch.rand(3, 1, 28, 28)), torch.zeros(3, 2))
    changed = [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == [f"{len(net) - 1}.weight", f"{len(net) - 1}.bias"]


@given(st.integers(1, 60), st.integers(3, 12), st.integers(0, 1000))
def test_pairs_differ_from_the_previous_pair(tasks, classes, seed):
    pairs = draw_pairs(tasks, classes, seed)
    assert pairs.shape == (tasks, 2)
    assert pairs.min() >= 0
    assert pairs.max() < classes
    assert (pairs[:, 0] != pairs[:, 1]).all()
    sets = [frozenset(pair) for pair in pairs.tolist()]
    assert all(one != next_one for one, next_one in itertools.pairwise(sets))
    assert torch.equal(
        draw_pairs(tasks + 5, classes, seed)[:tasks], pairs
    )  # a longer sequence starts with the shorter one


def test_ordered_pairs_are_equally_frequent():
    pairs = draw_pairs(6000, 4, seed=1)
    counts = torch.bincount(pairs[:, 0] * 4 + pairs[:, 1], minlength=16).view(4, 4)
    assert counts.diagonal().eq(0).all()
    assert (counts + 500 * torch.eye(4, dtype=torch.int64) - 500).abs().max() < 5 * 500**0.5
    assert not torch.equal(pairs, draw_pairs(6000, 4, seed=2))


def test_fewer_than_three_classes_are_refused():
    with pytest.raises(ValueError, match="classes must be at least 3, got 2"):
        draw_pairs(3, 2, seed=0)


@pytest.fixture(scope="module")
def digits():
    images = mnist_images()
    return InMemoryClasses(Splits(train=images, test=images))


def test_a_task_has_images_of_its_two_classes(digits):
    task = make_pair(digits, [7, 2], train=30, test=10, generator=stream(0, "images 0"))
    again = make_pair(digits, [7, 2], train=30, test=10, generator=stream(0, "images 0"))
    other = make_pair(digits, [7, 2], train=30, test=10, generator=stream(0, "images 1"))
    assert task.x.shape == (60, 1, 28, 28)
    assert task.test_x.shape == (20, 1, 28, 28)
    assert torch.equal(task.x, again.x)
    assert torch.equal(task.test_x, again.test_x)
    assert not torch.equal(task.x, other.x)
    for x, y, drawn in ((task.x, task.y, 30), (task.test_x, task.test_y, 10)):
        for place, label in enumerate([7, 2]):
            known = {image.numpy().tobytes() for image in mnist_images().of_class(label).in_unit_range()}
            mine = {image.numpy().tobytes() for image in x[y == place]}
            assert mine <= known
            assert len(mine) == drawn  # without replacement


def test_more_images_than_available_are_refused(digits):
    with pytest.raises(CannotRun, match="class 7 has 500 images to train, fewer than the 501 asked for"):
        make_pair(digits, [7, 2], train=501, test=10, generator=stream(0, "images"))
    with pytest.raises(ValueError, match="count must be at most 5000, the number of images, got 5001"):
        sample_images(mnist_images(), 5001, stream(0, "images"))


def test_sampling_all_images_keeps_their_order():
    assert sample_images(mnist_images(), 5000, stream(0, "images")) is mnist_images()


def test_a_data_folder_is_stored_as_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check = Settings.field("data").metadata["check"]
    assert check("here/../data") == check(str(tmp_path / "data")) == str(tmp_path.resolve() / "data")
    assert check("") == ""
