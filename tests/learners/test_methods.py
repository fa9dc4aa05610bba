"""Methods of learners: the same as in a loop of one's own, their hooks in order, failed steps, and saved states."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import gnt
from tests.helpers.compiled_learners import run_graphs_uncompiled
from tests.helpers.small_runs import assert_same, mlp


def batches(count: int = 6) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(3)
    return [(torch.randn(5, 4, generator=draws), torch.randn(5, 2, generator=draws)) for _ in range(count)]


def make_methods(net: Any, opt: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(5)
    return [
        gnt.L2(net, 1e-2),
        gnt.L2Init(net, 1e-1),
        gnt.ShrinkAndPerturb(net, shrink=0.9, noise=0.01, every=2, generator=generator),
        gnt.ReDo(net, opt, tau=0.5, period=3, generator=generator),
    ]


def make_learner(kind: type[gnt.Backprop] = gnt.Backprop, **settings: Any) -> gnt.Backprop:
    torch.manual_seed(0)
    net = mlp()
    learner = kind(net, opt=torch.optim.SGD(net.parameters(), lr=0.1), **settings)
    learner.methods = make_methods(learner.net, learner.opt)
    return learner


def test_methods_act_as_in_a_loop_of_ones_own():
    learner = make_learner()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    l2, l2_init, perturb, redo = make_methods(net, optimizer)
    for x, y in batches():
        loss = torch.nn.functional.mse_loss(net(x), y)
        optimizer.zero_grad()
        (loss + l2() + l2_init()).backward()
        optimizer.step()
        perturb.step()
        replaced = redo.step()
        step = learner.learn(x, y)
        assert step.loss.equal(loss.detach())
        assert_same(step.replaced, replaced)
    assert sum(group.state.replaced for group in redo.groups) > 0
    assert_same(learner.net.state_dict(), net.state_dict())


class Recorder:
    """A method with every hook, which learns from the previous batch and doubles the gradients."""

    def __init__(self, net: Any) -> None:
        self.net, self.calls, self.previous = net, [], None
        self.weight = net[0].weight

    def before_batch(self, x: Tensor, y: Tensor) -> Any:
        self.calls.append("before_batch")
        previous, self.previous = self.previous, (x, y)
        return previous

    def penalty(self) -> Tensor:
        self.calls.append("penalty")
        return self.weight.sum()

    def after_backward(self) -> None:
        self.calls.append(("after_backward", self.weight.grad.clone()))
        self.weight.grad.zero_()

    def after_step(self) -> None:
        self.calls.append("after_step")

    def begin_task(self, task: int, net: Any, data: str = "none") -> None:
        assert net is self.net
        self.calls.append(("begin_task", task))

    def end_task(self, task: int, *, data: str) -> None:
        self.calls.append(("end_task", task, data))

    def discard(self) -> None:
        self.calls.append("discard")


def test_hooks_are_called_in_order_with_what_they_may_change():
    net = mlp()
    method = Recorder(net)
    learner = gnt.Backprop(net, step_size=0.1, methods=[method])
    with pytest.raises(TypeError, match=r"begin_task of Recorder needs task: give begin_task\(task=...\)"):
        learner.begin_task()
    with pytest.raises(TypeError, match="begin_task got tsak, which no method takes"):
        learner.begin_task(task=1, tsak=2)
    learner.begin_task(task=1)
    (x, y), (other, target) = batches(2)
    before, twin = net[0].weight.detach().clone(), copy.deepcopy(net)
    learner.learn(x, y)
    (torch.nn.functional.mse_loss(twin(x), y) + twin[0].weight.sum()).backward()
    names = [call[0] if isinstance(call, tuple) else call for call in method.calls]
    assert names == ["begin_task", "before_batch", "penalty", "after_backward", "after_step"]
    torch.testing.assert_close(method.calls[3][1], twin[0].weight.grad)
    assert net[0].weight.equal(before)  # its gradient was set to zero
    expected = net(x)
    assert learner.learn(other, target).output.equal(expected)  # of the batch that was returned in its place
    learner.end_task(task=1, data="all")
    assert method.calls[-1] == ("end_task", 1, "all")
    learner.learn(x[:0], y[:0])
    calls = len(method.calls)
    assert learner.learn(x, y).output.shape == (0, 2)  # an empty batch is no step
    assert method.calls[calls:] == ["before_batch", "discard"]
    net[0].weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError):
        learner.learn(x, y)
    assert method.calls[-1] == "discard"


class Adder:
    """A method that adds to gradients by itself; its penalty is never asked for."""

    def __init__(self, weight: Any, number: float, records: bool = False) -> None:
        self.weight, self.number, self.records_gradient = weight, number, records
        self.seen: Any = None

    def penalty(self) -> Tensor:
        raise AssertionError("penalty_backward takes its place")

    def penalty_backward(self) -> None:
        self.seen = self.weight.grad.clone()
        self.weight.grad += self.number


def test_penalty_backward_is_called_in_place_of_penalty_and_last_for_methods_that_record_the_gradient():
    net = mlp()
    first, second, third = (Adder(net[0].weight, number, records=number == 1.0) for number in (1.0, 2.0, 4.0))
    recorder = Recorder(net)
    learner = gnt.Backprop(net, step_size=0.1, methods=[first, recorder, second, third])
    learner.begin_task(task=1)
    learner.learn(*batches(1)[0])
    assert second.seen.ne(0).any()
    torch.testing.assert_close(third.seen, second.seen + 2.0)
    torch.testing.assert_close(first.seen, second.seen + 6.0)
    after = next(call[1] for call in recorder.calls if call[0] == "after_backward")
    torch.testing.assert_close(after, second.seen + 7.0)


def test_the_order_of_methods_does_not_change_what_si_takes_for_the_gradient_of_the_task():
    paths = []
    for order in (1, -1):
        net = mlp()
        ewc, si = gnt.EWC(net, 50.0, likelihood="gaussian"), gnt.SI(net, 5.0)
        learner = gnt.Backprop(net, step_size=0.05, methods=[ewc, si][::order])
        for number, (x, y) in enumerate(batches()):
            learner.learn(x, y)
            if number == 2:
                learner.end_task(data=x)
        paths.append([p.clone() for p in si.path])
    assert_same(*paths)


def test_a_method_that_is_attached_to_the_optimizer_and_listed_is_refused():
    net = mlp()
    for method in (gnt.MAS(net, 1.0), gnt.SI(net, 1.0)):
        learner = gnt.Backprop(net, step_size=0.1, methods=[method])
        method.attach(learner.opt)
        before = copy.deepcopy(net.state_dict())
        with pytest.raises(
            RuntimeError, match="attached to the optimizer and a method of a learner: it would count tw"
        ):
            learner.learn(*batches(1)[0])
        assert_same(dict(net.state_dict()), dict(before))
        method.detach()
        learner.learn(*batches(1)[0])


def test_methods_with_numbers_per_weight_follow_the_engine():
    settings = {"replacement_rate": 0.5, "maturity_threshold": 0, "init": "kaiming"}
    learner = make_learner(gnt.ContinualBackprop, **settings)
    _, l2_init, perturb, _ = learner.methods
    learner.methods = [l2_init]
    replaced = [learner.learn(x, y).replaced[0] for x, y in batches(3)][-1]
    assert len(replaced)
    assert l2_init.start[0][replaced].equal(learner.net[0].weight[replaced])
    assert learner.gnt.followers == (l2_init,)
    learner.methods = (perturb,)
    assert learner.gnt.followers == ()


@pytest.mark.parametrize("kind", [gnt.Backprop, gnt.ContinualBackprop])
def test_learner_with_methods_resumes_exactly(kind):
    settings = {"replacement_rate": 0.2, "maturity_threshold": 1} if kind is gnt.ContinualBackprop else {}
    learner, resumed = make_learner(kind, **settings), make_learner(kind, **settings)
    data = batches(8)
    for x, y in data[:4]:
        learner.learn(x, y)
    saved = copy.deepcopy(learner.state_dict())
    resumed.load_state_dict(saved)
    for x, y in data[4:]:
        assert_same(tuple(learner.learn(x, y)), tuple(resumed.learn(x, y)))
    assert_same(learner.state_dict(), resumed.state_dict())
    before = copy.deepcopy(resumed.state_dict())
    damaged = copy.deepcopy(saved)
    damaged["methods"][3]["steps"] = -1
    for state, message in [
        (damaged, "steps"),
        ({**saved, "methods": saved["methods"][:2]}, "'methods' that are not those of this learner"),
        ({key: value for key, value in saved.items() if key != "methods"}, "'methods' that are not those"),
    ]:
        with pytest.raises(ValueError, match=message):
            resumed.load_state_dict(state)
        assert_same(resumed.state_dict(), before)
    plain = kind(mlp(), opt="sgd", **settings)
    with pytest.raises(ValueError, match="this learner has no methods with state"):
        plain.load_state_dict(saved)


def test_methods_that_cannot_act_are_refused():
    net = mlp()
    reg, learner = gnt.L2(net, 0.1), gnt.Backprop(net)

    class WithoutHooks:
        pass

    class Wrong:
        def penalty(self) -> Any:
            return torch.ones(2)

        def before_batch(self, x: Tensor, y: Tensor) -> Any:
            return x

    for methods, error, message in [
        (reg, TypeError, "must be a list of objects with hooks, got L2"),
        ([WithoutHooks()], TypeError, r"methods\[0\] must have one of before_batch.*got WithoutHooks"),
        ([reg, gnt.L2], TypeError, r"methods\[1\] must be an object, got the class L2"),
        ([reg, reg], ValueError, r"methods\[1\] is listed twice"),
    ]:
        with pytest.raises(error, match=message):
            gnt.Backprop(net, methods=methods)
        with pytest.raises(error, match=message):
            learner.methods = methods
    assert learner.methods == ()
    x, y = batches(1)[0]
    before = copy.deepcopy(net.state_dict())
    for kind, error, message in [(Wrong, TypeError, r"before_batch of Wrong must return None or \(x, y\)")]:
        learner.methods = [kind()]
        with pytest.raises(error, match=message):
            learner.learn(x, y)
    del Wrong.before_batch
    with pytest.raises(ValueError, match="penalty of Wrong must return a real scalar tensor"):
        learner.learn(x, y)
    reg.strength = 1e38
    learner.methods = [reg]
    with pytest.raises(FloatingPointError, match="the penalty of L2 is inf; nothing was changed"):
        learner.learn(x, y)
    assert_same(net.state_dict(), before)


def test_a_compiled_step_stores_the_same_batches_for_replay(monkeypatch):
    run_graphs_uncompiled(monkeypatch)
    buffers = []
    for compiled in (False, True):
        net, buffer = mlp(), gnt.ReplayBuffer(50, generator=torch.Generator().manual_seed(1))
        learner = gnt.Backprop(net, step_size=0.1, compile=compiled, methods=[gnt.ExperienceReplay(buffer)])
        for x, y in batches(4):
            learner.learn(x, y)
        buffers.append(buffer.state_dict())
    assert_same(*buffers)


def test_methods_that_cannot_be_part_of_a_compiled_step_are_refused():
    net = mlp()
    refused = {
        r"LwF would not be part of it.*cannot call its penalty": gnt.LwF(net),
        r"HAT would not be part of it.*cannot call its penalty": gnt.HAT(net, gnt.walk(net)),
        r"PackNet would not be part of it.*would not call its hooks on layers": gnt.PackNet(net),
    }
    for message, method in refused.items():
        with pytest.raises(TypeError, match=message):
            gnt.Backprop(net, loss="cross_entropy", compile=True, methods=[method])


def test_penalty_of_an_ensemble_is_that_of_each_member():
    def make_net() -> Any:
        return mlp(seed=int(torch.randint(1000, ())))

    ensemble = gnt.Ensemble(make_net, [1, 2], step_size=0.1, replacement_rate=0.0)
    alone = [ensemble.member(i) for i in range(2)]
    ensemble.methods = [gnt.L2(ensemble.net, 0.1)]
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, 4, generator=draws), torch.randn(2, 5, 2, generator=draws)
    ensemble.learn(x, y)
    for number, net in enumerate(alone):
        gnt.Backprop(net, step_size=0.1, methods=[gnt.L2(net, 0.1)]).learn(x[number], y[number])
        for a, b in zip(net.parameters(), ensemble.member(number).parameters(), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda net: gnt.EWC(net, 1.0), "give EWC likelihood='gaussian'"),
        (lambda net: gnt.DER(net, gnt.ReplayBuffer(9), beta=0.5), r"give DER loss=torch\.nn\.functional\.mse_loss"),
        (gnt.LwF, r"use gnt\.DER, which keeps outputs of any kind"),
    ],
)
def test_methods_for_classes_warn_beside_a_squared_loss(make, remedy):
    net = mlp()
    method, warning = make(net), f"takes outputs for logits of classes, and the loss is 'mse': {remedy}"
    with pytest.warns(UserWarning, match=warning):
        gnt.Backprop(net, loss="mse", methods=[method])
    learner = gnt.Backprop(net, loss="mse")
    with pytest.warns(UserWarning, match=warning):
        learner.methods = [method]
    gnt.Backprop(net, loss="cross_entropy", methods=[method])


def test_methods_with_the_right_setting_do_not_warn_beside_a_squared_loss():
    net = mlp()
    der = gnt.DER(net, gnt.ReplayBuffer(9), beta=0.5, loss=torch.nn.functional.mse_loss)
    only_outputs = gnt.DER(net, gnt.ReplayBuffer(9))
    gnt.Backprop(net, loss="mse", methods=[gnt.EWC(net, 1.0, likelihood="gaussian"), der, only_outputs])


def test_the_end_of_a_task_that_a_method_refuses_changes_no_other():
    net = mlp(4, 8, 2)
    mas, ewc = gnt.MAS(net, 1.0), gnt.EWC(net, 1.0, fisher="empirical")
    learner = gnt.Backprop(net, loss="cross_entropy", methods=[mas, ewc])
    x, y = torch.randn(8, 4), torch.arange(8) % 2
    learner.learn(x, y)
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(ValueError, match="fisher='empirical' needs labels"):
        learner.end_task(data=x)
    assert_same(learner.state_dict(), before)
    learner.end_task(data=(x, y))
    assert mas.tasks == ewc.tasks == 1
