"""The check of diverged networks, shared weights, autocast, losses of other kinds, and data of every form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import gnt
from gnt.diagnosis._batches import read_batches
from gnt.diagnosis._learning import learn, share_wrong

torch.manual_seed(0)
X = torch.randn(320, 8)
Y = X[:, :4].argmax(1)


def adam(params):
    return torch.optim.Adam(params, lr=0.01)


def network(outputs=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, outputs))


def check(net, data=(X, Y), loss="cross_entropy", make=adam, **settings):
    return gnt.plasticity_check(net, make, data, loss, **{"steps": 30, "seeds": 3, "progress": False, **settings})


class Tied(nn.Module):
    """Its first and its last layer share a weight, whose initial values differ by a factor of eight."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(50, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(torch.relu(self.hidden(self.embedding(x))))


@pytest.mark.parametrize(("scale", "loss", "y"), [(1e20, "cross_entropy", Y), (math.nan, "mse", X[:, :4])])
def test_a_diverged_network_has_lost_all(scale, loss, y, tmp_path):
    net = network()
    with torch.no_grad():
        net[0].weight.mul_(scale)
        net[2].weight.mul_(min(scale, 1e20) if scale == scale else 1.0)
    found = check(net, (X, y), loss, steps=60)
    assert found.verdict in ("some", "severe")
    assert found.gaps.lost.mean == pytest.approx(1.0)
    assert "not finite" in str(found.worst[0])
    assert "has diverged" in found.advice[0].why
    assert any("some losses are not finite" in note for note in found.notes)
    found.draw(tmp_path / "check.png")
    assert (tmp_path / "check.png").stat().st_size > 10_000


def test_samples_that_cross_entropy_ignores_do_not_count_as_wrong():
    scores = torch.eye(200)[[156, 3, 4, 5]]
    assert share_wrong(scores, torch.tensor([156, 3, 0, -100])) == pytest.approx(1 / 3)
    assert share_wrong(scores, torch.tensor([156, 3, 0, 5], dtype=torch.uint8)) == 0.25
    assert share_wrong(scores, torch.full((4,), -100)).isnan()


@pytest.mark.parametrize("ignored", [0, 4])
def test_a_batch_of_which_all_targets_are_ignored_says_nothing_about_errors(ignored):
    y = Y.clone()
    y[32 * ignored : 32 * ignored + 32] = -100

    def loss(output, y):
        return F.cross_entropy(output, y, reduction="sum") / max(1, int((y != -100).sum()))

    batches = read_batches([(X[i : i + 32], y[i : i + 32]) for i in range(0, 320, 32)], 10, 1)
    net = network()
    errors = learn(net, adam(net.parameters()), batches, loss, torch.device("cpu"), lambda: None).error
    assert errors.isfinite().all()
    assert errors[ignored] == errors[ignored - 1 if ignored else 1]


def test_masked_scores_are_no_sign_of_divergence():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6))
            self.register_buffer("allowed", torch.arange(6) < 4)

        def forward(self, x):
            return self.layers(x).masked_fill(~self.allowed, -torch.inf)

    found = check(Masked())
    assert found.measure == "error"
    assert bool(found.curves["fresh"].isfinite().all())
    assert "not finite" not in str(found.notes)


def test_a_weight_that_different_layers_share_needs_a_function():
    x = torch.randint(50, (320,), generator=torch.Generator().manual_seed(0))
    data = (x, (x * 7 + 3) % 50)
    with pytest.raises(ValueError, match=r"of embedding\.weight and head\.weight, which are one parameter"):
        check(Tied(), data)
    found = check(Tied(), data, reinitialize=lambda: Tied())
    assert found.head == ("head",)
    assert "the output layer shares embedding.weight with other layers" in str(found.notes)
    assert not torch.equal(found.curves["present"], found.curves["fresh head"])


def test_layers_of_one_kind_may_share_a_weight():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    net[2].weight = net[0].weight
    assert check(net).steps == 30


