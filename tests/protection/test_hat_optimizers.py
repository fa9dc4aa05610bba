"""The optimizers of a `HAT`: how they get the embedding, and what refusals and steps leave."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch

import gnt
from gnt.protection._hat_optimizer import add_embedding
from tests.helpers.small_runs import assert_same, conv_net, mlp
from tests.protection.masked_runs import learn_steps, learn_task, make_hat

pytestmark = pytest.mark.filterwarnings("ignore:no capacity is left")


def test_an_optimizer_of_named_parameters_gets_the_embedding_under_a_name():
    net, hat, _ = make_hat()
    named, (_, other, _) = torch.optim.SGD(net.named_parameters(), lr=0.1), make_hat()
    if "param_names" not in named.param_groups[0]:
        pytest.skip("this version of torch drops the names")
    twin, twin_hat, _ = make_hat()
    plain = torch.optim.SGD(twin.parameters(), lr=0.1)
    for task in range(2):
        learn_task(hat, named, task)
        learn_task(twin_hat, plain, task)
    assert_same(dict(net.state_dict()), dict(twin.state_dict()))
    assert named.param_groups[1]["param_names"] == ["hat.embedding"]
    add_embedding(named, other.embedding)
    assert named.param_groups[2]["param_names"] == ["hat.embedding_1"]
    assert named.param_groups[2]["params"] == [other.embedding]


class Full(torch.optim.SGD):
    """Takes no group after the first."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.param_groups:
            raise ValueError("no more groups")
        super().add_param_group(param_group)


def test_an_optimizer_that_cannot_take_the_embedding_changes_nothing():
    net, hat, _ = make_hat(conv_net())
    learn_task(hat, torch.optim.SGD(net.parameters(), lr=0.1), 0, (1, 8, 8))
    before = copy.deepcopy([net.state_dict(), hat.state_dict()])
    with pytest.raises(ValueError, match="no more groups"):
        hat.begin(1, Full(net.parameters(), lr=0.1), steps_per_epoch=2)
    assert_same([net.state_dict(), hat.state_dict()], before)
    present = torch.optim.SGD(net.parameters(), lr=0.1)
    hat.begin(1, present, steps_per_epoch=2)
    with pytest.raises(ValueError, match="no more groups"):
        hat.resume(Full(net.parameters(), lr=0.1))
    learn_steps(hat, present, range(2), (1, 8, 8))
    hat.end()


def test_the_optimizers_of_ended_tasks_are_not_kept_alive():
    net, hat, _ = make_hat()
    seen = []
    for task in range(3):
        optimizer = torch.optim.Adam(net.parameters())
        seen.append(weakref.ref(optimizer))
        learn_task(hat, optimizer, task)
    gc.collect()
    assert [each() is not None for each in seen] == [False, False, True]
    with pytest.raises(RuntimeError, match="no task is open for this Adam"):
        optimizer.step()
    del optimizer
    gc.collect()
    assert seen[-1]() is None
    hat.begin(3, torch.optim.Adam(net.parameters()), steps_per_epoch=2)
    gc.collect()
    assert hat._optimizers[-1].optimizer is not None  # that of the open task is
    learn_steps(hat, hat._optimizers[-1].optimizer, range(2))
    hat.end()
    hat.close()


def test_frozen_layers_have_no_capacity():
    net = mlp()
    net[0].requires_grad_(False)
    hat = gnt.HAT(net, gnt.trace(net, torch.randn(2, 4), frozen=True), sparsity=0.0)
    hat.begin(0, torch.optim.SGD([each for each in net.parameters() if each.requires_grad], lr=0.1), steps_per_epoch=2)
    assert hat.capacity_by_group() == {"0": 0.0, "2": 1.0}
    assert hat.capacity() == pytest.approx(54 / (54 + 40))
