"""Rates of learning of used weights under a `HAT`: the rules, and how a step applies them."""

from __future__ import annotations

import copy

import pytest
import torch

from gnt.protection import Adaptive, Constant, Random
from tests.helpers.small_runs import IMAGE_SHAPE, conv_net
from tests.protection.masked_runs import inputs, learn_steps, learn_task, loss, make_hat
from tests.replacement.test_no_synchronization import NoSynchronization

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")


def test_rates_in_the_unit_interval_fall_with_use_and_sparsity_and_grow_with_alpha():
    m, f = torch.arange(5.0), torch.tensor(2.0)
    rule = Adaptive(0.1)
    rates = rule.rate(m, f)
    assert rates[0] == 1
    assert bool((rates.diff() < 0).all())
    assert bool((rates > 0).all())
    assert bool((rule.rate(m[1:], 2 * f) < rates[1:]).all())
    sparsity = torch.tensor([0.3])
    assert bool((Adaptive(0.2).factors(sparsity) < rule.factors(sparsity)).all())
    torch.testing.assert_close(Adaptive(1e-30).rate(m, Adaptive(1e-30).factors(sparsity)), (m == 0).float())


@pytest.mark.parametrize("rule", [Constant(1.0), Constant(0.25), Random(), Adaptive(1e-12)], ids=repr)
def test_ablations_move_weights_of_used_units_by_their_share(rule):
    net, hat, optimizer = make_hat(protection=rule)
    learn_task(hat, optimizer, 0)
    hat.begin(1, optimizer, steps_per_epoch=2)
    used = torch.outer(hat.masks[0]["2"], hat.masks[0]["0"])
    expected = {"Constant(alpha=1.0)": 1.0, "Constant(alpha=0.25)": 0.25}.get(repr(rule))
    plain_net, plain_optimizer = copy.deepcopy((net, optimizer))
    before = net[2].weight.detach().clone()
    loss(hat, 0).backward()
    for own, other in zip(net.parameters(), plain_net.parameters(), strict=True):
        other.grad = own.grad.clone()
    optimizer.step()
    plain_optimizer.step()
    share = (net[2].weight.detach() - before)[used] / (plain_net[2].weight.detach() - before)[used]
    if expected is None:
        assert bool((share >= -1e-3).all())
        assert bool((share < 1.001).all())
        assert (isinstance(rule, Random) and len(share.unique()) > 1) or bool((share.abs() < 1e-3).all())
    else:
        torch.testing.assert_close(share, torch.full_like(share, expected), rtol=1e-2, atol=0)


@pytest.mark.parametrize("eps", [1e-8, 1e-14])
def test_rates_of_the_update_form_act_alike_whatever_the_optimizer_makes_of_the_gradient(eps):
    net, hat, _ = make_hat(protection=Adaptive(0.1), sparsity=0)
    optimizer = torch.optim.Adam(net.parameters(), eps=eps)
    hat.begin(0, optimizer, steps_per_epoch=1)
    learn_steps(hat, optimizer, range(1))
    hat.end()
    hat.begin(1, optimizer, steps_per_epoch=1)
    plain, plain_optimizer = copy.deepcopy((net, optimizer))
    before = net[2].weight.detach().clone()
    loss(hat, 0).backward()
    for own, other in zip(net.parameters(), plain.parameters(), strict=True):
        other.grad = own.grad.clone()
    rates = next(r for p, r in zip(hat._conditioning.parameters, hat._conditioning.current(), strict=True)
                 if p.parameter is net[2].weight)  # fmt: skip
    optimizer.step()
    plain_optimizer.step()
    expected = before + rates * (plain[2].weight.detach() - before)
    torch.testing.assert_close(net[2].weight.detach(), expected, rtol=1e-5, atol=1e-8)
    assert bool((rates < 1).any())


@pytest.mark.parametrize("rule", [None, Adaptive(0.1)], ids=["HAT", "AdaHAT"])
@pytest.mark.parametrize("form", ["update", "gradient"])
def test_steps_do_not_wait_for_the_device(rule, form):
    net, hat, optimizer = make_hat(conv_net(), protection=rule, apply=form)
    learn_task(hat, optimizer, 0, IMAGE_SHAPE)
    hat.begin(1, optimizer, steps_per_epoch=2)
    learn_steps(hat, optimizer, range(1), IMAGE_SHAPE)
    x = inputs(net, IMAGE_SHAPE)
    with NoSynchronization():
        optimizer.zero_grad()
        (net(x).square().mean() + hat.penalty()).backward()
        optimizer.step()
