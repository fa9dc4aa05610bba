"""`LaMAML`: against explicit loops and finite differences; beside engines and penalties; resuming, failing steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from gnt.learners._look_ahead import look_ahead_loss
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, mlp


def tanh_net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def batch(t: int, n: int = 4, width: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(t)
    return torch.randn(n, width, generator=draws, dtype=dtype), torch.randint(2, (n,), generator=draws)


def buffer() -> gnt.ReplayBuffer:
    return gnt.ReplayBuffer(10, generator=torch.Generator().manual_seed(3))


def learner(net: nn.Module, **settings: Any) -> gnt.LaMAML:
    return gnt.LaMAML(net, buffer(), **{"loss": "cross_entropy", "step_size": 0.3, "rate_step": 0.2, **settings})


def forward(weights: list[Tensor], x: Tensor) -> Tensor:
    return torch.tanh(x @ weights[0].T + weights[1]) @ weights[2].T + weights[3]


def mean_loss(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, one sample after the other."""
    total = torch.zeros((), dtype=x.dtype)
    for each, label in zip(x, y, strict=True):
        output = forward(weights, each[None])[0]
        total = total + output.exp().sum().log() - output[label]
    return total / len(x)


@pytest.mark.parametrize("after_each", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [None, 3])
def test_steps_are_those_of_explicit_loops(inner_steps, first_order, after_each):
    net, memory = tanh_net(), buffer()
    weights = [parameter.detach().clone().requires_grad_() for parameter in net.parameters()]
    rates = [torch.full_like(weight, 0.3).requires_grad_() for weight in weights]
    settings = {"inner_steps": inner_steps, "first_order": first_order, "after_each": after_each}
    meta = learner(net, batch_size=3, **settings)
    for t in range(4):
        x, y = batch(t, n=5)
        step = meta.learn(x, y)
        torch.testing.assert_close(step.output, forward(weights, x).detach())
        torch.testing.assert_close(step.loss, mean_loss(weights, x, y).detach())
        joined_x, joined_y = x, y
        if len(memory):
            drawn = memory.sample(3)
            joined_x, joined_y = torch.cat([x, drawn.x]), torch.cat([y, drawn.y])
        fast, losses = list(weights), []
        for part in [[0], [1], [2], [3], [4]] if inner_steps is None else [[0, 1], [2, 3], [4]]:
            inner = mean_loss(fast, x[part], y[part])
            gradients = torch.autograd.grad(inner, fast, create_graph=True)
            if first_order:
                gradients = [gradient.detach() for gradient in gradients]
            fast = [w - rate * gradient for w, rate, gradient in zip(fast, rates, gradients, strict=True)]
            losses.append(mean_loss(fast, joined_x, joined_y))
        outer = sum(losses) / len(losses) if after_each else losses[-1]
        gradients = torch.autograd.grad(outer, [*weights, *rates])
        with torch.no_grad():
            for rate, gradient in zip(rates, gradients[4:], strict=True):
                rate -= 0.2 * gradient
            for weight, rate, gradient in zip(weights, rates, gradients[:4], strict=True):
                weight -= rate.clamp(min=0) * gradient
        memory.add(x, y)
    for parameter, weight, rate in zip(net.parameters(), weights, rates, strict=True):
        torch.testing.assert_close(parameter.detach(), weight.detach())
        torch.testing.assert_close(meta.rate(parameter).detach(), rate.detach())
    assert_same(meta.buffer.state_dict(), memory.state_dict())


