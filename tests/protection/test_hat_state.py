"""`HAT` saved, resumed, copied, closed, and in a learner."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import gnt
from gnt.protection import Adaptive
from tests.helpers.small_runs import IMAGE_SHAPE, assert_same, conv_net, mlp
from tests.protection.masked_runs import inputs, learn_steps, learn_task, make_hat, outputs

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")


@pytest.mark.parametrize("kind", ["HAT", "AdaHAT", "gradient form"])
def test_a_run_resumed_in_the_middle_of_an_epoch_equals_the_uninterrupted_one(kind):
    given = {"HAT": {}, "AdaHAT": {"protection": Adaptive(0.1)}, "gradient form": {"apply": "gradient"}}[kind]
    net, hat, optimizer = make_hat(conv_net(), **given)
    learn_task(hat, optimizer, 0, IMAGE_SHAPE)
    hat.begin("b", optimizer, steps_per_epoch=4)
    learn_steps(hat, optimizer, range(3), IMAGE_SHAPE)
    file = io.BytesIO()
    torch.save([each.state_dict() for each in (net, hat, optimizer)], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    other = conv_net()
    other.load_state_dict(states[0])  # the statistics with which tasks start are those of the first HAT
    _, resumed, new_optimizer = make_hat(other, **given)
    resumed.load_state_dict(states[1])
    with pytest.raises(RuntimeError, match=r"call resume\(optimizer\)"):
        other(inputs(other, IMAGE_SHAPE))
    other.load_state_dict(states[0])
    resumed.resume(new_optimizer)
    new_optimizer.load_state_dict(states[2])
    results = []
    for one, masks, own in ((net, hat, optimizer), (other, resumed, new_optimizer)):
        learn_steps(masks, own, range(3, 6), IMAGE_SHAPE)
        masks.end()
        learn_task(masks, own, "c", IMAGE_SHAPE)
        x = inputs(net, IMAGE_SHAPE)
        results.append((dict(one.state_dict()), masks.masks, outputs(masks, x), masks.get_extra_state()))
    assert_same(*results)


def test_saved_entries_that_do_not_fit_each_other_or_the_network_are_refused_before_anything_is_loaded():
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1))
    _, hat, optimizer = make_hat(net)
    learn_task(hat, optimizer, 0, steps=2)
    hat.begin(1, optimizer, steps_per_epoch=2)
    learn_steps(hat, optimizer, range(1))
    saved, wide = copy.deepcopy(hat.state_dict()), {"1.running_mean": torch.zeros(3)}
    for name, wrong in (
        ("steps_per_epoch", 0),
        ("open", [0, True]),
        ("task_buffers", []),
        ("task_buffers", [wide]),
        ("initial_buffers", wide),
        ("live_buffers", [wide]),
    ):
        faulty = copy.deepcopy(saved)
        faulty["_extra_state"][name] = wrong
        with pytest.raises(ValueError, match=f"{name}|1.running_mean with shape"):
            hat.load_state_dict(faulty)
        assert_same(hat.state_dict(), saved)
    closed = copy.deepcopy(saved)
    closed["_extra_state"]["open"] = []
    with pytest.raises(ValueError, match="selected"):
        hat.load_state_dict(closed)
    hat.load_state_dict(saved)


def test_copies_go_on_alone_and_copies_of_the_network_have_no_gates():
    net, hat, optimizer = make_hat()
    learn_task(hat, optimizer, 0)
    hat.begin(1, optimizer, steps_per_epoch=4)
    learn_steps(hat, optimizer, range(2))
    copies = copy.deepcopy((net, hat, optimizer))
    before = copy.deepcopy(dict(net.state_dict()))
    learn_steps(copies[1], copies[2], range(2, 4))
    assert_same(dict(net.state_dict()), before)
    learn_steps(hat, optimizer, range(2, 4))
    assert_same(dict(net.state_dict()), dict(copies[0].state_dict()))
    assert_same(hat.get_extra_state(), copies[1].get_extra_state())
    alone, plain = copy.deepcopy(net), mlp()
    plain.load_state_dict(net.state_dict())
    assert_same(alone(inputs(net)).detach(), plain(inputs(net)).detach())


def test_close_removes_all_hooks_and_the_network_never_had_other_keys():
    net, hat, optimizer = make_hat(apply="gradient")
    assert set(net.state_dict()) == set(mlp().state_dict())
    learn_task(hat, optimizer, 0)
    hat.begin(1, optimizer, steps_per_epoch=2)
    hat.close()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not any(parameter._backward_hooks for parameter in net.parameters())
    with pytest.raises(RuntimeError, match="closed"):
        hat.begin(2, optimizer, steps_per_epoch=2)
    gnt.HAT(net, gnt.walk(net))


def test_a_learner_begins_and_ends_tasks():
    net = mlp()
    hat = gnt.HAT(net, gnt.walk(net), sparsity=0.1)
    learner = gnt.Backprop(net, opt="sgd", step_size=0.1, loss="mse", methods=[hat])
    x, y, seen = torch.randn(6, 4), torch.randn(6, 2), []
    for task in range(2):
        learner.begin_task(task=task, steps_per_epoch=2)
        for _ in range(3):
            learner.learn(x, y + task)
        learner.end_task()
        seen.append(outputs(hat, x)[0])
    assert_same(*seen)
    state = learner.state_dict()
    learner.begin_task(task="c", steps_per_epoch=2)
    learner.load_state_dict(state)
    assert hat.task is None
    assert hat.tasks == [0, 1]
