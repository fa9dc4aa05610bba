"""The commands in the report: parsed by the command line, each yields exactly the runs next to it."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from benchmarks import experiments
from benchmarks.experiment_options import parse_plan
from benchmarks.report import rerun_commands
from benchmarks.run import Run
from tests.helpers.finished_runs import planned_runs

DIGITS, REGRESSION = "random_label_mnist", "slowly_changing_regression"
PLANS: list[tuple[str, dict[str, Any]]] = [
    (DIGITS, {"methods": "backprop"}),
    (DIGITS, {"methods": "backprop", "seeds": 1, "first": 7}),
    (DIGITS, {"methods": "continual_backprop", "size": "published", "seeds": 5}),
    (DIGITS, {"methods": "continual_backprop", "tasks": 50, "epochs": 30, "replacement_rate": 1e-6}),
    (DIGITS, {"methods": "redo", "seeds": 4, "first": 2, "period": 10}),
    (DIGITS, {"methods": "algorithm_1", "seeds": 3}),
    (REGRESSION, {"methods": "shrink_and_perturb", "activation": "leaky_relu", "optimizer": "adam", "noise": 0.0}),
    (REGRESSION, {"methods": "l2", "size": "one_bit", "lr": 0.003}),
    ("class_pairs", {"methods": "l2", "lr": 0.01, "data": "/some where/-else"}),
    ("slippery_ant", {"methods": "continual_backprop", "size": "published"}),
    ("incremental_cifar", {"methods": "continual_backprop", "size": "published", "seeds": 3}),
]


def folders_of_command(command: str, out: Path) -> set[Path]:
    """The folders of the runs that a command executes."""
    python, dash_m, package, experiment, *rest = shlex.split(command)
    assert (python, dash_m, package) == ("python", "-m", "benchmarks")
    plan, _ = parse_plan(experiment, rest)
    return {run.folder for run in plan.runs(out)}


def folders(runs: list[Run]) -> set[Path]:
    return {run.folder for run in runs}


@pytest.mark.parametrize(("experiment", "options"), PLANS, ids=[f"{name} {options}" for name, options in PLANS])
def test_the_command_of_a_row_yields_its_runs(experiment: str, options: dict[str, Any], tmp_path: Path) -> None:
    runs = planned_runs(tmp_path, experiment, **options)
    (command,) = rerun_commands.commands(runs)
    assert folders_of_command(command, tmp_path) == folders(runs)
    if options.get("size"):
        assert f"--size {options['size']}" in command


# methods that a default setting of their experiment excludes
NEEDED = {("split_digits", method): {"scenario": "task"} for method in ("packnet", "progressive")}


@pytest.mark.parametrize("experiment", experiments.NAMES)
def test_commands_of_all_methods_and_sizes_are_minimal(experiment: str, tmp_path: Path) -> None:
    cls = experiments.settings_class(experiment)
    for size in cls.size_names():
        for method in cls.methods if size == cls.size_names()[0] else cls.methods[:2]:
            needed = NEEDED.get((experiment, method), {})
            runs = planned_runs(tmp_path, experiment, method, seeds=2, size=size, **needed)
            (command,) = rerun_commands.commands(runs)
            assert folders_of_command(command, tmp_path) == folders(runs)
            assert command.count("--") <= 3 + len(needed)  # no settings that the size implies


def test_seeds_that_are_not_consecutive_have_several_commands(tmp_path: Path) -> None:
    alone = planned_runs(tmp_path, DIGITS, "redo", seeds=2) + planned_runs(tmp_path, DIGITS, "redo", seeds=1, first=5)
    commands = rerun_commands.commands(alone)
    assert len(commands) == 2
    together = planned_runs(tmp_path, DIGITS, "l2", seeds=3) + planned_runs(tmp_path, DIGITS, "l2", seeds=1, first=3)
    together += planned_runs(
        tmp_path, DIGITS, "l2", seeds=1, first=4
    )  # in one command with the previous seed, the two would be an ensemble
    commands += rerun_commands.commands(together)
    assert len(commands) == 5
    assert set.union(*(folders_of_command(command, tmp_path) for command in commands)) == folders(alone + together)


def test_a_whole_grid_has_one_command(tmp_path: Path) -> None:
    grid = {"activation": ["relu", "tanh"], "lr": [0.01, 0.003, 0.001]}
    methods = "backprop shrink_and_perturb continual_backprop"
    runs = planned_runs(tmp_path, REGRESSION, methods, seeds=5, grid=grid, size="published", noise=1e-5)
    command = rerun_commands.one_command(runs)
    assert command is not None
    assert folders_of_command(command, tmp_path) == folders(runs)
    assert rerun_commands.one_command(runs[1:]) is None  # an incomplete grid
    assert rerun_commands.one_command(runs + planned_runs(tmp_path, REGRESSION, "backprop", seeds=3)) is None


def test_a_run_that_no_command_yields_is_reported(tmp_path: Path) -> None:
    (alone, _) = planned_runs(tmp_path, DIGITS, "redo", seeds=2)
    ensemble = Run(alone.experiment, alone.method, alone.settings, (0, 1), tmp_path)  # ReDo is not trained in ensembles
    assert rerun_commands.commands([ensemble]) == [rerun_commands.NONE]
