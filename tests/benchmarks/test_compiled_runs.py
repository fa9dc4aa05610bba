"""Compiled runs of Slowly-Changing Regression: close to uncompiled ones, and bit-identical when they are resumed."""

import json

import pytest
import torch

from benchmarks.run import Run
from benchmarks.slowly_changing_regression.settings import Settings
from benchmarks.slowly_changing_regression.training import Training
from tests.benchmarks.resumed_training import rows_of, rows_resumed_after_every_piece

# torch's compiler uses a deprecated function
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:Warning")

# units are replaced often, and the last piece is shorter, which means other strides and another graph for ensembles
SHORT = {"steps": 600, "bin": 100, "flip_every": 200, "replacement_rate": 0.05, "maturity_threshold": 10, "period": 50}


@pytest.mark.parametrize(
    ("method", "optimizer", "seeds"),
    [
        ("continual_backprop", "sgd", [3]),
        ("continual_backprop", "adam", [3, 4, 5]),
        ("redo", "adam", [3]),
        ("swr", "sgd", [3, 4]),
        ("upgd", "adam", [3]),
    ],
)
def test_a_resumed_run_gives_the_same_bytes(method, optimizer, seeds, tmp_path) -> None:
    settings = Settings.of(method, optimizer=optimizer, compile="yes", **SHORT)
    whole = Training(settings, method, seeds)
    expected = rows_of(whole)
    if method == "continual_backprop":
        assert sum(group.state.replaced for group in whole.method.learner.gnt.groups) > 25 * len(seeds)
    run = Run("slowly_changing_regression", method, settings, tuple(seeds), tmp_path)
    assert json.dumps(rows_resumed_after_every_piece(run)) == json.dumps(expected)


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_compiled_runs_give_about_the_same_errors(seeds) -> None:
    method = "continual_backprop"
    short = {"steps": 500, "bin": 250, "replacement_rate": 0.01}
    plain, compiled = (
        torch.tensor([row["squared_error"] for row in rows_of(Training(settings, method, seeds))])
        for settings in (Settings.of(method, **short, compile=compile) for compile in ("no", "yes"))
    )
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=0)
