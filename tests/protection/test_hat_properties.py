"""Properties of `HAT` for random networks and torch's optimizers."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import gnt
from gnt.protection import Adaptive, Constant, Random
from tests.helpers.small_runs import assert_same
from tests.helpers.strategies import networks, optimizer_cases, randomize, seeds
from tests.protection.masked_runs import frozen_elements, inputs, learn_steps, learn_task, loss, outputs
from tests.twins import hat as twin
from tests.units.tracing.random_nets import random_nets

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")


def hat_of(net, groups, **given):
    """A HAT on a network; networks with a norm before which gates cannot act are left out."""
    try:
        return gnt.HAT(net, groups, generator=torch.Generator().manual_seed(7), **given)
    except ValueError as error:
        assume("normalized together" not in str(error))
        raise


@settings(max_examples=10)
@given(networks(), optimizer_cases(), st.sampled_from(["update", "gradient"]))
def test_outputs_of_ended_tasks_never_change_and_neither_do_weights_between_used_units(network, case, form):
    net, shape = network
    hat = hat_of(net, gnt.walk(net), apply=form, sparsity=0.1)
    optimizer, x, seen = case.build(net.parameters()), inputs(net, shape), {}
    for task in ("a", "b", "c"):
        before, frozen = copy.deepcopy(dict(net.named_parameters())), frozen_elements(hat)
        used = hat.cumulative.clone()
        learn_task(hat, optimizer, task, shape)
        for name, parameter in net.named_parameters():
            assert_same(parameter.detach()[frozen[name]], before[name].detach()[frozen[name]])
        assert bool((hat.cumulative >= used).all())
        now = outputs(hat, x)
        assert_same({task: now[task] for task in seen}, seen)
        seen = now
    assert torch.equal(hat.counts, sum(torch.cat(list(hat.masks[task].values())) for task in hat.tasks))


@settings(max_examples=4)
@given(random_nets(), seeds)
def test_outputs_of_ended_tasks_never_change_in_traced_networks(example, seed):
    traced, x = example
    try:
        groups = gnt.trace(traced, x)
    except gnt.TraceError:
        assume(False)
    randomize(traced, seed)
    net = nn.Sequential(traced, Joined())
    hat = hat_of(net, groups, sparsity=0.1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.1)
    seen = {}
    for task in range(3):
        learn_task(hat, optimizer, task, tuple(x.shape[1:]))
        now = outputs(hat, x)
        assert_same({task: now[task] for task in seen}, seen)
        seen = now


class Joined(nn.Module):
    def forward(self, outputs):
        return torch.cat(outputs, 1)


@settings(max_examples=6)
@given(networks(dropout=False), optimizer_cases())
def test_without_gates_and_penalty_training_is_plain_training(network, case):
    net, shape = network
    plain = copy.deepcopy(net)
    hat = hat_of(net, gnt.walk(net), sparsity=0.0)
    runs = []
    for model, masked in ((net, True), (plain, False)):
        optimizer = case.build(model.parameters())
        if masked:
            hat.begin(0, optimizer, steps_per_epoch=2)
            hat.use(None)
        for step in range(3):
            optimizer.zero_grad()
            model(inputs(model, shape, step)).square().mean().backward()
            optimizer.step()
        runs.append(dict(model.state_dict()))
    assert_same(*runs)


@settings(max_examples=6)
@given(networks(), optimizer_cases(), st.sampled_from(["update", "gradient"]))
def test_the_first_task_is_the_same_under_any_protection(network, case, form):
    net, shape = network
    rules = [gnt.protection.Hard(), Adaptive(1e-3), Adaptive(1e-3, variant="no_sum"), Constant(0.5), Random()]
    results = []
    for rule in rules:
        model = copy.deepcopy(net)
        torch.manual_seed(0)
        hat = hat_of(model, gnt.walk(model), protection=rule, apply=form)
        optimizer = case.build(model.parameters())
        hat.begin(0, optimizer, steps_per_epoch=2)
        learn_steps(hat, optimizer, range(4), shape)
        results.append((dict(model.state_dict()), hat.embedding.detach()))
        assert hat.capacity() == 1
    for result in results[1:]:
        assert_same(result, results[0])


@settings(max_examples=6)
@given(
    networks(norms=("batch",), dtypes=(torch.float64,)), st.sampled_from(["hard", "adahat", "no_sum", "no_reg"]), seeds
)
def test_rates_and_capacity_are_those_of_a_loop_over_all_weights(network, variant, seed):
    net, shape = network
    alpha, epsilon = 0.3, 0.2
    adaptive = {} if variant == "hard" else {"protection": Adaptive(alpha, epsilon, variant)}
    hat = hat_of(net, gnt.walk(net), sparsity=0.1, **adaptive)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for task in range(2):
        learn_task(hat, optimizer, task, shape, steps=1)
    hat.begin("now", optimizer, steps_per_epoch=3)
    with torch.no_grad():
        hat.embedding.normal_(generator=torch.Generator().manual_seed(seed))
    hat._refresh_gates()
    masks, gates = [hat.masks[task] for task in hat.tasks], hat.layout.by_group(hat.gates.detach())
    expected = {
        (each.parameter, each.position): twin.rate_of_hat(each, masks)
        if variant == "hard"
        else twin.rate_of_adahat(each, masks, gates, alpha, epsilon, variant)
        for each in twin.weights(net, hat.groups)
    }
    assert hat.capacity() == pytest.approx(twin.capacity(expected, net, hat.groups), abs=1e-12)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    optimizer.zero_grad()
    (inputs_loss(net, shape) + hat.penalty()).backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
    optimizer.step()
    for (name, at), rate in expected.items():
        moved = float(net.get_parameter(name).detach()[at] - before[name][at])
        assert moved == pytest.approx(-0.01 * rate * float(gradients[name][at]), rel=1e-6, abs=1e-12)


def inputs_loss(net, shape):
    return net(inputs(net, shape)).square().mean()


@settings(max_examples=4)
@given(networks(norms=(), dropout=False, dtypes=(torch.float64,)), st.sampled_from([2, 3]))
def test_micro_batches_before_one_step_are_one_batch(network, parts):
    net, shape = network
    results = []
    for number in (1, parts):
        model = copy.deepcopy(net)
        hat = hat_of(model, gnt.walk(model), apply="gradient", protection=Adaptive(0.1), sparsity=0.5 / number)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for task in range(2):
            hat.begin(task, optimizer, steps_per_epoch=2)
            for step in range(2):
                optimizer.zero_grad()
                for part in range(number):
                    size = 6 // number
                    loss(hat, step, shape, slice(part * size, (part + 1) * size)).backward()
                optimizer.step()
            hat.end()
        results.append([p.detach() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@settings(max_examples=4)
@given(networks(norms=("batch",), dropout=False, dtypes=(torch.float64,)), seeds)
def test_a_permutation_of_units_permutes_the_run(network, seed):
    net, shape = network
    assume(all(getattr(module, "groups", 1) == 1 for module in net))
    other = copy.deepcopy(net)
    groups = gnt.walk(net), gnt.walk(other)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(group.num_units, generator=generator) for group in groups[0]]
    with torch.no_grad():
        for group, source, order in zip(groups[1], groups[0], orders, strict=True):
            for slot, own in zip(group.slots, source.slots, strict=True):
                tensors = (
                    [slot.weight] if slot in group.outgoing else [*slot.module.parameters(), *slot.module.buffers()]
                )
                for tensor in tensors:
                    if tensor.ndim:
                        dim = slot.dim_of(tensor)
                        moved = slot.index(torch.arange(group.num_units))
                        tensor.index_copy_(dim, moved, tensor.index_select(dim, own.index(order)).clone())
    hats = [hat_of(each, found, sparsity=0.3) for each, found in zip((net, other), groups, strict=True)]
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.05, momentum=0.9) for each in (net, other)]
    for task in range(2):
        e = torch.randn(hats[0].layout.total, generator=generator, dtype=torch.float64)
        for hat, optimizer in zip(hats, optimizers, strict=True):
            hat.begin(task, optimizer, steps_per_epoch=2)
            parts = hat.layout.by_group(e).values()
            if hat is hats[1]:
                parts = [part[order] for part, order in zip(parts, orders, strict=True)]
            with torch.no_grad():
                hat.embedding.copy_(torch.cat(list(parts)))
            hat._refresh_gates()
            learn_steps(hat, optimizer, range(3), shape)
            hat.end()
    x = inputs(net, shape)
    for task, expected in outputs(hats[0], x).items():
        torch.testing.assert_close(outputs(hats[1], x)[task], expected, rtol=1e-9, atol=1e-10)
        for group, order in zip(hats[0].groups, orders, strict=True):
            assert torch.equal(hats[0].masks[task][group.name][order], hats[1].masks[task][group.name])
