"""`EWC`, `SI`, `MAS`: penalties agree with loops over tasks, closed forms, replacement of units, saved states."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from gnt.regularization._unit_costs import UnitCosts
from tests.twins import memory as twin


def make_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (12,), generator=generator)


def move(net: nn.Module, seed: int = 5) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def gradients(net: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]


@pytest.mark.parametrize("form", ["penalty", "backward"])
def test_ewc_of_three_tasks_has_the_gradient_of_three_separate_penalties(form: str) -> None:
    net, tasks = make_net(), []
    ewc = gnt.EWC(net, 3.0)
    for task in range(3):
        x, _ = batch(task)
        ewc.consolidate(net, x)
        tasks.append((twin.fisher(net, x), [p.detach().clone() for p in net.parameters()]))
        if task == 0:
            assert ewc().item() == 0.0
        move(net, task)
    expected = torch.autograd.grad(twin.separate_penalties(list(net.parameters()), tasks, 3.0), list(net.parameters()))
    ewc().backward() if form == "penalty" else ewc.backward()
    for mine, theirs in zip(gradients(net), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-14)


def test_online_ewc_has_one_anchor_and_decays_importance() -> None:
    net = make_net()
    ewc = gnt.EWC(net, 2.0, mode="online", decay=0.5)
    ewc.consolidate(net, batch(0)[0])
    first = twin.fisher(net, batch(0)[0])
    move(net)
    ewc.consolidate(net, batch(1)[0])
    assert ewc().item() == 0.0
    for p, old, new in zip(net.parameters(), first, twin.fisher(net, batch(1)[0]), strict=True):
        torch.testing.assert_close(ewc.importance(p), 0.5 * old + new)


def test_consolidating_twice_on_the_same_data_doubles_importance_and_keeps_anchors() -> None:
    net = make_net()
    ewc = gnt.EWC(net, 1.0)
    ewc.consolidate(net, batch(0)[0])
    once, anchors = [ewc.importance(p).clone() for p in net.parameters()], [each.clone() for each in ewc.anchors]
    ewc.consolidate(net, batch(0)[0])
    for p, old, anchor, now in zip(net.parameters(), once, anchors, ewc.anchors, strict=True):
        torch.testing.assert_close(ewc.importance(p), 2 * old)
        assert torch.equal(anchor, now)


@pytest.mark.parametrize("kind", ["EWC", "MAS"])
def test_first_and_second_gradients_agree_with_finite_differences(kind: str) -> None:
    net = make_net()
    method = getattr(gnt, kind)(net, 0.7)
    method.consolidate(net, batch(0)[0])
    move(net)
    assert torch.autograd.gradcheck(lambda *_: method(), tuple(net.parameters()))
    assert torch.autograd.gradgradcheck(lambda *_: method(), tuple(net.parameters())[:2])


def test_large_parameters_are_handled_in_pieces_with_the_same_result() -> None:
    p = nn.Parameter(torch.randn(700, 900))
    mas = gnt.MAS([p], 0.5)
    a, mu = torch.rand(700, 900), torch.randn(700, 900)
    mas.load_state_dict({**mas.state_dict(), "importance": [a], "anchors": [mu], "tasks": 1})
    value = mas()
    torch.testing.assert_close(value, 0.5 * (a * (p - mu) ** 2).sum().detach(), rtol=1e-4, atol=0.0)
    value.backward()
    assert p.grad is not None
    torch.testing.assert_close(p.grad, (a * (p - mu)).detach())
    mas.backward()
    torch.testing.assert_close(p.grad, 2 * (a * (p - mu)).detach())


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
}


@pytest.mark.parametrize("form", ["backward", "penalty", "attach"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_si_path_is_the_drop_of_the_loss_and_half_the_curvature_of_the_steps(name: str, form: str) -> None:
    # on a quadratic: -g d = L(theta) - L(theta + d) + 1/2 d H d, in each task and step, without the penalty
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(5, dtype=torch.float64))
    hessian, target = torch.rand(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    optimizer = OPTIMIZERS[name]([p])
    si = gnt.SI([p], 0.5)
    if form == "attach":
        si.attach(optimizer)

    def task_loss() -> Tensor:
        return 0.5 * (hessian * (p - target) ** 2).sum()

    for _ in range(2):
        expected = 0.0
        for _ in range(10):
            optimizer.zero_grad()
            loss, before = task_loss(), p.detach().clone()
            (loss + si() if form == "penalty" else loss).backward()
            if form == "backward":
                si.backward()
            elif form == "penalty":
                si.after_backward()
            optimizer.step()
            if form != "attach":
                si.step()
            d = p.detach() - before
            expected += (loss - task_loss() + 0.5 * (d * hessian * d).sum()).item()
        assert si.path[0].sum().item() == pytest.approx(expected, abs=1e-12)
        anchor, old, path = si.anchors[0].clone(), si.importance(p).clone(), si.path[0].clone()
        si.consolidate()
        new = (old + path / ((p.detach() - anchor) ** 2 + 0.1)).clamp(min=0)
        torch.testing.assert_close(si.importance(p), new, rtol=1e-12, atol=0.0)
        assert si.importance(p).max() > 0
        assert not si.path[0].any()
        target += 1.0


@pytest.mark.parametrize("form", ["two batches", "half of two", "small", "twice", "dropped", "scaler"])
def test_si_subtracts_the_penalty_as_often_as_the_losses_have_it(form: str) -> None:
    net, (x, y) = make_net(), batch(0)
    loss = torch.nn.functional.cross_entropy
    si = gnt.SI(net, 2.0)
    loss(net(x), y).backward()
    si.backward()
    move(net)
    si.step()
    si.consolidate()
    move(net, 6)
    net.zero_grad()
    scale = 1.0
    if form == "two batches":
        losses = [loss(net(x[:8]), y[:8]) + si(), loss(net(x[8:]), y[8:]) + si()]
        expected = losses[0] + losses[1] - 2 * si()
    elif form == "half of two":
        losses = [0.5 * (loss(net(part), of) + si()) for part, of in ((x[:8], y[:8]), (x[8:], y[8:]))]
        expected = losses[0] + losses[1] - si()
    elif form == "small":
        losses, expected = [loss(net(x), y) + 0.1 * si()], loss(net(x), y)
    elif form == "twice":
        losses, expected = [loss(net(x), y) + si() + 0.5 * si()], loss(net(x), y)
    else:
        scale = 1024.0 if form == "scaler" else 1.0
        losses, expected = [scale * (loss(net(x), y) + si())], loss(net(x), y)
    reference = torch.autograd.grad(expected, list(net.parameters()), retain_graph=True)
    si.discard()
    if form == "dropped":
        (loss(net(x), y) + si()).backward()
        net.zero_grad()
    for each in losses:
        each.backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        parameter.grad /= scale
    if form in ("two batches", "small", "twice", "scaler"):
        with pytest.raises(ValueError, match="scale must be given where the penalty has the factor"):
            si.after_backward()
        si.after_backward(scale)
    else:
        si.after_backward()
    for found, wanted in zip(si._gradients, reference, strict=True):
        torch.testing.assert_close(found, wanted)


def test_si_importance_is_never_negative_and_not_bounded_from_above() -> None:
    p = nn.Parameter(torch.zeros(2))
    si = gnt.SI([p], 1.0, damping=1e-3)
    p.grad = torch.tensor([1.0, -5.0])
    si.backward()
    with torch.no_grad():
        p += 0.5
    si.step()
    si.consolidate()
    assert si.importance(p)[0] == 0.0
    assert si.importance(p)[1].item() == pytest.approx(2.5 / 0.251)


@pytest.mark.parametrize("kind", ["EWC", "MAS", "SI", "L2Init"])
def test_state_from_inference_mode_is_changed_outside_of_it(kind: str) -> None:
    """It is computed at the end of a task, or moved after the network was."""
    net, x = make_net(), batch(0)[0]
    method = getattr(gnt, kind)(net, 1.0)
    with torch.inference_mode():
        if kind == "SI":
            with pytest.warns(UserWarning, match="no step"):
                method.consolidate()
        elif kind != "L2Init":
            method.consolidate(net, x + 0.0)
    for _ in range(2):
        method.reset_units(net[0].weight, 0, torch.tensor([1]))
        method.move_bias(net[2].bias, torch.ones_like(net[2].bias))
        with torch.inference_mode():
            net.float()
            method()
    assert getattr(method, "tasks", 1) == 1


def methods(net: nn.Module) -> dict[str, Any]:
    return {"EWC": gnt.EWC(net, 5.0), "MAS": gnt.MAS(net, 0.5), "SI": gnt.SI(net, 0.5)}


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x, y = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


def consolidate(method: Any, net: nn.Module) -> None:
    method.consolidate() if isinstance(method, gnt.SI) else method.consolidate(net, batch(9)[0])


@pytest.mark.parametrize("kind", ["EWC", "MAS", "SI"])
def test_a_run_resumed_from_the_optimizer_state_is_that_of_an_uninterrupted_run(kind: str) -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        net = make_net()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        return net, optimizer, methods(net)[kind].attach(optimizer)

    net, optimizer, method = start()
    train(net, optimizer, range(4))
    consolidate(method, net)
    train(net, optimizer, range(4, 7))
    saved = copy.deepcopy([net.state_dict(), optimizer.state_dict()])
    assert "gnt_memory" in saved[1]
    other, resumed, loaded = start()
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for each, its_optimizer, its_method in ((net, optimizer, method), (other, resumed, loaded)):
        train(each, its_optimizer, range(7, 10))
        consolidate(its_method, each)
        train(each, its_optimizer, range(10, 12))
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(method.importance(p), loaded.importance(q))


@pytest.mark.parametrize("kind", ["EWC", "MAS", "SI"])
def test_a_learner_gives_the_results_of_a_loop(kind: str) -> None:
    results = []
    for learned in (False, True):
        net = make_net()
        method = methods(net)[kind]
        if learned:
            learner = gnt.Backprop(net, step_size=0.1, opt="sgd", loss="nll", methods=[method])
            for step in range(6):
                learner.learn(*batch(step))
                if step == 2:
                    learner.end_task(**({} if kind == "SI" else {"data": batch(9)[0]}))
        else:
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            method.attach(optimizer)
            train(net, optimizer, range(3))
            consolidate(method, net)
            train(net, optimizer, range(3, 6))
        importance = [method.importance(p) for p in net.parameters()]
        results.append([*(p.detach() for p in net.parameters()), *importance, *getattr(method, "path", ())])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*results, strict=True))


def test_si_counts_no_replacement_as_a_step_whichever_hook_is_first() -> None:
    paths = []
    for engine_first in (True, False):
        net = make_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        si = gnt.SI(net, 0.5)
        engine = gnt.GnT(
            net,
            optimizer,
            replacement_rate=0.2,
            maturity_threshold=1,
            follow=[si],
            generator=torch.Generator().manual_seed(0),
        )
        for each in (engine.attach, lambda si=si, opt=optimizer: si.attach(opt))[:: 1 if engine_first else -1]:
            each()
        train(net, optimizer, range(8))
        paths.append(si.path)
    for a, b in zip(*paths, strict=True):
        torch.testing.assert_close(a, b)


def test_protection_has_its_formula_and_keeps_costly_units() -> None:
    net = make_net()
    ewc = gnt.EWC(net, 1.0)
    engine = gnt.GnT(net, protect=ewc, follow=[ewc])
    group = engine.groups[0]
    assert ewc.protected(group) is None
    ewc.consolidate(net, batch(0)[0])
    weight = net[2].weight.detach()
    cost = 0.5 * (ewc.importance(net[2].weight) * weight**2).sum(0)
    relative = 10 * cost / cost.mean()
    found = ewc.protected(group)
    assert found is not None
    torch.testing.assert_close(found, relative / (1 + relative))
    assert ewc.protected(group) is found
    net(batch(0)[0])
    engine.replace([cost.argmax()[None], torch.empty(0, dtype=torch.int64)])
    again = ewc.protected(group)
    assert again is not None
    assert again[cost.argmax()] == 0.0


def test_protection_is_that_of_new_tensors_in_the_place_of_freed_ones() -> None:
    """A freed tensor and the next one often have one id and one version."""
    group = gnt.GnT(make_net()).groups[0]
    (slot,) = group.outgoing
    costs = UnitCosts()
    for _ in range(20):
        values = [torch.rand_like(slot.weight) for _ in range(2)]
        found = costs.of(group, [(slot, *values)])
        expected = UnitCosts().of(group, [(slot, *values)])
        assert found is not None
        assert expected is not None
        assert torch.equal(found, expected)
        assert costs.of(group, [(slot, *values)]) is found
        del values[:]
    values = [torch.ones_like(slot.weight) for _ in range(2)]
    assert costs.of(group, [(slot, *values)]) is not None
    values[0].zero_()
    assert costs.of(group, [(slot, *values)]) is None


def test_heads_without_importance_get_no_gradient() -> None:
    net = make_net()
    head = nn.Linear(8, 2).double()
    ewc = gnt.EWC([*net.parameters(), *head.parameters()], 1.0)
    ewc.consolidate(nn.ModuleList([net, head]), batch(0)[0], output=lambda x: net(x))
    move(net)
    ewc.backward()
    assert all(p.grad is None for p in head.parameters())
    assert all(p.grad is not None for p in net.parameters())


def test_si_pulls_back_weights_that_the_loss_of_the_present_task_does_not_reach() -> None:
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    si = gnt.SI(net, 0.5).attach(optimizer)
    train(net, optimizer, range(3))
    si.consolidate()
    move(net)
    expected = [2 * 0.5 * si.importance(p) * (p - mu) for p, mu in zip(net.parameters(), si.anchors, strict=True)]
    net.zero_grad()
    net[0](batch(0)[0]).sum().backward()
    of_loss = gradients(net)
    si.backward()
    for found, loss_part, penalty_part in zip(gradients(net), of_loss, expected, strict=True):
        torch.testing.assert_close(found, (loss_part + penalty_part).detach())
    assert gradients(net)[4].any()
    assert not of_loss[4].any()


def test_misuse_is_refused() -> None:
    net = make_net()
    optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"this SGD does not have parameter 2.weight of EWC \(4 of 6 are missing\)"):
        gnt.EWC(net, 1.0).attach(optimizer)
    with pytest.raises(TypeError, match=r"attach takes a torch.optim.Optimizer, got int"):
        gnt.EWC(net, 1.0).attach(3)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ewc = gnt.EWC(net, 1.0).attach(optimizer)
    with pytest.raises(RuntimeError, match=r"this EWC is attached to a SGD: detach\(\) it"):
        ewc.attach(optimizer)
    ewc.consolidate(net, batch(0)[0])
    (net(batch(1)[0]).sum() + ewc()).backward()
    with pytest.raises(RuntimeError, match="it would count twice"):
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"SI.step\(\) needs SI.backward\(\)"):
        gnt.SI(net, 1.0).step()
    with pytest.raises(ValueError, match="is of other parameters"):
        gnt.EWC([net[0].weight], 1.0).load_state_dict(gnt.EWC([net[0].weight, net[0].bias], 1.0).state_dict())
    state = ewc.state_dict()
    state["importance"][0][0, 0] = -1.0
    with pytest.raises(ValueError, match=r"with a value of -1"):
        ewc.load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "none"}, "mode must be one of 'separate', 'online', got 'none'"),
        ({"decay": 0.5}, "decay needs mode='online'"),
        ({"decay": 1.5, "mode": "online"}, r"decay must be in \[0, 1\], got 1.5"),
        ({"fisher": "batch"}, "fisher must be one of 'exact', 'sample', 'empirical', got 'batch'"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
        ({"samples": 0}, "samples must be an integer >= 1, got 0"),
        ({"strength": -1.0}, "strength must be a finite number >= 0"),
    ],
)
def test_settings_out_of_range_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gnt.EWC(make_net(), **{"strength": 1.0, **settings})
    with pytest.raises(ValueError, match="damping must be a finite number > 0, got 0"):
        gnt.SI(make_net(), 1.0, damping=0)