def test_under_autocast_copies_learn_and_the_cache_holds_nothing_of_them():
    plain = check(network())
    with torch.autocast("cpu", torch.bfloat16):
        net = network()
        before = net(X)
        groups = gnt.trace(net, X[:4])
        found = check(net)
        assert torch.equal(net(X), before)
    assert [group.num_units for group in groups] == [32]
    assert found.fresh[0].units == 32
    assert found.gaps.progress.low > 0
    assert found.gaps.progress.mean == pytest.approx(plain.gaps.progress.mean, abs=0.05)


def test_gradients_of_the_model_and_of_a_loss_are_as_before():
    net, weights = network(), nn.Linear(1, 1)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, output, y):
            penalty = 1e-3 * sum(each.square().sum() for each in net.parameters())
            return self.scale * F.cross_entropy(output, y) + penalty + weights.weight.sum() * 0

    loss = Loss()
    net[0].weight.grad, loss.scale.grad = torch.ones(32, 8), torch.tensor(3.0)
    kept = net[0].weight.grad
    found = check(net, loss=loss)
    assert net[0].weight.grad is kept
    assert torch.equal(kept, torch.ones(32, 8))
    assert net[2].weight.grad is None
    assert float(loss.scale.grad) == 3.0
    assert "such terms have no effect on the copies" in str(found.notes)
    assert "no effect" not in str(check(network()).notes)


class Rising(nn.Module):
    """A cross entropy whose weight rises with the number of calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, output, y):
        self.calls += 1
        return self.calls * F.cross_entropy(output, y)


def test_each_copy_learns_with_a_copy_of_a_loss_that_is_a_module():
    loss = Rising()
    found = check(network(), [(X[:32], Y[:32])], loss, steps=3, seeds=2, measure="loss", reinitialize=lambda net: None)
    assert found.losses["present"][0].tolist() == found.losses["fresh"][0].tolist()
    assert found.losses["present"][0].tolist() == found.losses["present"][1].tolist()
    assert found.present[0].gradient_norm == found.fresh[0].gradient_norm
    assert loss.calls == 0
    loss.latest = loss(network()(X), Y)  # for logging
    assert check(network(), loss=loss).steps == 30
    loss.rows = (row for row in X)
    with pytest.raises(TypeError, match=r"loss must be a module that copy\.deepcopy copies"):
        check(network(), loss=loss)


def test_the_measure_can_be_the_loss_where_targets_are_not_classes_of_scores():
    net = network(outputs=6)
    with torch.no_grad():
        net[0].bias[:] = -100.0

    def contrastive(z, y):
        z = F.normalize(z, dim=1)
        similar = z @ z.T / 0.2 - torch.eye(len(z)) * 1e9
        same = (y[:, None] == y) & ~torch.eye(len(z), dtype=torch.bool)
        return -((similar - similar.logsumexp(1, keepdim=True)) * same).sum() / same.sum()

    by_error = check(net, loss=contrastive, steps=150)
    assert (by_error.verdict, by_error.measure) == ("unclear", "error")
    assert "measure='loss' judges by the loss" in str(by_error.notes)
    by_loss = check(net, loss=contrastive, steps=150, measure="loss")
    assert (by_loss.verdict, by_loss.measure) == ("severe", "loss")
    assert torch.equal(by_loss.curves["fresh"], by_error.losses["fresh"])
    steps = []
    with pytest.raises(ValueError, match="measure='error' needs integer targets"):
        check(network(), (X, X[:, :4]), "mse", measure="error", progress=steps.append)
    assert not steps
    with pytest.raises(ValueError, match="measure must be None or one of 'error', 'loss', got 'accuracy'"):
        check(network(), measure="accuracy")


def test_a_last_batch_of_one_sample_is_left_out():
    net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    assert check(net, (X[:289], Y[:289])).steps == 30
    assert [len(each.y) for each in read_batches((X[:65], Y[:65]), 9, 32)] == [32, 32]
    assert [len(each.y) for each in read_batches((X[:66], Y[:66]), 9, 32)] == [32, 32, 2]
    assert [len(each.y) for each in read_batches((X[:1], Y[:1]), 9, 32)] == [1]


class Stream(IterableDataset):
    def __init__(self, *items):
        self.items = items

    def __iter__(self):
        yield from self.items


def test_data_sets_of_samples_without_a_length_are_batched():
    samples = Stream(*((X[i], int(Y[i])) for i in range(70)))
    assert [len(each.y) for each in read_batches(samples, 9, 32)] == [32, 32, 6]
    assert torch.equal(read_batches(samples, 1, 32)[0].x, X[:32])
    assert [len(each.y) for each in read_batches(DataLoader(samples, 32, drop_last=True), 9, 1)] == [32, 32]
    batches = Stream((X[:5], Y[:5]), (X[5:9], Y[5:9]))
    assert [len(each.y) for each in read_batches(batches, 9, 32)] == [5, 4]
    with pytest.raises(ValueError, match="at least one batch"):
        read_batches(Stream(), 9, 32)
    with pytest.raises(ValueError, match="batch 0 must hold a target for each sample"):
        read_batches([(X[0], Y[0])], 9, 32)


class Halved(DataLoader):
    epochs = 0

    def __iter__(self):
        self.epochs += 1
        for x, y in super().__iter__():
            yield x / 2, y


def test_a_loader_with_iteration_of_its_own_gives_its_own_batches():
    order = torch.Generator().manual_seed(3)
    settings = {"batch_size": 32, "shuffle": True, "generator": order, "num_workers": 2, "persistent_workers": True}
    loader = Halved(TensorDataset(X, Y), **settings)
    before = order.get_state()
    found = read_batches(loader, 3, 1)
    assert torch.equal(order.get_state(), before)
    assert (loader.num_workers, loader._iterator, loader.epochs) == (2, None, 0)
    assert [len(each.y) for each in found] == [32] * 3
    assert all(bool(((each.x * 2)[:, None] == X).all(2).any(1).all()) for each in found)


class Endless(DataLoader):
    """A loader with one iterator for all epochs."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.iterator = super().__iter__()

    def __iter__(self):
        yield from self.iterator


