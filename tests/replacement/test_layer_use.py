"""CBP layers refuse a step in which the network did not run the layers that they were built with."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.small_runs import assert_same, batch, full_state
from tests.replacement.layer_runs import build, run, sgd

REPLACED = {"in_layer": (0, lambda: nn.Linear(4, 8)), "norms": (1, lambda: nn.BatchNorm1d(8))}
REPLACED["out_layer"] = 4, lambda: nn.Linear(8, 5)


def replace(net, role):
    place, make = REPLACED[role]
    net[place] = make()
    return net[place]


@pytest.mark.parametrize("new_optimizer", [False, True])
@pytest.mark.parametrize("role", REPLACED)
def test_a_layer_that_was_replaced_in_the_network_is_refused_before_the_step(role, new_optimizer):
    net = build()
    optimizer = sgd(net)
    run(net, optimizer, range(3))
    layer = replace(net, role)
    if new_optimizer:
        optimizer = sgd(net)
    else:
        optimizer.add_param_group({"params": layer.parameters()})
    net(batch(3)[0]).square().mean().backward()
    before, engines = full_state(net, optimizer), net[3].engine.optimizer
    message = f"{role} of CBPLinear of Linear with 8 units took no part .* Nothing was changed. .* rebind({role}=...)"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=re.escape(message).replace(r"\.\*", ".*")):
            optimizer.step()
    assert_same(full_state(net, optimizer), before)
    assert net[3].engine.optimizer is engines
    net[3].rebind(**{role: layer})
    replaced = net[3].group.state.replaced
    run(net, optimizer, range(4, 12))
    assert net[3].group.state.updates == 11
    assert net[3].group.state.replaced > replaced


def zeroed_in_place(net, optimizer):
    out = net(batch(0)[0])
    optimizer.zero_grad(set_to_none=False)
    out.square().mean().backward()


def clipped(net, optimizer):
    net.zero_grad()
    net(batch(0)[0]).square().mean().backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.1)


def accumulated(net, optimizer):
    optimizer.zero_grad()
    for seed in range(2):
        net(batch(seed)[0]).square().mean().backward(create_graph=True)


@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph:UserWarning")
@pytest.mark.parametrize("loop", [zeroed_in_place, clipped, accumulated])
@pytest.mark.parametrize("role", REPLACED)
def test_a_replaced_layer_is_seen_whatever_happens_to_gradients(role, loop):
    net = build()
    optimizer = sgd(net)
    for _ in range(2):
        loop(net, optimizer)
        optimizer.step()
    replace(net, role)
    loop(net, optimizer)
    with pytest.raises(RuntimeError, match=f"{role} of CBPLinear"):
        optimizer.step()


@pytest.mark.parametrize("role", ["in_layer", "out_layer"])
def test_a_replaced_layer_is_seen_in_compiled_code(role):
    net = build()
    optimizer, compiled = sgd(net), torch.compile(lambda x: net(x), backend="eager")
    run(net, optimizer, range(2), compiled)
    replace(net, role)
    with pytest.raises(RuntimeError, match=f"{role} of CBPLinear"):
        run(net, optimizer, range(2), compiled)
    torch.compiler.reset()


def test_after_a_closure_the_message_says_that_the_optimizer_has_stepped():
    net = build()
    optimizer = sgd(net)

    def closure():
        optimizer.zero_grad()
        loss = net(batch(0)[0]).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert net[3].engine.updates == 1
    replace(net, "out_layer")
    state = net[3].engine.state_dict()
    with pytest.raises(RuntimeError, match=r"The optimizer has stepped, and no unit was replaced"):
        optimizer.step(closure)
    assert_same(net[3].engine.state_dict(), state)


class Plain:
    """A training loop; subclasses are loops in which not all layers get a gradient, which is no error."""

    updates = 4

    def __init__(self):
        self.net = build()
        self.optimizer = sgd(self.net)

    def loss(self, x):
        return self.net(x).square().mean()

    def backward(self, x):
        self.optimizer.zero_grad()
        self.loss(x).backward()

    def step(self, x):
        self.backward(x)
        self.optimizer.step()


class DroppedGradient(Plain):
    """As in DINO, whose last layer is not trained at first."""

    def backward(self, x):
        super().backward(x)
        self.net[4].weight.grad = None


class FrozenHead(Plain):
    updates = 0

    def loss(self, x):
        self.net[4].requires_grad_(False)
        return super().loss(x)


class FrozenInTheBackwardOnly(Plain):
    def backward(self, x):
        self.net[0].requires_grad_(False)
        super().backward(x)
        self.net[0].requires_grad_(True)


class BodyWithoutGrad(Plain):
    def loss(self, x):
        with torch.no_grad():
            x = self.net[:3](x)
        return self.net[3:](x).square().mean()


class SeparateBackwards(Plain):
    def loss(self, x):
        features = self.net[:4](x)
        return features.square().mean() + self.net[4](features.detach()).square().mean()


class GradientsByHand(Plain):
    def backward(self, x):
        params = list(self.net.parameters())
        for param, grad in zip(params, torch.autograd.grad(self.loss(x), params), strict=True):
            param.grad = grad


class GradientsOfTheBodyByHand(Plain):
    """As where the gradients of several tasks are combined in the shared layers."""

    def backward(self, x):
        self.optimizer.zero_grad()
        loss, body = self.loss(x), list(self.net[:4].parameters())
        for param, grad in zip(body, torch.autograd.grad(loss, body, retain_graph=True), strict=True):
            param.grad = grad
        loss.backward(inputs=list(self.net[4].parameters()))


class UpdatedByHand(Plain):
    def backward(self, x):
        params = list(self.net.parameters())
        for param, grad in zip(params, torch.autograd.grad(self.loss(x), params), strict=True):
            param.data -= 0.05 * grad


class InputsOnly(Plain):
    updates = 0

    def backward(self, x):
        self.optimizer.zero_grad()
        torch.autograd.grad(self.loss(x.requires_grad_()), x)


class GivenInputs(Plain):
    def backward(self, x):
        self.optimizer.zero_grad()
        self.loss(x).backward(inputs=list(self.net.parameters()))


class Scaled(Plain):
    """Every other step is skipped."""

    updates = 2

    def __init__(self):
        super().__init__()
        self.scaler, self.number = torch.amp.GradScaler("cpu", init_scale=8.0), 0

    def step(self, x):
        self.number += 1
        self.optimizer.zero_grad()
        self.scaler.scale(self.loss(x) * (float("inf") if self.number % 2 else 1.0)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


class Copied(Plain):
    def step(self, x):
        self.net, self.optimizer = copy.deepcopy((self.net, self.optimizer))
        super().step(x)


CASES = [Plain, DroppedGradient, FrozenHead, FrozenInTheBackwardOnly, BodyWithoutGrad, SeparateBackwards]
CASES += [GradientsByHand, GradientsOfTheBodyByHand, UpdatedByHand, InputsOnly, GivenInputs, Scaled, Copied]


@pytest.mark.filterwarnings("ignore:the weight of .* is frozen:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_other_loops_are_accepted(case):
    loop = case()
    for seed in range(4):
        loop.step(batch(seed)[0])
    assert loop.net[3].engine.updates == loop.updates
    loop = case()  # and a replaced head is no error before a step in which the layer was not run
    replace(loop.net, "out_layer")
    loop.optimizer.step()


def test_a_head_that_is_used_in_turn_with_another_one_is_refused():
    net, other = build(), nn.Linear(8, 3)
    optimizer = torch.optim.SGD([*net.parameters(), *other.parameters()], lr=0.05)
    run(net, optimizer, range(2))
    with pytest.raises(RuntimeError, match=r"several layers read the units in turn.* use gnt.GnT with the groups"):
        run(net, optimizer, range(2), lambda x: other(net[:4](x)))


def test_hooks_are_removed_with_the_layer_and_renewed_for_another_parameter():
    net = build()
    optimizer = sgd(net)
    run(net, optimizer, range(2))
    weights = [net[0].weight, net[1].weight, net[4].weight]
    net[4].weight = nn.Parameter(net[4].weight.detach().clone())
    optimizer.param_groups[0]["params"] = list(net.parameters())
    run(net, optimizer, range(2, 5))
    assert net[3].engine.updates == 5
    assert not weights[2]._post_accumulate_grad_hooks
    replace(net, "out_layer")
    with pytest.raises(RuntimeError, match="out_layer of CBPLinear"):
        run(net, optimizer, [6])
    net[3] = nn.Identity()
    assert not weights[1]._post_accumulate_grad_hooks


def test_abandoned_features_are_dropped_after_a_parameter_was_exchanged():
    nets = [build(), build()]
    for net in nets:
        net[1].eval()
        optimizer = sgd(net)
        run(net, optimizer, range(2))
        net[0].weight = nn.Parameter(net[0].weight.detach().clone())
        optimizer.param_groups[0]["params"] = list(net.parameters())
        optimizer.step()
        if net is nets[0]:
            net(batch(5)[0]).sum().backward()
        run(net, optimizer, range(2, 4))
    assert_same(dict(nets[0].state_dict()), dict(nets[1].state_dict()))


def test_a_layer_between_two_cbp_layers_is_to_be_bound_in_both():
    a, b, c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)
    net = nn.Sequential(a, nn.ReLU(), gnt.CBPLinear(a, b), b, nn.ReLU(), gnt.CBPLinear(b, c), c)
    optimizer = sgd(net)
    net[3] = nn.Linear(8, 6)
    optimizer.add_param_group({"params": net[3].parameters()})
    for layer, role in ((net[2], "out_layer"), (net[5], "in_layer")):
        with pytest.raises(RuntimeError, match=f"{role} of CBPLinear"):
            run(net, optimizer, [0])
        layer.rebind(**{role: net[3]})
    run(net, optimizer, range(3))
    assert [net[2].engine.updates, net[5].engine.updates] == [3, 3]
