"""Only forwards of the step's own training graph enter an update."""

from __future__ import annotations

import contextlib
import re
import threading

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jacrev, vmap

import gnt
from gnt._utils.recording_switch import pause_recording
from gnt.importance import GroupWatches
from tests.helpers.small_runs import assert_same, batch
from tests.helpers.training_loops import make_loop

OTHER, _ = batch(99)


def transforms(net):
    grad(lambda x: net(x).sum())(OTHER)
    jacrev(lambda x: net(x).sum())(OTHER)
    with contextlib.suppress(RuntimeError):  # raised before there was a check: the features outlived the transform
        vmap(net)(OTHER)


def other_parameters(net):
    others = {name: (2 * p.detach()).requires_grad_() for name, p in net.named_parameters()}
    functional_call(net, others, (OTHER,)).sum().backward()


def derivatives_with_respect_to_inputs(net):
    torch.autograd.functional.hessian(lambda x: net(x).square().sum(), OTHER[0])
    torch.autograd.functional.jacobian(lambda x: net(x).sum(0), OTHER)
    x = OTHER.clone().requires_grad_()
    torch.autograd.grad(net(x).sum(), x)


def dual_numbers(net):
    with forward_ad.dual_level():
        net(forward_ad.make_dual(OTHER, OTHER))


def fake_tensors(net):
    with FakeTensorMode(allow_non_fake_inputs=True):
        net(torch.randn(8, 4))


def interrupted(net):
    def interrupt(module, args):
        raise KeyboardInterrupt

    handle = net.layers[4].register_forward_pre_hook(interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        net(OTHER)
    handle.remove()


def without_backward(net):
    net(OTHER)


def swapped_in(net, change):
    """A forward with changed tensors in place of the weights, as TorchRL runs target networks."""
    held = [(module, dict(module._parameters)) for module in net.modules()]
    for module, own in held:
        module._parameters.update({key: change(value) for key, value in own.items() if value is not None})
    try:
        net(OTHER).sum().backward()
    except RuntimeError:  # without a gradient
        pass
    finally:
        for module, own in held:
            module._parameters.update(own)


def target_network(net):
    swapped_in(net, lambda value: torch.nn.Parameter(value + 1, requires_grad=False))


def detached_parameters(net):
    swapped_in(net, torch.Tensor.detach)


FORWARDS = [
    target_network, detached_parameters, transforms, other_parameters, derivatives_with_respect_to_inputs,
    dual_numbers, fake_tensors, interrupted, without_backward,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit:Warning")
@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("name", ["manual", "attached", "layers"])
def test_other_forwards_do_not_enter_an_update(name, forward):
    run, expected = make_loop(name), make_loop(name).train(range(6))
    for t in range(6):
        x, y = batch(t)
        run.optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(run.net(x), y)
        forward(run.net)
        loss.backward()
        run.optimizer.step()
        run.after_step()
    assert_same(run.state(), expected.state())
    assert run.updates() == {6}


@pytest.mark.parametrize("name", ["manual", "attached"])
def test_the_second_forward_of_a_gradient_penalty_does_not_count(name):
    run, plain = make_loop(name), make_loop(name)
    x, y = batch(0)
    for each in (run, plain):
        loss = torch.nn.functional.mse_loss(each.net(x), y)
        if each is run:
            z = OTHER.clone().requires_grad_()
            (slope,) = torch.autograd.grad(each.net(z).sum(), z, create_graph=True)
            loss = loss + slope.square().mean()
        loss.backward()
        each.optimizer.step()
        each.after_step()
    for group, other in zip(run.engines[0].groups, plain.engines[0].groups, strict=True):
        assert_same(group.state.mean_features, other.state.mean_features)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
def test_accumulation_with_create_graph_counts_all_micro_batches():
    run, plain = make_loop("attached"), make_loop("attached")
    for t in range(4):
        for each in (run, plain):
            each.optimizer.zero_grad()
            for micro in range(3):
                x, y = batch(10 * t + micro)
                torch.nn.functional.mse_loss(each.net(x), y).backward(create_graph=each is run)
            each.optimizer.step()
            for parameter in each.net.parameters():
                parameter.grad = None
    torch.testing.assert_close(run.state(), plain.state())


def test_a_pause_in_one_thread_does_not_pause_the_recording_of_another():
    run, paused, done = make_loop("attached"), threading.Event(), threading.Event()

    def pause():
        with pause_recording():
            paused.set()
            done.wait(30)

    thread = threading.Thread(target=pause)
    thread.start()
    paused.wait(30)
    run.train(range(3))
    done.set()
    thread.join()
    assert run.updates() == {3}


@pytest.mark.parametrize("name", ["attached", "attached fused", "CBPSGD", "layers", "layers fused"])
def test_a_step_without_features_or_skipped_by_a_scaler_has_replaced_nothing(name):
    run = make_loop(name)
    for t in range(20):
        run.step(*batch(t))
        if any(len(units) for engine in run.engines for units in engine.replaced):
            break
    else:
        pytest.fail("no unit was replaced")
    if "fused" in name:
        run.net(batch(8)[0]).sum().backward()
        run.optimizer.found_inf = torch.tensor(1.0)
    run.optimizer.step()
    assert not any(len(units) for engine in run.engines for units in engine.replaced)


@pytest.mark.parametrize("name", ["attached", "layers"])
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda net: net.eval(), "evaluation mode, in which nothing is recorded: call net.train()"),
        (lambda net: setattr(net, "run_layers", lambda layers, x: layers[0](x)[:, :2]), "were not run in training (a"),
    ],
)
def test_warns_once_after_100_optimizer_steps_without_features_and_names_the_cause(name, change, cause):
    run = make_loop(name)
    run.train(range(3))
    change(run.net)
    with pytest.warns(UserWarning, match=f"no training forward in 100 optimizer steps.*{re.escape(cause)}") as caught:
        run.train(range(210))
    assert len(caught) == 1
    run.train(range(1))
    assert run.updates() == {3}