def test_a_loader_that_keeps_its_iterator_loses_no_batches():
    loader = Endless(TensorDataset(X, Y), batch_size=32)
    epoch = iter(loader)
    next(epoch)
    assert [each.y.tolist() for each in read_batches(loader, 2, 1)] == [Y[:32].tolist(), Y[32:64].tolist()]
    assert torch.equal(next(epoch)[1], Y[32:64])


def test_expanded_buffers_are_kept():
    net = network()
    net.register_buffer("mask", torch.tril(torch.ones(4, 4)).expand(2, 4, 4))
    assert check(net).steps == 30
    assert net.mask.stride() == (0, 4, 1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"data": (X.numpy(), Y.numpy())}, TypeError, "got NumPy arrays: torch.from_numpy makes tensors"),
        ({"make": lambda m: adam(m.parameters())}, TypeError, "name its first argument net, model, network or module"),
        ({"seeds": [0, 2**64]}, ValueError, r"integers >= 0 and below 2\*\*63"),
    ],
)
def test_errors_say_what_to_do(settings, error, message):
    with pytest.raises(error, match=message):
        check(network(), **settings)


def test_seeds_may_be_numpy_integers():
    assert check(network(), seeds=list(np.arange(2))).seeds == (0, 1)


def test_the_note_says_why_units_are_not_measured():
    first, last = nn.Linear(8, 32), nn.Linear(32, 4)
    found = check(nn.Sequential(first, nn.ReLU(), gnt.CBPLinear(first, last), last))
    assert "already replaced by the engine" in str(found.notes)
