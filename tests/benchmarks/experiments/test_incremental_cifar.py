"""The training loop of class-incremental CIFAR: stages, early stopping and resuming."""

import pytest
import torch

from benchmarks.accuracy import accuracy
from benchmarks.errors import CannotRun
from benchmarks.incremental_cifar.settings import Settings
from benchmarks.incremental_cifar.stages import Stages
from benchmarks.incremental_cifar.training import Training
from tests.benchmarks.datasets.raw_files import write_cifar100
from tests.benchmarks.resumed_training import rows_of, rows_with_interruptions

SMALL = {
    "step": 5, "epochs": 2, "train": 8, "validation": 4, "test": 5, "width": 2, "batch": 12
}  # fmt: skip
FASTER = {"continual_backprop": {"replacement_rate": 0.05, "maturity_threshold": 2}}


def make(folder, method="backprop", seed=0, **settings):
    return Training(Settings.of(method, data=folder, **{**SMALL, **FASTER.get(method, {}), **settings}), method, [seed])


@pytest.mark.parametrize(
    ("method", "settings"),
    [("backprop", {"reset": "head"}), ("shrink_and_perturb", {"noise": 1e-3}), ("continual_backprop", {})],
)
def test_interrupted_training_gives_the_same_rows(method, settings, digits_folder):
    whole = rows_of(make(digits_folder, method, **settings))
    # within an epoch, at the end of one, at the end of a stage
    interrupted = rows_with_interruptions(lambda: make(digits_folder, method, **settings), {1, 2, 3}.__contains__)
    assert interrupted == whole
    assert [(row["task"], row["classes"]) for row in whole] == [(1, 5), (2, 10)]
    assert {"seed", "test_accuracy", "validation_accuracy", "online_accuracy", "weight_magnitude"} <= whole[0].keys()
    assert any(name.startswith("dead_units/") for name in whole[0])


def test_pieces_cover_all_batches_in_order():
    stages = Stages(classes=10, step=4, epochs=3, images=8, batch=12, piece=2)
    assert stages.classes == [4, 8, 10]
    pieces = [stages.piece(done) for done in range(stages.total)]
    batches = [(piece.stage, piece.epoch, batch) for piece in pieces for batch in range(piece.first, piece.last)]
    assert batches == [
        (stage, epoch, batch) for stage, count in enumerate((3, 6, 7)) for epoch in range(3) for batch in range(count)
    ]
    assert [piece.stage for piece in pieces if piece.ends_stage] == [0, 1, 2]
    assert sum(piece.ends_epoch for piece in pieces) == 9


def test_the_best_epoch_is_restored_at_the_end_of_a_stage(digits_folder):
    training = make(digits_folder, lr=1.0, epochs=5)  # large steps, so that the last epoch is not the best
    seen = []
    while True:
        ended = training.stages.piece(training.done).ends_epoch
        rows = training.advance()
        if rows:
            break
        if ended:
            net = training.method.nets()[0]
            seen.append((training._accuracy("validation"), {name: v.clone() for name, v in net.state_dict().items()}))
    (row,) = rows
    assert row["validation_accuracy"] == training._accuracy("validation") >= max(value for value, _ in seen)
    best = [state for value, state in seen if value == row["validation_accuracy"]]
    if best:
        now = training.method.nets()[0].state_dict()
        assert all(torch.equal(value, best[0][name]) for name, value in now.items())
    test = training._parts.test.up_to(5)
    assert row["test_accuracy"] == accuracy(training.method.nets()[0], test.x, test.y, outputs=5)


def test_only_outputs_of_the_classes_so_far_are_trained(digits_folder):
    training = make(digits_folder)
    before = training.method.nets()[0].head.bias.clone()
    training.advance()
    changed = (training.method.nets()[0].head.bias != before).tolist()
    assert changed == [True] * 5 + [False] * 5


def test_the_learning_rate_follows_the_schedule_in_each_stage(digits_folder):
    training = make(digits_folder, epochs=5, train=2)
    rates = []
    while training.done < training.total:
        piece = training.stages.piece(training.done)
        training.advance()
        if piece.ends_epoch:
            rates.append(training.method.learner.opt.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.004, 0.0008] * 2)


@pytest.mark.parametrize("what", ["nothing", "head", "network"])
def test_the_chosen_part_is_reset_with_its_momentum(what, digits_folder):
    training = make(digits_folder, reset=what)
    while not training.advance():
        pass
    net = training.method.nets()[0]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    training._reset(1)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    parts = {name.split(".")[0] for name in changed}
    assert parts == {"nothing": set(), "head": {"head"}, "network": {"conv", "bn", "blocks", "head"}}[what]
    momentum = training.method.learner.opt.state
    zeroed = {name for name, p in net.named_parameters() if momentum[p]["momentum_buffer"].eq(0).all()}
    expected = {name for name, _ in net.named_parameters() if what == "network" or name.startswith(what)}
    assert zeroed == expected
    again = make(digits_folder, reset=what)
    again._reset(1)
    if what == "head":  # the draws depend only on seed and stage
        assert torch.equal(net.head.weight, again.method.nets()[0].head.weight)


def test_units_inside_the_blocks_are_replaced(digits_folder):
    training = make(digits_folder, "continual_backprop")
    rows_of(training)
    groups = training.method.learner.gnt.groups
    assert [group.name for group in groups] == [f"blocks.{i}.conv1" for i in range(8)]
    assert sum(int((group.state.age < training.total).sum()) for group in groups) > 0


def test_cifar100_is_read_from_a_folder(tmp_path, monkeypatch):
    checksums = write_cifar100(tmp_path, train=6, test=3)
    monkeypatch.setenv("GNT_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("benchmarks.datasets.cifar.cifar100.__defaults__", (checksums,))
    training = make(str(tmp_path), source="cifar100", shrink=1, train=4, validation=2, test=3, epochs=1, step=5)
    assert training._images.x.shape == (40, 3, 32, 32)
    assert len(rows_of(training)) == 2


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("backprop", {"source": "cifar100", "data": ""}, "needs CIFAR-100: --data FOLDER.*--size quick"),
        ("backprop", {"source": "cifar100", "data": "/nowhere"}, "no CIFAR-100 in /nowhere"),
        ("backprop", {"train": 27}, "has 30 images to train, fewer than the 31 asked for"),
        ("continual_backprop", {"reset": "network"}, "Use it with --methods backprop"),
        *([] if torch.cuda.is_available() else [("backprop", {"device": "cuda"}, "torch finds no GPU here")]),
    ],
)
def test_invalid_settings_and_missing_data_are_reported(method, settings, message, digits_folder):
    with pytest.raises(CannotRun, match=message):
        Training(Settings.of(method, **{**SMALL, "data": digits_folder, **settings}), method, [0])
