"""Copies, by deepcopy, pickle and file, go their own way: of engines, learners and target networks."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

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


def through_file(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing)), "file": through_file}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("settings", [{}, {"accumulate": False}, {"utility": "lambda"}])
def test_copies_of_network_optimizer_and_engine_go_their_own_way(copied, settings):
    gnt.register_utility("lambda", lambda s: (s.magnitude * s.outgoing).mean(1) + torch.rand(
        s.num_units, generator=s.generator))  # fmt: skip
    first = make_run(conv_net(), opt="adamgnt", **settings)
    train(*first, range(6), *IMAGE_SHAPE)
    second = copied(first)
    before = full_state(*first)
    assert_same(full_state(*second), before)
    train(*second, range(6, 12), *IMAGE_SHAPE)
    assert_same(full_state(*first), before)
    train(*first, range(6, 12), *IMAGE_SHAPE)
    assert_same(full_state(*second), full_state(*first))
    assert min(replaced(second[2])) > 1


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_of_a_learner_and_of_an_engine_alone(copied):
    learner = gnt.ContinualBackprop(conv_net(), opt="adam", accumulate=False, **FREQUENT_REPLACEMENT)
    for t in range(4):
        learner.learn(*batch(t, *IMAGE_SHAPE))
    other = copied(learner)
    for t in range(4, 8):
        assert_same(
            *[[s.loss, s.output, *s.replaced] for s in (x.learn(*batch(t, *IMAGE_SHAPE)) for x in (learner, other))]
        )
    assert_same(*[full_state(x.net, x.opt, x.gnt) for x in (learner, other)])
    engine = copied(learner.gnt)  # brings its own copies of the layers
    engine.step([torch.rand(2, 5, 3, 3), torch.rand(2, 16), torch.rand(2, 6)])
    assert (engine.updates, learner.gnt.updates) == (9, 8)
    assert not engine.groups[0].producer.weight.is_set_to(learner.net[0].weight)
    learner.gnt.close()
    assert not any(m._forward_pre_hooks for m in copied(learner).net.modules())


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_target_networks_learn_nothing_and_cost_nothing(copied):
    first, plain = make_run(conv_net()), make_run(conv_net())
    for t in range(8):
        target = copied(first[0])
        target(batch(t, *IMAGE_SHAPE)[0])  # in training mode, with grad
        target.load_state_dict(first[0].state_dict())
        train(*first, range(t, t + 1), *IMAGE_SHAPE)
        train(*plain, range(t, t + 1), *IMAGE_SHAPE)
    assert_same(full_state(*first), full_state(*plain))


def test_a_shallow_copy_of_an_engine_takes_nothing_away() -> None:
    """The two share their units' state; whoever steps, both see it."""
    net = mlp(5, 9, 7, 2)
    engine = gnt.GnT(net, kernels=True)
    alone = copy.deepcopy((net, engine))
    for t in range(6):
        for one, its in ((net, copy.copy(engine) if t == 3 else engine), alone):
            one(batch(t, 5)[0])
            its.step()
        if t == 3:
            engine.discard()
    assert_same(engine.groups[0].state.state_dict(), alone[1].groups[0].state.state_dict())