def test_the_gradient_of_the_outer_loss_is_that_of_finite_differences():
    """Also through the gradients of the steps: detaching them gives another gradient."""
    meta = learner(tanh_net())
    meta.buffer.add(*batch(0))
    x, y = batch(1)
    drawn = meta.buffer.generator.get_state()

    def outer() -> Tensor:
        meta.buffer.generator.set_state(drawn)
        return meta.outer_loss(x, y)

    def gradients() -> list[Tensor]:
        meta.opt.zero_grad()
        outer().backward()
        return [each.grad.clone() for each in leaves]

    leaves = [*meta.net.parameters(), *map(meta.rate, meta.net.parameters())]
    exact = gradients()
    for leaf, gradient in zip(leaves, exact, strict=True):
        numeric = torch.zeros_like(gradient)
        for i in range(leaf.numel()):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    leaf.view(-1)[i] += sign * 1e-5
                    values.append(outer().item())
                    leaf.view(-1)[i] -= sign * 1e-5
            numeric.view(-1)[i] = (values[0] - values[1]) / 2e-5
        torch.testing.assert_close(gradient, numeric, rtol=1e-6, atol=1e-8)
    meta.first_order = True
    first_order = gradients()
    assert (first_order[0] - exact[0]).norm() > 0.01 * exact[0].norm()
    for one, other in zip(first_order[4:], exact[4:], strict=True):  # the last step's rates need no second derivatives
        assert (one != 0).any()
        assert one.shape == other.shape


def test_a_loop_of_ones_own_equals_learn():
    meta, other = learner(tanh_net(), inner_steps=2), learner(tanh_net(), inner_steps=2)
    for t in range(3):
        x, y = batch(t)
        meta.learn(x, y)
        other.opt.zero_grad()
        other.outer_loss(x, y).backward()
        other.opt.step()
        other.buffer.add(x, y)
    assert_same(meta.state_dict(), other.state_dict())


def test_a_negative_rate_leaves_its_weight_alone_and_can_grow_again():
    meta = learner(tanh_net(), rate_step=1e3)
    weight, rate = meta.net[0].weight, meta.rate(meta.net[0].weight)
    with torch.no_grad():
        rate.fill_(-0.01)
    before = weight.detach().clone()
    meta.outer_loss(*batch(0)).backward()
    meta.opt.step()
    assert (rate > 0).any() and (rate < 0).any()  # noqa: PT018
    assert (weight.detach() == before).equal(rate.detach() <= 0)


def test_the_norm_of_gradients_is_limited_for_weights_and_rates_each():
    meta, free = learner(tanh_net(), max_norm=0.01), learner(tanh_net())
    for each in (meta, free):
        each.outer_loss(*batch(0)).backward()
    weights, rates = list(free.net.parameters()), list(map(free.rate, free.net.parameters()))
    before = [weight.detach().clone() for weight in weights]
    meta.opt.step()
    for own, name in ((weights, "weights"), (rates, "rates")):
        norm = torch.cat([each.grad.flatten() for each in own]).norm()
        assert norm > 0.01, name
        for each in own:
            each.grad *= 0.01 / (norm + 1e-6)
    for old, weight, rate, mine in zip(before, weights, rates, meta.net.parameters(), strict=True):
        learned = rate.detach() - 0.2 * rate.grad
        torch.testing.assert_close(meta.rate(mine).detach(), learned)
        torch.testing.assert_close(mine.detach(), old - learned * weight.grad)


def test_the_norm_is_that_of_all_parameter_groups_together():
    one, several = learner(tanh_net(), max_norm=0.01), learner(tanh_net(), max_norm=0.01)
    group = several.opt.param_groups[0]
    last = group["params"][2:]
    del group["params"][2:]
    for parameter in last:
        del several.opt.state[parameter]
    several.opt.add_param_group({"params": last})
    for each in (one, several):
        each.learn(*batch(0))
    assert_same(list(one.net.parameters()), list(several.net.parameters()))
    assert_same(list(map(one.rate, one.net.parameters())), list(map(several.rate, several.net.parameters())))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.spare = nn.Linear(3, 3)  # does not take part

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu())


