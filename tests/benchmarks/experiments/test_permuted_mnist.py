"""Permuted MNIST: tasks, resuming, and training several seeds together."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.datasets import mnist_images
from benchmarks.errors import CannotRun
from benchmarks.permuted_mnist import training as module
from benchmarks.permuted_mnist.data import load_images
from benchmarks.permuted_mnist.net import network_factory
from benchmarks.permuted_mnist.pixel_permutation import PermutedImages, permutation
from benchmarks.permuted_mnist.settings import Settings
from benchmarks.permuted_mnist.training import Training
from tests.benchmarks.resumed_training import rows_of, rows_with_interruptions

SMALL = {"tasks": 2, "images": 24, "hidden": "12-8"}
FASTER = {
    "replacement_rate": 0.05, "maturity_threshold": 3, "soft_period": 5, "swr_period": 5, "estimate_every": 5,
}  # fmt: skip


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """Pieces of 10, 10 and 4 batches per task."""
    monkeypatch.setattr(module, "BATCHES_PER_PIECE", 10)


def make(method="backprop", seeds=(0,), **settings):
    own = {name: value for name, value in FASTER.items() if Settings.affects(name, method)}
    return Training(Settings.of(method, **{**SMALL, **own, **settings}), method, list(seeds))


def test_permutations_contain_each_pixel_once_and_differ_between_tasks_and_seeds():
    drawn = [permutation(number, seed, 784) for number in range(3) for seed in range(3)]
    assert all(torch.equal(each.sort().values, torch.arange(784)) for each in drawn)
    assert len({tuple(each.tolist()) for each in drawn}) == 9
    assert torch.equal(permutation(1, 2, 784), drawn[5])


@pytest.mark.parametrize("centred", [False, True])
def test_pixels_are_permuted_and_normalised(centred):
    images = load_images("digits", "", 30).images.flatten(1)
    order = permutation(0, 0, 784)
    expected = torch.stack([images[[3, 0, 3], pixel] for pixel in order], 1).double() / 255
    expected = ((expected - 0.5) / 0.5 if centred else expected).float()
    got = PermutedImages(images, order, centred=centred)[torch.tensor([3, 0, 3])]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert got.min() == (-1 if centred else 0)
    assert got.max() == 1
    assert torch.equal(got.sort(1).values, got[:, order.argsort()].sort(1).values)


def test_tasks_differ_only_in_the_permutation_and_are_the_same_for_all_methods():
    one, other = make("backprop"), make("layer_norm")
    every = torch.arange(24)
    first, second = one.task(0, 0), one.task(1, 0)
    assert torch.equal(first.y, second.y)
    assert not torch.equal(first.x[every], second.x[every])
    assert torch.equal(first.x[every].sort(1).values, second.x[every].sort(1).values)
    assert not torch.equal(first.x[every], one.task(0, 1).x[every])
    assert torch.equal(first.x[every], other.task(0, 0).x[every])
    assert torch.equal(first.probe, first.x[every])


def test_each_task_shows_each_image_once_in_a_new_order(monkeypatch):
    training = make()
    seen, learn = [], training.method.learn

    def watch(x, y):
        assert x.shape == (1, 1, 784)
        seen.append((x[0, 0], int(y)))
        return learn(x, y)

    monkeypatch.setattr(training.method, "learn", watch)
    rows_of(training)
    orders = []
    for number in range(2):
        task = training.task(number, 0)
        images = [x.tolist() for x in task.x[torch.arange(24)]]
        of_task = seen[24 * number : 24 * (number + 1)]
        orders.append([images.index(x.tolist()) for x, _ in of_task])
        assert [int(task.y[i]) for i in orders[-1]] == [label for _, label in of_task]
    assert [sorted(order) for order in orders] == [list(range(24))] * 2
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        *((method, "adam") for method in Settings.methods),
        *((method, "sgd") for method in ("backprop", "continual_backprop", "upgd")),
        *((method, "adamw") for method in ("l2", "continual_backprop")),
    ],
)
def test_training_resumed_after_every_piece_gives_the_same_rows(method, optimizer):
    given = {"optimizer": optimizer, "tasks": 3, "lr": 0.01}  # the last task's probe shows the effect of all others
    whole = rows_of(make(method, **given))
    rows = rows_with_interruptions(lambda: make(method, **given))
    assert json.dumps(rows) == json.dumps(whole)
    assert [row["task"] for row in whole] == [1, 2, 3]
    assert {"online_accuracy", "dead_units/0", "nature_rank/0", "weight_magnitude"} <= whole[0].keys()


@pytest.mark.parametrize("method", Settings.ensemble_methods)
def test_seeds_trained_together_equal_seeds_trained_alone(method):
    together = rows_of(make(method, (3, 4), lr=1e-3))
    alone = [row for seed in (3, 4) for row in rows_of(make(method, (seed,), lr=1e-3))]
    alone.sort(key=lambda row: (row["task"], row["seed"]))
    assert len(together) == 4
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit:Warning")  # torch's compiler uses a deprecated function
@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("input_norm", {}),
        ("fire", {}),
        ("ccbp", {"soft_period": 5}),
        ("l2_init", {"l2_init": 0.1}),
        ("spectral", {"spectral": 0.1}),
    ],
)
def test_compiled_runs_give_about_the_same_and_resumed_ones_the_same(method, own):
    given = {"method": method, "seeds": (0, 1), "optimizer": "sgd", "lr": 0.01, **own}
    plain, compiled = rows_of(make(**given)), rows_of(make(**given, compile="yes"))
    for key in ("online_accuracy", "weight_magnitude"):
        torch.testing.assert_close(
            torch.tensor([row[key] for row in compiled]), torch.tensor([row[key] for row in plain]), rtol=1e-4, atol=0
        )
    assert json.dumps(rows_with_interruptions(lambda: make(**given, compile="yes"))) == json.dumps(compiled)


def test_methods_train_differently():
    methods = [method for method in Settings.methods if method != "crelu"]  # CReLU has other shapes
    ends = {method: rows_of(make(method))[-1]["weight_magnitude"] for method in methods}
    assert len(set(ends.values())) == len(ends)


def test_adamw_decays_weights_and_seeds_trained_together_equal_seeds_trained_alone():
    plain, decayed = (make("l2", optimizer="adamw", weight_decay=value) for value in (0.0, 100.0))
    ends = [rows_of(each)[-1]["weight_magnitude"] for each in (plain, decayed)]
    assert ends[1] < 0.99 * ends[0]
    assert make(optimizer="adamw").method.learner.opt.param_groups[0]["weight_decay"] == 0.01
    together = rows_of(make("continual_backprop", (3, 4), optimizer="adamw"))
    alone = [row for seed in (3, 4) for row in rows_of(make("continual_backprop", (seed,), optimizer="adamw"))]
    for one, other in zip(together, sorted(alone, key=lambda row: (row["task"], row["seed"])), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_accuracy_is_measured_before_each_update():
    training = make(images=8, tasks=1)
    net, task = training.method.nets()[0], training.task(0, 0)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    (row,) = rows_of(training)
    again = make(images=8, tasks=1)
    again.method.nets()[0].load_state_dict(state)
    correct = 0
    for i in torch.randperm(8, generator=again._streams[0]):
        correct += int(again.method.nets()[0](task.x[i[None]]).argmax()) == int(task.y[i])
        again.method.learn(task.x[i[None]][None], task.y[i[None]][None])
    assert row["online_accuracy"] == correct / 8


@pytest.mark.parametrize("size", Settings.size_names())
@pytest.mark.parametrize("method", Settings.methods)
def test_sizes_have_the_published_settings(method, size):
    settings = Settings.of(method, size)
    published = {
        "quick": ("digits", 5_000, "300-150", "centred", "default", "cpu"),
        "upgd": ("digits", 5_000, "300-150", "centred", "default", "cpu"),
        "width_100": ("fashion", 60_000, "100-100-100", "unit", "kaiming", "cpu"),
        "published": ("mnist", 60_000, "2000-2000-2000", "unit", "kaiming", "cuda"),
    }[size]
    names = ("source", "images", "hidden", "inputs", "init", "device")
    assert tuple(getattr(settings, name) for name in names) == published
    assert settings.tasks == {"upgd": 200, "width_100": 30, "published": 800}.get(size, settings.tasks)


def test_defaults_depend_on_the_optimizer_and_given_values_take_precedence():
    sgd, adam = (Settings.of("backprop", "published", optimizer=name) for name in ("sgd", "adam"))
    assert (sgd.lr, adam.lr, adam.beta1, adam.beta2) == (0.003, 1e-4, 0.9, 0.999)
    assert Settings.of("backprop", "published", optimizer="sgd", lr=0.5).lr == 0.5
    upgd = Settings.of("backprop", "upgd", optimizer="adam")
    assert (upgd.lr, upgd.beta1, upgd.beta2) == (1e-4, 0.0, 0.99)
    assert Settings.of("l2", "upgd", optimizer="sgd").weight_decay == 1e-3
    upgd_w = Settings.of("upgd", "upgd", optimizer="sgd")  # with the factor 2 of gnt's UPGD
    assert (2 * upgd_w.lr, upgd_w.weight_decay / 2, upgd_w.sigma, upgd_w.utility_decay) == (0.01, 0.01, 0.1, 0.9999)
    assert (Settings.of("input_norm", "upgd", optimizer="sgd").lr, Settings.of("backprop", "upgd").lr) == (0.01, 1e-4)
    names = ("lr", "beta1", "beta2")
    for size in Settings.size_names():
        own = [Settings.of("backprop", size, optimizer=optimizer) for optimizer in ("adam", "adamw")]
        assert len({tuple(getattr(each, name) for name in names) for each in own}) == 1


def test_initial_weights_have_the_specified_bounds():
    torch.manual_seed(0)
    net = network_factory("100-50", "kaiming", "cpu")("backprop")
    bounds = [(6 / 784) ** 0.5, (6 / 100) ** 0.5, (3 / 50) ** 0.5]
    for layer, bound in zip([net[0], net[2], net[4]], bounds, strict=True):
        assert 0.97 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert not layer.bias.any()
    net = network_factory("100-50", "default", "cpu")("backprop")
    assert 0.97 / 28 < float(net[0].weight.detach().abs().max()) <= 1 / 28
    assert net[0].bias.any()


def test_the_choice_of_images_is_random_but_fixed():
    chosen, all_of_them = load_images("digits", "", 200), mnist_images()
    assert len(chosen) == 200
    assert len(set(chosen.labels[:40].tolist())) == 10
    assert torch.equal(load_images("digits", "", 200).images, chosen.images)
    every = load_images("digits", "", 5_000)
    assert torch.equal(every.labels.sort().values, all_of_them.labels.sort().values)
    assert torch.equal(every.images.sum((1, 2, 3)).sort().values, all_of_them.images.sum((1, 2, 3)).sort().values)


def test_invalid_settings_and_missing_data_are_reported():
    with pytest.raises(CannotRun, match=r"--images must be at most 5000, .* got 5001"):
        make(images=5_001)
    with pytest.raises(CannotRun, match="give it with --data"):
        make(source="mnist")
    if not torch.cuda.is_available():
        with pytest.raises(CannotRun, match="torch finds no GPU"):
            make(device="cuda")


@pytest.mark.parametrize("text", ["", "300,150", "300-", "-5", "0-10", "3x2"])
def test_invalid_sizes_of_hidden_layers_are_refused(text):
    from argparse import ArgumentTypeError

    with pytest.raises(ArgumentTypeError, match="must be sizes of hidden layers such as 300-150, got"):
        Settings.field("hidden").metadata["check"](text)
