"""Compiled runs of Slowly-Changing Regression: as the plain ones, and byte-equal however often they go on."""

import json

import pytest
import torch

from benchmarks.run import Run
from benchmarks.slowly_changing_regression.settings import Settings
from benchmarks.slowly_changing_regression.training import Training

# torch's own, on the way to its compiler
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")

# units are replaced all the time, and the last piece is shorter: for ensembles other strides, another graph
SHORT = {"steps": 600, "bin": 100, "flip_every": 200, "replacement_rate": 0.05, "maturity_threshold": 10}


def finished(training: Training) -> list[dict[str, float]]:
    rows = []
    while training.done < training.total:
        rows += training.advance()
    return rows


def going_on(run: Run) -> list[dict[str, float]]:
    """As if killed after every piece: saved, then taken up by a learner that has no graph yet."""
    rows = []
    training = run.make_training()
    run.load(training)
    while training.done < training.total:
        rows += training.advance()
        run.save(training, seconds=0.0)
        training = run.make_training()
        run.load(training)
    return rows


@pytest.mark.parametrize("seeds", [[3], [3, 4, 5]])
@pytest.mark.parametrize(
    ("method", "optimizer"), [("continual_backprop", "sgd"), ("continual_backprop", "adam"), ("backprop", "adam")]
)
def test_going_on_gives_the_same_bytes(method, optimizer, seeds, tmp_path) -> None:
    settings = Settings.of(method, optimizer=optimizer, compile="yes", **SHORT)
    whole = Training(settings, method, seeds)
    expected = finished(whole)
    if method == "continual_backprop":
        assert sum(group.state.replaced for group in whole.method.learner.gnt.groups) > 25 * len(seeds)
    run = Run("slowly_changing_regression", method, settings, tuple(seeds), tmp_path)
    assert json.dumps(going_on(run)) == json.dumps(expected)


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_the_same_figures_as_without(seeds) -> None:
    method = "continual_backprop"
    short = {"steps": 500, "bin": 250, "replacement_rate": 0.01}
    plain, compiled = (
        torch.tensor([row["squared_error"] for row in finished(Training(settings, method, seeds))])
        for settings in (Settings.of(method, **short, compile=compile) for compile in ("no", "yes"))
    )
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=0)