@pytest.mark.parametrize("utility", ["contribution", "gradient_activation"])
def test_engines_measure_the_network_itself_and_rates_of_new_units_start_anew(utility):
    net = Normed()
    meta = learner(net, inner_steps=2, rate_step=5.0)
    settings = {**FREQUENT_REPLACEMENT, "decay_rate": 0.0, "utility": utility}
    engine = gnt.GnT([net.first, net.norm, nn.ReLU(), net.last], meta.opt, **settings).attach()
    replaced = 0
    for t in range(6):
        x, y = batch(t, dtype=torch.float32)
        twin = copy.deepcopy(net).train()
        other = gnt.GnT([twin.first, twin.norm, nn.ReLU(), twin.last], **{**settings, "replacement_rate": 0.0})
        output = twin(x)
        F.cross_entropy(output, y).backward()
        other.update()
        step = meta.learn(x, y)
        assert step.output.equal(output.detach())
        units = step.replaced[0]
        kept = torch.ones(8, dtype=torch.bool)
        kept[units] = False
        # one forward, of the batch, moves statistics
        assert net.norm.running_var[kept].equal(twin.norm.running_var[kept])
        assert net.norm.num_batches_tracked == t + 1
        state, expected = engine.groups[0].state, other.groups[0].state
        torch.testing.assert_close(state.mean_feature[kept], expected.mean_feature[kept])
        if utility == "gradient_activation":  # which reads no weights
            torch.testing.assert_close(state.utility[kept], expected.utility[kept])
        rates = [meta.rate(p).detach() for p in (net.first.weight, net.norm.weight)]
        for rate in (*rates, meta.rate(net.last.weight).detach().T):
            assert (rate[units] == 0.3).all()
            assert (rate[kept] != 0.3).any()
        replaced += len(units)
    assert replaced > 0
    assert (meta.rate(net.spare.weight) == 0.3).all()


def test_penalties_of_methods_are_added_to_the_outer_loss():
    net, other = tanh_net(), tanh_net()
    meta, plain = learner(net, methods=[gnt.L2(net, 0.5)]), learner(other)
    x, y = batch(0)
    meta.learn(x, y)
    plain.opt.zero_grad()
    (plain.outer_loss(x, y) + gnt.L2(other, 0.5)()).backward()
    plain.opt.step()
    assert_same(net.state_dict(), other.state_dict())


def test_resuming_is_exact():
    def build() -> gnt.LaMAML:
        net = nn.Sequential(*list(mlp(3, 8, 2))[:2], nn.Dropout(0.2), nn.Linear(8, 2))
        meta = learner(net, inner_steps=2, methods=[gnt.L2Init(net, 0.01)])
        gnt.GnT(net, meta.opt, generator=torch.Generator().manual_seed(2), **FREQUENT_REPLACEMENT).attach()
        return meta

    one, other = build(), build()
    with torch.no_grad():
        other.net[0].weight.add_(1.0)
    for t in range(4):
        one.learn(*batch(t, dtype=torch.float32))
    state = copy.deepcopy(one.state_dict())
    other.load_state_dict(state)
    results = []
    for meta in (one, other):
        torch.manual_seed(0)
        results.append([tuple(meta.learn(*batch(t, dtype=torch.float32))) for t in range(4, 8)])
    assert_same(*results)
    assert_same(one.state_dict(), other.state_dict())
    assert not torch.equal(state["opt"]["state"][0]["rate"], other.opt.state_dict()["state"][0]["rate"])


def test_a_step_that_fails_changes_nothing():
    net = Normed()
    meta = learner(net, inner_steps=2)
    meta.learn(*batch(0, dtype=torch.float32))
    before = copy.deepcopy((meta.state_dict(), torch.get_rng_state()))
    x, y = batch(1, dtype=torch.float32)
    with torch.no_grad():
        meta.rate(net.last.weight).fill_(1e38)
    before[0]["opt"] = copy.deepcopy(meta.opt.state_dict())
    for bad, labels, error, message in [
        (x, y, FloatingPointError, "the loss is (nan|inf); nothing was changed"),
        (x * torch.nan, y, FloatingPointError, "the loss is nan"),
        (x, y[:3], ValueError, "y has 3 samples, and x has 4"),
        (x[:, :2], y, ValueError, "x of the first batch had items of shape"),
    ]:
        with pytest.raises(error, match=message):
            meta.learn(bad, labels)
        assert_same((meta.state_dict(), torch.get_rng_state()), before)
    meta.learn(x[:0], y[:0])  # an empty batch
    assert_same((meta.state_dict(), torch.get_rng_state()), before)


