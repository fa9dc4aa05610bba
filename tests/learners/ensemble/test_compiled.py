"""A compiled ensemble gives the results of its members' single runs."""

from functools import partial

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.compiled_learners import run_graphs_uncompiled
from tests.helpers.ensembles import FREQUENT_REPLACEMENT, compare_with_single_runs, member_batches, mlp

# raised by torch when its compiler is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:Warning")

SETTINGS = {
    "sgd": {"opt": "sgd", "step_size": 0.02},
    "adam": {"opt": "adam", "step_size": 0.01, "loss": "cross_entropy", "utility": "random"},
    "backprop": {"opt": "adam", "step_size": 0.01, "replacement_rate": 0.0},
}


def mlp_with_dropout() -> nn.Module:
    first, second, third = (nn.Linear(a, b) for a, b in ((6, 8), (8, 7), (7, 3)))
    net = nn.Sequential(first, nn.Dropout(0.2), nn.ReLU(), second, nn.Dropout(0.0), nn.Tanh(), nn.Dropout(0.4), third)
    return net.double()


@pytest.mark.parametrize(("name", "batch"), [("sgd", 1), ("adam", 2), ("backprop", 2)])
def test_results_equal_those_of_single_runs(name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gnt, "Ensemble", partial(gnt.Ensemble, compile=True))
    if name == "backprop":  # its graph is a part of that of "adam"
        run_graphs_uncompiled(monkeypatch)
    settings = {**FREQUENT_REPLACEMENT, **SETTINGS[name]}
    make_net = mlp_with_dropout if name == "adam" else mlp(6, 8, 7, 3)
    compared = compare_with_single_runs(make_net, [3, 11], 100, shape=(6,), out=3, batch=batch, **settings)
    assert compared.replaced > 20 or name == "backprop"
    assert compared.max_difference < 1e-11


def test_the_error_for_a_nonfinite_loss_names_the_seed_and_nothing_changes() -> None:
    # the graph is the one compiled for "sgd" above
    ensemble = gnt.Ensemble(mlp(6, 8, 7, 3), [3, 11], opt="sgd", compile=True, **FREQUENT_REPLACEMENT)
    for t in range(4):
        ensemble.learn(*member_batches(t, 2, 1, (6,), 3, "mse"))
    before = [p.detach().clone() for p in ensemble.net.parameters()]
    x, y = member_batches(4, 2, 1, (6,), 3, "mse")
    y[1] = torch.nan
    with pytest.raises(FloatingPointError, match="the loss of seed 11 is not finite; nothing was changed"):
        ensemble.learn(x, y)
    assert ensemble.gnt is not None
    assert ensemble.gnt.updates == 4
    assert all(torch.equal(a, b) for a, b in zip(before, ensemble.net.parameters(), strict=True))


def test_a_refused_step_gives_back_the_draws_of_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    run_graphs_uncompiled(monkeypatch)
    ensemble = gnt.Ensemble(mlp_with_dropout, [3, 11], compile=True, **FREQUENT_REPLACEMENT)
    for t in range(4):
        ensemble.learn(*member_batches(t, 2, 1, (6,), 3, "mse"))
    before = [each.get_state() for each in ensemble.net.dropout]
    x, y = member_batches(4, 2, 1, (6,), 3, "mse")
    with pytest.raises(FloatingPointError):
        ensemble.learn(x, y * torch.nan)
    assert all(torch.equal(a, b.get_state()) for a, b in zip(before, ensemble.net.dropout, strict=True))
