"""Properties of `HAT` for random networks and torch's optimizers."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import gnt
from gnt.protection import Random
from tests.helpers.small_runs import assert_same
from tests.helpers.strategies import networks, optimizer_cases, randomize, seeds
from tests.protection.masked_runs import frozen_elements, inputs, learn_task, outputs
from tests.units.tracing.random_nets import random_nets

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")


def hat_of(net, groups, **given):
    """A HAT on a network; networks with a norm before which gates cannot act are left out."""
    try:
        return gnt.HAT(net, groups, generator=torch.Generator().manual_seed(7), **given)
    except ValueError as error:
        assume("normalized together" not in str(error))
        raise


@settings(max_examples=20)
@given(networks(), optimizer_cases(), st.sampled_from(["update", "gradient"]))
def test_outputs_of_ended_tasks_never_change_and_neither_do_weights_between_used_units(network, case, form):
    net, shape = network
    groups = gnt.walk(net)
    hat = hat_of(net, groups, apply=form, sparsity=0.1)
    optimizer, x, seen = case.build(net.parameters()), inputs(net, shape), {}
    for task in ("a", "b", "c"):
        before, frozen = copy.deepcopy(dict(net.named_parameters())), frozen_elements(hat, groups)
        used = hat.cumulative.clone()
        learn_task(hat, optimizer, task, shape)
        for name, parameter in net.named_parameters():
            assert_same(parameter.detach()[frozen[name]], before[name].detach()[frozen[name]])
        assert bool((hat.cumulative >= used).all())
        now = outputs(hat, x)
        assert_same({task: now[task] for task in seen}, seen)
        seen = now
    assert torch.equal(hat.counts, sum(torch.cat(list(hat.masks[task].values())) for task in hat.tasks))


@settings(max_examples=8)
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


@settings(max_examples=10)
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


@settings(max_examples=10)
@given(networks(), optimizer_cases(), st.sampled_from(["update", "gradient"]))
def test_the_first_task_is_the_same_under_any_protection(network, case, form):
    net, shape = network
    rules = [gnt.protection.Hard(), gnt.protection.Adaptive(1e-3), gnt.protection.Constant(0.5), Random()]
    results = []
    for rule in rules:
        model = copy.deepcopy(net)
        torch.manual_seed(0)
        hat = hat_of(model, gnt.walk(model), protection=rule, apply=form)
        learn_task(hat, case.build(model.parameters()), 0, shape, end=False)
        results.append((dict(model.state_dict()), hat.embedding.detach()))
        assert hat.capacity() == 1
    for result in results[1:]:
        assert_same(result, results[0])
