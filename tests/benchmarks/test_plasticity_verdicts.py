"""The plasticity check at the end of a run: what it measures, where it is recorded and shown."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import experiments, plasticity
from benchmarks.comparison_table import comparison_table
from benchmarks.errors import CannotRun
from benchmarks.incremental_cifar import training as incremental
from benchmarks.incremental_cifar.settings import Settings as IncrementalSettings
from benchmarks.permuted_mnist import training as permuted
from benchmarks.permuted_mnist.settings import Settings
from benchmarks.permuted_tasks import training as permuted_tasks
from benchmarks.permuted_tasks.settings import Settings as TasksSettings
from benchmarks.plasticity import Check, verdict_of
from benchmarks.report.problems import problems
from benchmarks.report.result_tables import Sources, problem_table
from benchmarks.run import Run
from benchmarks.slowly_changing_regression import training as regression
from benchmarks.split_digits import training as split
from benchmarks.split_digits.settings import Settings as SplitSettings
from benchmarks.summary import results_of
from benchmarks.worker import run_worker
from tests.benchmarks.datasets.raw_files import write_idx_folder
from tests.helpers.finished_runs import planned_runs, write_record

FOUND = {"verdict": "some", "steps": 300, "lost": 0.25, "low": 0.2, "high": 0.3, "fresh_head": None}
CHECK = Check(steps=12, batch=8, shortest=10)


def make_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


def test_a_network_without_active_units_has_a_severe_loss_and_a_new_one_none() -> None:
    torch.manual_seed(0)
    x, net = torch.randn(200, 8), make_net()
    data, check = (x, x[:, :4].argmax(1)), Check(steps=150, batch=16)

    def adam(params: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, lr=1e-2)

    state = torch.get_rng_state()
    assert verdict_of(net, make_net, adam, data, "cross_entropy", check)["verdict"] == "none"
    with torch.no_grad():
        net[0].bias.fill_(-100.0)
    before = [p.clone() for p in net.parameters()]
    found = verdict_of(net, make_net, adam, data, "cross_entropy", check)
    assert found["verdict"] == "severe"
    assert found["low"] <= found["lost"] <= found["high"]
    assert found["lost"] > 0.5
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["backprop", "continual_backprop", "crelu", "input_norm", "upgd"])
def test_networks_of_methods_are_checked_on_the_task_after_the_last(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permuted.Training, "check", CHECK)
    seeds = [3, 4] if method in Settings.ensemble_methods else [3]
    given: dict[str, Any] = {"tasks": 1, "images": 16, "hidden": "12-8"}
    training = permuted.Training(Settings.of(method, **given), method, seeds)
    while training.done < training.total:
        training.advance()
    asked: list[int] = []
    task = training.task

    def watched(number: int, seed: int) -> Any:
        asked.append(number)
        return task(number, seed)

    monkeypatch.setattr(training, "task", watched)
    found = training.plasticity()
    assert list(found) == [str(seed) for seed in seeds]
    assert asked == [1] * len(seeds)
    assert training.plasticity() == found
    plasticity.VERDICTS_KIND("", found)


def finished(training: Any) -> Any:
    while training.done < training.total:
        training.advance()
    return training


def weights_of(training: Any) -> list[torch.Tensor]:
    return [each.clone() for net in training.method.nets() for each in net.state_dict().values()]


def kill_hidden_units(training: Any) -> None:
    """All hidden units are off for every input, so that only biases of the output layer can learn."""
    for module in training.method.nets()[0].modules():
        if isinstance(module, nn.Linear) and module.in_features > 700:
            module.bias.data.fill_(-100.0)


@pytest.mark.parametrize(
    ("method", "scenario"),
    [("er", "class"), ("backprop", "domain"), ("packnet", "task"), ("progressive", "task")],
)
def test_networks_of_split_digits_are_checked_on_new_permutations_of_all_classes(
    method: str, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split.Training, "check", Check(steps=30, batch=16, shortest=10))
    own = {name: 20 for name in ("memory",) if SplitSettings.affects(name, method)}
    given: dict[str, Any] = {"train": 40, "test": 10, "epochs": 1, "batch": 8, "hidden": "24", "lr": 1e-2, **own}
    training = finished(split.Training(SplitSettings.of(method, scenario=scenario, **given), method, [3]))
    if method in ("packnet", "progressive"):
        assert training.plasticity() == {}
        return
    task = training.further_task(3)
    assert len(task.y) == 200
    assert len(task.y.unique()) == (2 if scenario == "domain" else 10)
    assert not torch.equal(task.x[:20], training.task(0, 3).x[:20])
    kill_hidden_units(training)
    before, state = weights_of(training), torch.get_rng_state()
    assert training.plasticity()["3"]["verdict"] == "severe"
    assert all(map(torch.equal, before, weights_of(training)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["ewc_cbp", "backprop_heads", "hat", "fg_ada_hat"])
def test_networks_of_permuted_tasks_are_checked_unless_masks_decide_what_can_be_learned(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permuted_tasks.Training, "check", Check(steps=30, batch=16, shortest=10))
    given: dict[str, Any] = {"tasks": 2, "train": 160, "test": 10, "epochs": 1, "batch": 16, "hidden": "24", "lr": 1e-2}
    training = finished(permuted_tasks.Training(TasksSettings.of(method, **given), method, [3]))
    if "hat" in method:
        assert training.plasticity() == {}
        return
    kill_hidden_units(training)
    before = weights_of(training)
    assert training.plasticity()["3"]["verdict"] == "severe"
    assert all(map(torch.equal, before, weights_of(training)))


def test_networks_of_incremental_cifar_are_checked_on_random_labels_also_after_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx_folder(tmp_path, train=30, test=10)
    given: dict[str, Any] = {
        "step": 5, "epochs": 1, "train": 8, "validation": 4, "test": 5, "width": 2, "batch": 12, "data": str(tmp_path),
    }  # fmt: skip

    def make() -> Any:
        return incremental.Training(IncrementalSettings.of("backprop", **given), "backprop", [3])

    training = finished(make())
    assert training.plasticity() == {}  # too short
    loaded = make()
    loaded.load_state_dict(training.state_dict())
    monkeypatch.setattr(incremental, "CHECK", Check(steps=2, batch=8, fresh="labels", shortest=10))
    before = weights_of(loaded)
    plasticity.VERDICTS_KIND("", loaded.plasticity())
    assert all(map(torch.equal, before, weights_of(loaded)))


def test_short_runs_are_not_checked() -> None:
    training = permuted.Training(Settings.of("backprop", tasks=1, images=16, hidden="12-8"), "backprop", [3])
    assert training.plasticity() == {}


class _Connection:
    """A command that only listens."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any, /) -> None:
        self.sent.append(message)

    def poll(self) -> bool:
        return False

    def recv(self) -> Any:
        raise EOFError