class Branches(torch.nn.Module):
    """A shared layer, and a hidden layer and an output of its own for each task."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.shared = torch.nn.Linear(4, 8)
        self.hidden = torch.nn.ModuleList(torch.nn.Linear(8, 6) for _ in range(2))
        self.out = torch.nn.ModuleList(torch.nn.Linear(6, 2) for _ in range(2))

    def forward(self, x, task):
        return self.out[task](torch.relu(self.hidden[task](torch.relu(self.shared(x)))))

    def groups(self):
        relu = torch.nn.ReLU()
        first, other = (gnt.walk([self.shared, relu, hidden])[0] for hidden in self.hidden)
        first.outgoing = (*first.outgoing, *other.outgoing)
        own = [gnt.walk([hidden, relu, out])[0] for hidden, out in zip(self.hidden, self.out, strict=True)]
        for task, group in enumerate(own):
            group.name = f"hidden.{task}"
        return [first, *own]


def train_branches(steps, *, attached, kernels=False):
    net = Branches().double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    engine = gnt.GnT(
        net.groups(), optimizer, replacement_rate=0.1, maturity_threshold=2, decay_rate=0.9, kernels=kernels,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    engine = engine.attach() if attached else engine
    for t in steps:
        optimizer.zero_grad()
        net(batch(t)[0].double(), t // 3 % 2).square().mean().backward()
        optimizer.step()
        if not attached:
            engine.step()
    return net, engine


@pytest.mark.parametrize("kernels", [False, True])
def test_groups_that_take_no_part_in_a_step_are_left_alone(kernels):
    (net, engine), (other_net, _) = (train_branches(range(40), attached=a, kernels=kernels) for a in (True, False))
    assert (engine.updates, [group.state.updates for group in engine.groups]) == (40, [40, 21, 19])
    assert min(group.state.replaced for group in engine.groups) > 3
    assert_same([p.detach() for p in net.parameters()], [p.detach() for p in other_net.parameters()])
    before = [group.state.state_dict() for group in engine.groups]
    trained_again = engine.groups[1].state.updates
    x = batch(0)[0].double()
    engine.optimizer.zero_grad()
    net(x, 1).sum().backward()
    engine.optimizer.step()
    assert engine.groups[1].state.updates == trained_again
    assert_same(engine.groups[1].state.state_dict(), before[1])


def test_kernels_and_torch_operations_agree_for_groups_that_take_part_in_turn():
    (net, _), (other_net, _) = (train_branches(range(40), attached=True, kernels=k) for k in (False, True))
    torch.testing.assert_close(list(net.parameters()), list(other_net.parameters()))


@pytest.mark.parametrize("attached", [True, False])
def test_replaced_units_are_silent_in_all_heads_whichever_is_trained(attached):
    torch.manual_seed(0)
    trunk, heads = torch.nn.Linear(4, 8), [torch.nn.Linear(8, 2) for _ in range(2)]
    group, other = (gnt.walk([trunk, torch.nn.ReLU(), head])[0] for head in heads)
    group.outgoing = (*group.outgoing, *other.outgoing)
    optimizer = torch.optim.SGD([p for layer in (trunk, *heads) for p in layer.parameters()], lr=0.05)
    engine = gnt.GnT([group], optimizer, replacement_rate=0.2, maturity_threshold=2)
    engine = engine.attach() if attached else engine
    for t in range(20):
        optimizer.zero_grad()
        heads[t // 5 % 2](torch.relu(trunk(batch(t)[0]))).square().mean().backward()
        optimizer.step()
        (replaced,) = engine.replaced if attached else engine.step()
        assert not any(head.weight[:, replaced].any() for head in heads)
    assert engine.updates == 20
    assert engine.groups[0].state.replaced > 10


@pytest.mark.parametrize("every", [1, 2])
def test_freezing_a_critic_in_the_step_of_the_actor_changes_nothing(every):
    results = []
    for freeze in (False, True):
        torch.manual_seed(0)
        actor, critic = (
            torch.nn.Linear(4, 4),
            torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)),
        )
        of_actor, of_critic = (torch.optim.SGD(net.parameters(), lr=0.05) for net in (actor, critic))
        engine = gnt.GnT(critic, of_critic, replacement_rate=0.1, maturity_threshold=2, measure_every=every).attach()
        for t in range(20):
            of_critic.zero_grad()
            critic(batch(t)[0]).square().mean().backward()
            of_critic.step()
            critic.requires_grad_(not freeze)
            of_actor.zero_grad()
            critic(3 * actor(batch(t)[0])).mean().backward()
            of_actor.step()
            critic.requires_grad_(True)
        results.append((engine.groups[0].state.state_dict(), dict(critic.named_parameters())))
    assert results[0][0]["replaced"] > 5
    assert_same(*results)


def test_units_that_were_frozen_from_the_start_are_measured_beside_an_optimizer():
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    front = torch.nn.Linear(4, 4)
    net.requires_grad_(False)
    optimizer = torch.optim.SGD(front.parameters(), lr=0.05)
    importance = gnt.importance.Importance(gnt.walk(list(net), frozen=True), "contribution").attach(optimizer)
    net(front(batch(0)[0])).square().mean().backward()
    optimizer.step()
    assert importance.groups[0].state.updates == 1


@pytest.mark.parametrize("every", [1, 2])
def test_units_whose_features_are_detached_are_measured_by_an_attached_engine(every):
    """Their producers get no gradient, and their consumers do; the other group has gradients on both sides."""
    results = []
    for attached in (True, False):
        torch.manual_seed(0)
        body, hidden, out = torch.nn.Linear(4, 6), torch.nn.Linear(6, 5), torch.nn.Linear(5, 2)
        groups = gnt.walk([body, torch.nn.ReLU(), hidden, torch.nn.ReLU(), out])
        optimizer = torch.optim.SGD([p for layer in (body, hidden, out) for p in layer.parameters()], lr=0.05)
        settings = {"replacement_rate": 0.1, "maturity_threshold": 2, "measure_every": every}
        engine = gnt.GnT(groups, optimizer, **settings, generator=torch.Generator().manual_seed(1))
        engine = engine.attach() if attached else engine
        for t in range(20):
            optimizer.zero_grad()
            out(torch.relu(hidden(torch.relu(body(batch(t)[0])).detach()))).square().mean().backward()
            optimizer.step()
            if not attached:
                engine.step()
        results.append(
            [(group.state.updates, group.state.replaced, body.weight, out.weight) for group in engine.groups]
        )
    assert_same(*results)
    assert min(replaced for _, replaced, *_ in results[0]) > 5


def test_an_abandoned_backward_does_not_count_beside_a_step_that_trains_the_same_consumer():
    """As where a scaler has skipped a step of one branch: the next step trains the layer that reads both branches."""
    torch.manual_seed(0)
    branches, out = [torch.nn.Linear(4, 6) for _ in range(2)], torch.nn.Linear(6, 2)
    groups = [gnt.walk([branch, torch.nn.ReLU(), out])[0] for branch in branches]
    optimizer = torch.optim.SGD([p for layer in (*branches, out) for p in layer.parameters()], lr=0.05)
    importances = [gnt.importance.Importance([group], "contribution") for group in groups]
    watches = GroupWatches(groups, [importance.feature_buffer.by_group()[0] for importance in importances])
    for branch in branches:
        optimizer.zero_grad()
        out(torch.relu(branch(batch(0)[0]))).square().mean().backward()
    watches.drop_abandoned()
    waiting = [importance.feature_buffer.by_group()[0].taps[0].waiting for importance in importances]
    watches.remove()
    assert waiting == [False, True]
