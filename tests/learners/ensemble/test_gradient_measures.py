"""Measures that read gradients: in an ensemble each member has the gradients of its own loss."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

import gnt
from gnt.importance import MEASURES
from tests.helpers.compiled_learners import run_graphs_uncompiled
from tests.helpers.ensembles import FREQUENT_REPLACEMENT, compare_with_single_runs, conv_net, member_batches, mlp

UTILITIES = ["gradient", "gradient_activation", "replacement_cost"]


@pytest.mark.parametrize("utility", UTILITIES)
def test_members_with_convolutions_equal_single_runs(utility: str) -> None:
    settings = {**FREQUENT_REPLACEMENT, "loss": "cross_entropy", "step_size": 0.02, "utility": utility}
    compared = compare_with_single_runs(conv_net, [3, 11], 25, shape=(1, 10, 10), out=3, batch=4, **settings)
    assert compared.replaced > 5
    assert compared.max_difference < 1e-8


@pytest.mark.parametrize("utility", UTILITIES)
def test_members_of_a_compiled_ensemble_equal_single_runs(utility: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = run_graphs_uncompiled(monkeypatch)
    monkeypatch.setattr(gnt, "Ensemble", partial(gnt.Ensemble, compile=True))
    settings = {**FREQUENT_REPLACEMENT, "opt": "adam", "step_size": 0.01, "utility": utility}
    compared = compare_with_single_runs(mlp(6, 8, 7, 3), [3, 11], 40, shape=(6,), out=3, **settings)
    assert graphs
    assert compared.replaced > 5
    assert compared.max_difference < 1e-11


@pytest.fixture
def relative() -> Iterator[str]:
    """A measure that reads the mean over the layer of each member, and gradients of outgoing weights."""

    def measure(signals: gnt.importance.Signals) -> Tensor:
        return signals.outgoing_gradient.mean(1) / signals.layer_mean(signals.incoming)

    gnt.register_utility("relative", measure, reads=["outgoing_gradient", "incoming"])
    yield "relative"
    del MEASURES["relative"]


@pytest.mark.usefixtures("relative")
@pytest.mark.parametrize("utility", [*UTILITIES, "relative"])
def test_a_loop_with_micro_batches_and_a_grad_scaler_gives_the_importance_of_single_engines(utility: str) -> None:
    settings = {**FREQUENT_REPLACEMENT, "utility": utility, "replacement_rate": 0.01}
    ensemble = gnt.Ensemble(mlp(6, 8, 7, 3), [3, 11], **settings)
    assert ensemble.gnt is not None
    nets = [ensemble.member(i) for i in range(2)]
    optimizers = [torch.optim.SGD(net.parameters(), lr=1e-3) for net in nets]
    engines = [gnt.GnT(net, opt, **settings) for net, opt in zip(nets, optimizers, strict=True)]
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    for t in range(3):
        features = []
        for part in range(2):
            x, y = member_batches(10 * t + part, 2, 2 + part, (6,), 3, "mse")
            output, read = ensemble.net.predict(x)
            features.append(read)
            losses = (output - y).square().mean((1, 2))
            scaler.scale(0.25 * losses.sum()).backward(retain_graph=True)
            scaler.scale(0.75 * losses.sum()).backward()
            for i, net in enumerate(nets):
                (net(x[i]) - y[i]).square().mean().backward()
        scaler.step(ensemble.opt)
        ensemble.gnt.step([list(forwards) for forwards in zip(*features, strict=True)])
        ensemble.opt.zero_grad()
        scaler.update()
        for optimizer, engine in zip(optimizers, engines, strict=True):
            optimizer.step()
            engine.step()
            optimizer.zero_grad()
    for group, *single in zip(ensemble.gnt.groups, *(engine.groups for engine in engines), strict=True):
        wanted = torch.cat([each.state.corrected_utility for each in single])
        torch.testing.assert_close(group.state.corrected_utility, wanted)
        assert wanted.count_nonzero() > len(wanted) // 2
