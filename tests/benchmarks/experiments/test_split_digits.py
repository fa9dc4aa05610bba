"""Split digits: tasks, the three scenarios, what is measured, and resuming."""

from __future__ import annotations

import pytest
import torch

from benchmarks.errors import CannotRun
from benchmarks.experiment_options import parse_plan
from benchmarks.split_digits import training as module
from benchmarks.split_digits.scenarios import SplitScenario
from benchmarks.split_digits.settings import SCENARIOS, TASK_ONLY, Settings
from benchmarks.split_digits.training import Training
from tests.benchmarks.resumed_training import rows_of, rows_with_interruptions

SMALL = {"train": 24, "test": 10, "epochs": 2, "batch": 8, "hidden": "12-8"}
FASTER = {"memory": 20, "latent": 4, "replacement_rate": 0.05, "maturity_threshold": 3}


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """Pieces of 4 and 2 batches per task."""
    monkeypatch.setattr(module, "BATCHES_PER_PIECE", 4)


def make(method="backprop", seed=0, **settings):
    settings = {"scenario": "task" if method in TASK_ONLY else "class", **settings}
    own = {name: value for name, value in FASTER.items() if Settings.affects(name, method)}
    return Training(Settings.of(method, **{**SMALL, **own, **settings}), method, [seed])


@pytest.mark.parametrize("method", Settings.methods)
def test_interrupted_training_gives_the_same_rows(method):
    whole = rows_of(make(method))
    # within a task, at its end, before the last piece
    assert rows_with_interruptions(lambda: make(method), {1, 4, 9}.__contains__) == whole
    assert [row["task"] for row in whole] == [1, 2, 3, 4, 5]
    for number, row in enumerate(whole):
        on_tasks = [row[f"accuracy_on/{task + 1}"] for task in range(number + 1)]
        assert row["accuracy"] == pytest.approx(sum(on_tasks) / len(on_tasks))
        assert {"online_accuracy", "weight_magnitude"} <= row.keys()
        assert ("forgetting" in row) == ("backward_transfer" in row) == (number > 0)


def test_tasks_are_pairs_of_all_classes_and_the_same_for_all_methods():
    first, second = (make(method, seed=3) for method in ("backprop", "er"))
    seen = []
    for number in range(5):
        task, other = first.task(number, 3), second.task(number, 3)
        assert task.x.shape == (24, 784)
        assert task.x.equal(other.x)
        assert task.y.equal(other.y)
        assert task.y.unique().tolist() == [2 * number, 2 * number + 1]
        seen += first._classes[2 * number : 2 * number + 2].tolist()
    assert sorted(seen) == list(range(10))
    assert make(seed=3)._classes.tolist() != make(seed=4)._classes.tolist()
    joint = make("joint", seed=3).task(0, 3)
    assert len(joint.y) == 24
    assert len(joint.y.unique()) > 5


def test_orders_sort_the_same_pairs():
    pairs = {
        order: make(order=order)._classes.view(5, 2).tolist() for order in ("random", "easy_to_hard", "hard_to_easy")
    }
    assert sorted(pairs["random"]) == sorted(pairs["easy_to_hard"])
    assert pairs["easy_to_hard"] == pairs["hard_to_easy"][::-1]


def test_scenarios_compare_the_outputs_that_they_should():
    output = torch.tensor([[9.0, 1.0, 3.0, 2.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    classes = torch.tensor([3])
    task, domain, of_class = map(SplitScenario, SCENARIOS)
    assert task.restrict(output, task.targets(classes)).argmax() == 2  # among classes 2 and 3 only
    assert task.loss(output, classes).item() == pytest.approx(
        torch.nn.functional.cross_entropy(output[:, 2:4], torch.tensor([1])).item()
    )
    assert (domain.outputs, domain.targets(classes).item()) == (2, 1)
    assert of_class.restrict(output, classes).equal(output)


@pytest.mark.parametrize(("scenario", "above"), [("task", 0.8), ("domain", 0.6), ("class", 0.4)])
def test_replay_remembers_what_backprop_forgets(scenario, above):
    settings = {"train": 100, "test": 40, "epochs": 6, "scenario": scenario, "hidden": "64", "lr": 3e-3}
    none = rows_of(make("backprop", **settings))[-1]
    replay = rows_of(make("er", memory=200, **settings))[-1]
    assert replay["accuracy"] > above
    if scenario != "task":  # where little is forgotten
        assert replay["accuracy"] > none["accuracy"]
        assert replay["forgetting"] < none["forgetting"]


def test_images_from_a_folder_and_missing_ones(digits_folder):
    assert len(rows_of(make(data=digits_folder, source="fashion"))) == 5
    with pytest.raises(CannotRun, match="there are 10 test images of class 0, fewer than the 20 asked for"):
        make(data=digits_folder, source="fashion", test=40)
    with pytest.raises(CannotRun, match="there are 500 digits of class 0, fewer than the 600 asked for"):
        make(train=1000, test=200)


@pytest.mark.parametrize("method", TASK_ONLY)
def test_accuracies_on_earlier_tasks_never_change(method):
    rows = rows_of(make(method, train=60, test=40, epochs=4, lr=3e-3))
    for task in range(1, 6):
        assert len({row[f"accuracy_on/{task}"] for row in rows[task - 1 :]}) == 1
    assert rows[-1]["accuracy"] > 0.7
    assert rows[-1]["forgetting"] == 0


def test_methods_that_must_know_the_task_are_refused_where_it_is_not_known(tmp_path):
    for scenario in ("domain", "class"):
        with pytest.raises(CannotRun, match=f"packnet has weights of its own .*: --scenario task, got {scenario}"):
            make("packnet", scenario=scenario)
        plan, _ = parse_plan("split_digits", ["--methods", "progressive", "--scenario", scenario])
        with pytest.raises(CannotRun, match="progressive has weights of its own for each task"):
            plan.runs(tmp_path)
    plan, _ = parse_plan("split_digits", ["--methods", "all", "--grid", "scenario=task,class"])
    runs = plan.runs(tmp_path)
    assert {run.method for run in runs if run.settings.scenario == "task"} == set(Settings.methods)
    assert {run.method for run in runs if run.settings.scenario == "class"} == set(Settings.methods) - set(TASK_ONLY)


def test_the_published_size_takes_2000_batches_of_128_and_strengths_of_the_scenario(digits_folder):
    published = Settings.of("ewc", "published", scenario="domain")
    assert published.epochs * (published.train // published.batch) == 2000
    assert (published.strength, Settings.of("ewc", "published").strength) == (1e10, 1e9)
    assert Settings.of("ewc", "published", scenario="domain", strength=3.0).strength == 3.0
    small = {**SMALL, "memory": 20, "data": digits_folder}
    assert len(rows_of(Training(Settings.of("er", "published", **small), "er", [0]))) == 5
    with pytest.raises(CannotRun, match="MNIST's 70,000 images are read from a folder: give it with --data"):
        Training(Settings.of("er", "published"), "er", [0])


def test_generated_images_train_only_the_outputs_of_old_tasks():
    training = make("generative_replay", scenario="task")
    head = training.method.nets()[0][-1].weight
    before = head.detach().clone()
    while training.done < 2 * training.pieces_per_task:
        training.advance()
    changed = (head != before).any(1)
    assert changed.tolist() == [True] * 4 + [False] * 6
