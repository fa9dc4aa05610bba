"""Copies of engines, learners and target networks (by deepcopy, pickle and file) are independent of the originals."""

from __future__ import annotations

import copy

import pytest
import torch

import gnt
from tests.helpers.small_runs import (
    FREQUENT_REPLACEMENT,
    IMAGE_SHAPE,
    assert_same,
    batch,
    conv_net,
    full_state,
    make_run,
    mlp,
    replaced,
    train,
)
from tests.replacement.copy_methods import COPY_METHODS

each_copy_method = pytest.mark.parametrize("make_copy", COPY_METHODS.values(), ids=COPY_METHODS)


@each_copy_method
@pytest.mark.parametrize("settings", [{}, {"accumulate": False}, {"utility": "lambda"}])
def test_a_copied_run_is_independent_and_continues_like_the_original(make_copy, settings):
    gnt.register_utility("lambda", lambda s: (s.magnitude * s.outgoing).mean(1) + torch.rand(
        s.num_units, generator=s.generator))  # fmt: skip
    first = make_run(conv_net(), opt="adamgnt", **settings)
    train(*first, range(6), *IMAGE_SHAPE)
    second = make_copy(first)
    before = full_state(*first)
    assert_same(full_state(*second), before)
    train(*second, range(6, 12), *IMAGE_SHAPE)
    assert_same(full_state(*first), before)
    train(*first, range(6, 12), *IMAGE_SHAPE)
    assert_same(full_state(*second), full_state(*first))
    assert min(replaced(second[2])) > 1


@each_copy_method
def test_a_learner_or_an_engine_can_be_copied_alone(make_copy):
    learner = gnt.ContinualBackprop(conv_net(), opt="adam", accumulate=False, **FREQUENT_REPLACEMENT)
    for t in range(4):
        learner.learn(*batch(t, *IMAGE_SHAPE))
    other = make_copy(learner)
    for t in range(4, 8):
        assert_same(
            *[
                [step.loss, step.output, *step.replaced]
                for step in (each.learn(*batch(t, *IMAGE_SHAPE)) for each in (learner, other))
            ]
        )
    assert_same(*[full_state(each.net, each.opt, each.gnt) for each in (learner, other)])
    engine = make_copy(learner.gnt)  # the layers are copied with it
    engine.step([torch.rand(2, 5, 3, 3), torch.rand(2, 16), torch.rand(2, 6)])
    assert (engine.updates, learner.gnt.updates) == (9, 8)
    assert not engine.groups[0].producer.weight.is_set_to(learner.net[0].weight)
    learner.gnt.close()
    assert not any(m._forward_pre_hooks for m in make_copy(learner).net.modules())


@each_copy_method
def test_forwards_of_a_target_network_do_not_affect_the_original(make_copy):
    first, plain = make_run(conv_net()), make_run(conv_net())
    for t in range(8):
        target = make_copy(first[0])
        target(batch(t, *IMAGE_SHAPE)[0])  # in training mode, with grad
        target.load_state_dict(first[0].state_dict())
        train(*first, range(t, t + 1), *IMAGE_SHAPE)
        train(*plain, range(t, t + 1), *IMAGE_SHAPE)
    assert_same(full_state(*first), full_state(*plain))


def test_a_shallow_copy_of_an_engine_shares_its_unit_state() -> None:
    net = mlp(5, 9, 7, 2)
    engine = gnt.GnT(net, kernels=True)
    reference = copy.deepcopy((net, engine))
    for t in range(6):
        for each_net, each_engine in ((net, copy.copy(engine) if t == 3 else engine), reference):
            each_net(batch(t, 5)[0])
            each_engine.step()
        if t == 3:
            engine.discard()
    assert_same(engine.groups[0].state.state_dict(), reference[1].groups[0].state.state_dict())
