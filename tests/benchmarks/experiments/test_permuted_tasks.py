"""Permuted tasks: tasks, what is measured, and resuming."""

from __future__ import annotations

import pytest
import torch

import gnt
from benchmarks.errors import CannotRun
from benchmarks.permuted_tasks import training as module
from benchmarks.permuted_tasks.settings import Settings
from benchmarks.permuted_tasks.training import Training
from benchmarks.published import entries, nearest_to
from tests.benchmarks.resumed_training import rows_of, rows_with_interruptions

SMALL = {"tasks": 3, "train": 24, "test": 20, "epochs": 2, "batch": 8, "hidden": "10-8"}
FASTER = {"memory": 12, "samples": 10, "strength": 1e3, "replacement_rate": 0.05, "maturity_threshold": 2}


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """Pieces of 4 and 2 batches per task."""
    monkeypatch.setattr(module, "BATCHES_PER_PIECE", 4)


def make(method="backprop", seed=0, **settings):
    own = {name: value for name, value in FASTER.items() if Settings.affects(name, method)}
    return Training(Settings.of(method, **{**SMALL, **own, **settings}), method, [seed])


@pytest.mark.parametrize("method", Settings.methods)
def test_interrupted_training_gives_the_same_rows(method):
    whole = rows_of(make(method))
    assert rows_with_interruptions(lambda: make(method), {1, 4}.__contains__) == whole
    assert [row["task"] for row in whole] == [1, 2, 3]


def test_rows_hold_the_metrics_of_the_accuracy_matrix():
    rows = rows_of(make(tasks=4))
    matrix = gnt.metrics.TaskMatrix(4)
    for after, row in enumerate(rows):
        for task in range(after + 1):
            matrix.put(after, task, row[f"accuracy_on/{task + 1}"])
    last, own = rows[-1], [row[f"accuracy_on/{row['task']}"] for row in rows]
    assert [row["new_task"] for row in rows] == own
    assert last["accuracy"] == matrix.average_accuracy()
    assert last["old_tasks"] == pytest.approx(sum(last[f"accuracy_on/{t}"] for t in (1, 2, 3)) / 3)
    for name in ("forgetting", "backward_transfer", "one_step_backward_transfer"):
        assert last[name] == getattr(matrix, name)()
        assert name not in rows[0]


def test_tasks_are_permutations_of_the_same_images_for_every_method():
    one, other = make(seed=3), make("ewc", seed=3)
    first, second = one.task(0, 3), one.task(1, 3)
    assert first.x.equal(other.task(0, 3).x)
    assert not first.x.equal(second.x)
    assert first.x.sort(1).values.equal(second.x.sort(1).values)
    assert first.y.equal(second.y)
    images, _ = one.tested(1)
    assert images.equal(one._test.images[:, one._permutation(1)])
    assert not make(seed=4).task(0, 4).x.equal(first.x)
    assert torch.cat([one._train.images, one._test.images]).unique(dim=0).shape[0] == 44  # no image in both


def test_units_are_replaced_and_protected_as_the_method_says():
    for method, engine, protected in (
        ("ewc", False, False),
        ("ewc_cbp", True, False),
        ("ewc_cbp_protected", True, True),
    ):
        training = make(method)
        learner = training.method.learner
        (ewc,) = (each for each in learner.methods if isinstance(each, gnt.EWC))
        assert isinstance(learner, gnt.ContinualBackprop) is engine
        if engine:
            assert learner.gnt.is_followed_by(ewc)
            assert (learner.gnt.protect is ewc) is protected


def test_masked_methods_have_a_mask_for_each_task_and_hat_forgets_nothing():
    training = make("hat_cbp", tasks=4, train=8)
    rows = rows_of(training)
    learner = training.method.learner
    (hat,) = learner.methods
    assert hat.tasks == [0, 1, 2, 3]
    assert learner.gnt.protect is hat
    for task in range(1, 4):
        assert len({row[f"accuracy_on/{task}"] for row in rows[task - 1 :]}) == 1
    fine = make("fg_ada_hat", importance="gradient_activation").method.learner.methods[0]
    assert (fine.importance, fine.every, fine.settings.apply) == ("gradient_activation", 20, "update")
    top = make("cbp_top").method.learner.gnt.protect
    assert top == gnt.protection.TopUnits(0.2)


@pytest.mark.parametrize(("name", "betas"), [("adam", (0.9, 0.999)), ("sgd", None)])
def test_upgd_takes_the_place_of_the_optimizer(name, betas):
    training = make("upgd", optimizer=name, sigma=0.5, weight_decay=0.25)
    opt = training.method.learner.opt
    assert isinstance(opt, gnt.optim.UPGD)
    assert opt.param_groups[0]["params"] == list(training.method.learner.net.parameters())
    used = {"lr": 5e-4, "sigma": 0.5, "weight_decay": 0.25, "decay_rate": 0.9999, "betas": betas}
    assert {option: opt.param_groups[0][option] for option in used} == used


def test_the_size_adahat_has_the_published_settings():
    chosen = Settings.of("ada_hat", "adahat")
    published = {"alpha": 1e-6, "epsilon": 0.1, "s_max": 400.0, "sparsity": 0.1, "form": "gradient", "lr": 1e-3}
    assert {name: getattr(chosen, name) for name in published} == published
    for settings, end in ((chosen, 0.751), (Settings.of("ada_hat", "adahat", tasks=5, variant="no_sum"), 0.865)):
        found = nearest_to(entries(), settings, "ada_hat")
        assert [(entry.values, differing) for entry, differing in found] == [({"start": 0.955, "end": end}, {})]


def test_too_few_images_and_a_missing_folder_are_refused():
    with pytest.raises(
        CannotRun, match="--train and --test together must be at most 5000, the number of images, got 5001"
    ):
        make(train=4981)
    with pytest.raises(CannotRun, match="MNIST's 70,000 images are read from a folder"):
        Training(Settings.of("backprop", "published"), "backprop", [0])