def test_wrong_settings_and_states_are_refused():
    net = tanh_net()
    for build, error, message in [
        (lambda: learner("net"), TypeError, "net must be a torch.nn.Module, got str"),
        (lambda: learner(nn.DataParallel(net)), TypeError, "net must be the network itself, got a DataParallel"),
        (lambda: gnt.LaMAML(net, []), TypeError, "buffer must be a gnt.ReplayBuffer, got list"),
        (lambda: learner(net, loss="hinge"), ValueError, "loss must be one of"),
        (lambda: learner(net, step_size=0), ValueError, "step_size must be a finite number > 0, got 0"),
        (lambda: learner(net, rate_step=-1), ValueError, "rate_step must be a finite number >= 0, got -1"),
        (lambda: learner(net, inner_steps=0), ValueError, "inner_steps must be an integer >= 1, got 0"),
        (lambda: learner(net, batch_size=0.5), ValueError, "batch_size must be an integer >= 1, got 0.5"),
        (lambda: learner(net, max_norm=0), ValueError, "max_norm must be a finite number > 0"),
        (lambda: learner(net, first_order=1), TypeError, "first_order must be True or False"),
        (lambda: learner(tanh_net().requires_grad_(False)), ValueError, "net has no parameter that requires"),
        (lambda: setattr(learner(net), "opt", torch.optim.SGD(net.parameters())), TypeError, "opt of LaMAML cannot be"),
        (lambda: learner(net).outer_loss(*batch(0, n=0)), ValueError, "the batch has no samples"),
    ]:
        with pytest.raises(error, match=message):
            build()
    meta = learner(net)
    state = copy.deepcopy(meta.state_dict())
    meta.learn(*batch(0))
    before = copy.deepcopy(meta.state_dict())
    rates = {number: {"rate": torch.ones(1)} for number in range(4)}
    for change, message in [
        ({"buffer": gnt.ReplayBuffer(3).state_dict()}, "state_dict is of a buffer of size 3, this one has size 10"),
        ({"opt": {**state["opt"], "state": {}}}, "must hold a rate for each weight"),
        ({"opt": {**state["opt"], "state": rates}}, r"must hold a rate for each weight, of shapes \[\(4, 3\)"),
        ({"net": mlp().state_dict()}, "does not fit this Sequential"),
    ]:
        with pytest.raises(ValueError, match=message):
            meta.load_state_dict({**state, **change})
        assert_same(meta.state_dict(), before)
    with pytest.raises(ValueError, match="with 'buffer'"):
        meta.load_state_dict({name: state[name] for name in ("net", "opt", "kind")})


def test_frozen_parameters_stay_and_added_ones_learn():
    net = tanh_net()
    meta = learner(net)
    net[0].weight.requires_grad_(False)
    net.append(nn.Linear(2, 2).double())
    meta.opt.add_param_group({"params": net[3].parameters(), "lr": 0.2})
    before = copy.deepcopy(net.state_dict())
    meta.learn(*batch(0))
    meta.learn(*batch(1))
    changed = [name for name, value in net.state_dict().items() if not value.equal(before[name])]
    assert changed == ["0.bias", "2.weight", "2.bias", "3.weight", "3.bias"]
    assert (meta.rate(net[0].weight) == 0.3).all()
    assert 0 < (meta.rate(net[3].weight) - 0.2).abs().max() < 0.05


def test_without_steps_the_outer_loss_is_the_loss():
    net, (x, y) = tanh_net(), batch(0)
    assert look_ahead_loss(net, F.cross_entropy, {}, [], (x, y)).equal(F.cross_entropy(net(x), y))