def test_a_worker_records_the_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "CHECK", CHECK)
    monkeypatch.setattr(regression, "SHORTEST", 200)
    (run,) = planned_runs(tmp_path, "slowly_changing_regression", "continual_backprop", steps=200, bin=100)
    connection = _Connection()
    worker = threading.Thread(target=run_worker, args=(run, connection, 100.0, False))
    worker.start()
    worker.join()
    assert connection.sent[-1] == ("finished",)
    assert set(run.plasticity) == {"0", "1"}
    assert {each["verdict"] for each in run.plasticity.values()} <= set(plasticity.VERDICTS)
    assert run.plasticity["0"] != run.plasticity["1"]
    assert run.finished


def runs_with_verdicts(out: Path) -> list[Run]:
    runs = [write_record(run) for run in planned_runs(out, "class_pairs", "backprop redo")]
    for run in runs:
        if run.method == "backprop":
            lines = run.record.file.read_text().splitlines()
            lines[-1] = json.dumps({**json.loads(lines[-1]), "plasticity": {str(run.seeds[0]): FOUND}})
            run.record.file.write_text("\n".join(lines) + "\n")
    return runs


def test_tables_show_the_verdicts(tmp_path: Path) -> None:
    runs = runs_with_verdicts(tmp_path)
    display = experiments.display("class_pairs")
    table = comparison_table(results_of(runs), display)
    assert table.columns[-1].header == "plasticity check"
    assert list(table.columns[-1].cells) == ["some; lost 25%", "not measured"]
    (problem,) = problems(runs)
    lines = problem_table(problem, Sources())
    assert sum("some; lost 25%" in line for line in lines) == 1


def test_verdicts_of_another_kind_are_refused(tmp_path: Path) -> None:
    run = runs_with_verdicts(tmp_path)[0]
    run.record.file.write_text(run.record.file.read_text().replace('"some"', '"bad"'))
    with pytest.raises(CannotRun, match=r"is damaged: plasticity\.0\.verdict must be 'severe' or 'some'"):
        _ = run.plasticity
