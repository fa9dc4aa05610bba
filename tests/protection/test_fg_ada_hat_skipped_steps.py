"""`FGAdaHAT` in steps that are skipped, that have a closure, and whose importance is not finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import assert_same, mlp

IMPORTANCES = ["gradient_activation", "contribution", "incoming_gradient"]


def make(importance: str, optimizer: str = "sgd", every: int = 1) -> tuple[nn.Sequential, gnt.FGAdaHAT, Any]:
    net = mlp(4, 6, 5, 3).double()
    hat = gnt.FGAdaHAT(
        net, gnt.walk(net), alpha=0.1, importance=importance, every=every, generator=torch.Generator().manual_seed(7)
    )
    parameters = [*net.parameters(), hat.embedding]
    made = torch.optim.SGD(parameters, lr=0.1) if optimizer == "sgd" else torch.optim.LBFGS(parameters, max_iter=3)
    return net, hat, made


def batch(step: int, n: int = 5) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(step)
    return torch.randn(n, 4, generator=draws, dtype=torch.float64), torch.randint(3, (n,), generator=draws)


def total(net: nn.Module, hat: gnt.FGAdaHAT, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y) + hat.penalty()


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("observed", ["before", "after"])
@pytest.mark.parametrize("skipped", ["loss", "gradient"])
@pytest.mark.filterwarnings("ignore:.* batches were observed for a step with")
def test_a_skipped_step_leaves_nothing_that_is_measured_later(importance, parts, observed, skipped):
    results = []
    for bad in (None, 0, 1):
        net, hat, optimizer = make(importance)
        hat.begin(0, optimizer, steps_per_epoch=2)
        for step in range(2):
            for attempt in range(2 if step == bad else 1):
                optimizer.zero_grad()
                for part in range(parts):
                    x, y = batch(10 * step + part)
                    if step == bad and not attempt:
                        x[0] = float("nan")
                    if observed == "before":
                        hat.observe(x, y)
                    loss = total(net, hat, x, y)
                    if loss.isfinite() or skipped == "gradient":
                        loss.backward()
                    if observed == "after":
                        hat.observe(x, y)
                if step != bad or attempt:
                    optimizer.step()
        hat.end()
        results.append((hat.importances, dict(net.state_dict()), hat.masks))
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
def test_batches_may_be_observed_in_the_closure_of_a_step(optimizer):
    net, hat, opt = make("gradient_activation", optimizer)
    hat.begin(0, opt, steps_per_epoch=2)

    def closure() -> Tensor:
        opt.zero_grad()
        hat.observe(*batch(0))
        loss = total(net, hat, *batch(0))
        loss.backward()
        return loss

    seen = []
    measure = hat._source._attribute
    hat._source._attribute = lambda x, y: seen.append(x) or measure(x, y)
    opt.step(closure)
    assert_same(seen, [batch(0)[0]])
    hat.end()
    assert hat.importances.any()


def test_several_batches_of_one_backward_pass_are_warned_of():
    net, hat, optimizer = make("gradient_activation")
    hat.begin(0, optimizer, steps_per_epoch=1)
    x, y = batch(0, 8)
    for part in (slice(0, 4), slice(4, 8)):
        hat.observe(x[part], y[part])
    total(net, hat, x, y).backward()
    with pytest.warns(UserWarning, match="2 batches were observed for a step with 1 backward passes: only the last 1"):
        optimizer.step()


def test_a_closure_without_observation_is_an_error_after_the_step_which_is_counted():
    net, hat, optimizer = make("gradient_activation")
    hat.begin(0, optimizer, steps_per_epoch=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = total(net, hat, *batch(0))
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match=r"call hat.observe\(x, y\)"):
        optimizer.step(closure)
    assert hat._progress.step == 1


def test_an_importance_that_is_not_finite_is_an_error_after_the_step_which_is_counted():
    net, hat, optimizer = make("gradient_activation")
    hat.begin(0, optimizer, steps_per_epoch=3)
    with torch.no_grad():
        hat.embedding[0] = 5.9
    x, y = batch(0)
    hat.observe(torch.full_like(x, float("nan")), y)
    total(net, hat, x, y).backward()
    hat.embedding.grad[0] = -100.0
    with pytest.raises(FloatingPointError, match="'gradient_activation' of group"):
        optimizer.step()
    assert hat._progress.step == 1
    assert hat.embedding.max() == 6.0
    torch.testing.assert_close(hat.gates, torch.sigmoid(hat.embedding * hat.scale))
