"""Optimizers and wrappers of other packages: known by name, registered, or refused with the name in the error."""

from __future__ import annotations

import copy

import accelerate
import lion_pytorch.cautious_lion
import lion_pytorch.foreach
import muon
import pytest
import pytorch_optimizer
import schedulefree
import torch
import torch.nn.functional as F
import transformers
from accelerate.state import AcceleratorState, GradientState
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import gnt
from gnt.optim import CBPAdam
from gnt.replacement.optimizer_state import STATE_RESETS
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, full_state, mlp, replaced, train


def matrices_and_others(net):
    """Parameters for Muon, which takes matrices only, and the others."""
    parameters = list(net.parameters())
    return [p for p in parameters if p.ndim == 2], [p for p in parameters if p.ndim != 2]


def muon_with_adam(net):
    matrices, others = matrices_and_others(net)
    groups = [{"params": matrices, "use_muon": True, "lr": 0.01}, {"params": others, "use_muon": False, "lr": 0.01}]
    return muon.SingleDeviceMuonWithAuxAdam(groups)


KNOWN = {
    "SGDScheduleFree": lambda net: schedulefree.SGDScheduleFree(net.parameters(), lr=0.05),
    "SGDScheduleFree, not foreach": lambda net: schedulefree.SGDScheduleFree(net.parameters(), lr=0.05, foreach=False),
    "AdamWScheduleFree": lambda net: schedulefree.AdamWScheduleFree(net.parameters(), lr=0.01, weight_decay=0.01),
    "RAdamScheduleFree": lambda net: schedulefree.RAdamScheduleFree(net.parameters(), lr=0.01),
    "lion_pytorch.Lion": lambda net: lion_pytorch.Lion(net.parameters(), lr=1e-3),
    "lion_pytorch.foreach.Lion": lambda net: lion_pytorch.foreach.Lion(net.parameters(), lr=1e-3),
    "lion_pytorch.cautious_lion.Lion": lambda net: lion_pytorch.cautious_lion.Lion(net.parameters(), lr=1e-3),
    "pytorch_optimizer.Lion": lambda net: pytorch_optimizer.Lion(net.parameters(), lr=1e-3),
    "AdaBelief": lambda net: pytorch_optimizer.AdaBelief(net.parameters(), lr=0.01, ams_bound=True),
    "SingleDeviceMuonWithAuxAdam": muon_with_adam,
}
EACH = pytest.mark.parametrize("name", KNOWN)
SCHEDULE_FREE = pytest.mark.parametrize("name", [name for name in KNOWN if "ScheduleFree" in name])


def seeded():
    return torch.Generator().manual_seed(5)


def attached(name, **settings):
    net = mlp()
    optimizer = KNOWN[name](net)
    if "ScheduleFree" in name:
        optimizer.train()
    engine = gnt.GnT(net, optimizer, generator=seeded(), **{**FREQUENT_REPLACEMENT, **settings}).attach()
    return net, optimizer, engine


def unit_masks(net, units):
    """For each parameter, a mask of the elements that belong to ``units`` of the first hidden layer."""
    masks = {p: torch.zeros_like(p, dtype=torch.bool) for p in net.parameters()}
    masks[net[0].weight][units] = True
    masks[net[0].bias][units] = True
    masks[net[2].weight][:, units] = True
    return masks


def elementwise_state(optimizer, param):
    return {k: v for k, v in optimizer.state[param].items() if isinstance(v, torch.Tensor) and v.shape == param.shape}


@EACH
def test_exactly_the_state_of_replaced_units_is_reset(name):
    net, optimizer, engine = attached(name, replacement_rate=0.0)
    train(net, optimizer, None, range(6))
    before = {p: copy.deepcopy(elementwise_state(optimizer, p)) for p in net.parameters()}
    bias = net[2].bias.detach().clone()
    assert sum(len(state) for state in before.values()) >= 4
    masks = unit_masks(net, [1, 4])
    assert all(value[mask].any() for p, mask in masks.items() for value in before[p].values() if mask.any())
    engine.replace([torch.tensor([1, 4]), torch.tensor([], dtype=torch.long)])
    for p, mask in masks.items():
        for key, value in elementwise_state(optimizer, p).items():
            initial = p.detach() if key == "z" else torch.zeros_like(p)
            assert torch.equal(value[mask], initial[mask]), key
            moved = net[2].bias.detach() - bias if p is net[2].bias and key == "z" else torch.zeros_like(p)
            assert torch.equal(value[~mask], (before[p][key] + moved)[~mask]), key
    assert not torch.equal(net[2].bias, bias)


@EACH
def test_training_with_many_replacements_resumes_bit_for_bit(name):
    net, optimizer, engine = attached(name)
    train(net, optimizer, None, range(12))
    assert min(replaced(engine)) > 3
    assert all(p.isfinite().all() for p in net.parameters())
    resumed = attached(name)
    resumed[0].load_state_dict(net.state_dict())
    resumed[1].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for run in (resumed, (net, optimizer)):
        train(run[0], run[1], None, range(12, 20))
    assert_same(full_state(*resumed), full_state(net, optimizer, engine))


@SCHEDULE_FREE
def test_schedule_frees_averaged_network_has_the_replaced_units(name):
    net, optimizer, engine = attached(name, replacement_rate=0.0)
    train(net, optimizer, None, range(10))
    units = torch.tensor([0, 5])
    optimizer.eval()
    averaged = {p: p.detach().clone() for p in net.parameters()}
    optimizer.train()
    y = {p: p.detach().clone() for p in net.parameters()}
    engine.replace([units, torch.tensor([], dtype=torch.long)])
    after = {p: p.detach().clone() for p in net.parameters()}
    optimizer.eval()
    for p, mask in unit_masks(net, units).items():
        assert torch.equal(p[mask], after[p][mask])
        moved = after[p] - y[p] if p is net[2].bias else 0  # bias transfer moves the average by the same amount
        torch.testing.assert_close(p[~mask], (averaged[p] + moved)[~mask], rtol=1e-4, atol=1e-5)
    assert not net[2].weight[:, units].any()
    optimizer.train()
    for p in net.parameters():
        torch.testing.assert_close(p.detach(), after[p], rtol=1e-4, atol=1e-5)


@SCHEDULE_FREE
def test_switching_schedule_free_to_eval_and_back_does_not_affect_training(name):
    evaluated, plain = attached(name), attached(name)
    for t in range(12):
        train(evaluated[0], evaluated[1], None, range(t, t + 1))
        evaluated[1].eval()
        with torch.no_grad():
            evaluated[0](batch(t)[0])
        evaluated[1].train()
        train(plain[0], plain[1], None, range(t, t + 1))
    for a, b in zip(evaluated[2].groups, plain[2].groups, strict=True):
        assert_same(a.state.age, b.state.age)
        torch.testing.assert_close(a.state.utility, b.state.utility, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(dict(evaluated[0].state_dict()), dict(plain[0].state_dict()), rtol=1e-3, atol=1e-4)


REFUSED = {
    "Adafactor": lambda net: transformers.Adafactor(net.parameters()),
    "Gravity": lambda net: pytorch_optimizer.Gravity(net.parameters()),
    "CAME": lambda net: pytorch_optimizer.CAME(net.parameters()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unknown_optimizers_are_refused_with_their_name_and_a_remedy(name):
    net = mlp()
    with pytest.raises(TypeError, match=rf"state of {name} cannot be reset.*schedulefree, timm.*register_state_reset"):
        gnt.GnT(net, REFUSED[name](net))


def test_the_wrapper_of_schedule_free_is_refused():
    """It keeps the average in the inner optimizer's state, under a key that is not known for that optimizer."""
    net = mlp()
    inner = torch.optim.SGD(net.parameters(), lr=0.1)
    wrapper = schedulefree.ScheduleFreeWrapper(inner)
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer or None, got ScheduleFreeWrapper"):
        gnt.GnT(net, wrapper)
    gnt.GnT(net, inner).attach()
    wrapper.train()
    with pytest.raises(TypeError, match=r"SGD keeps state 'z' of shape .*register_state_reset"):
        train(net, wrapper, None, range(1))


def test_a_registered_optimizer(monkeypatch):
    monkeypatch.setitem(STATE_RESETS, pytorch_optimizer.Gravity, {})
    gnt.register_state_reset(pytorch_optimizer.Gravity, {"v": 0.0})
    net = mlp()
    optimizer = pytorch_optimizer.Gravity(net.parameters(), lr=1e-3)
    engine = gnt.GnT(net, optimizer, replacement_rate=0.0).attach()
    train(net, optimizer, None, range(4))
    assert optimizer.state[net[0].weight]["v"][2].any()
    engine.replace([torch.tensor([2]), torch.tensor([], dtype=torch.long)])
    assert not optimizer.state[net[0].weight]["v"][2].any()
    assert not optimizer.state[net[2].weight]["v"][:, 2].any()
    assert optimizer.state[net[0].weight]["v"][3].any()


def accelerated(when, optimizer, steps=1):
    """A setup with `Accelerator` and gradient accumulation; the engine is built before or after ``prepare``."""
    AcceleratorState._reset_state(reset_partial_state=True)  # shared by all accelerators of a process
    GradientState._reset_state()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=steps)
    net = mlp()
    if optimizer == "CBPAdam":
        inner = CBPAdam(net, lr=0.01, generator=seeded(), **FREQUENT_REPLACEMENT)
        net, outer = accelerator.prepare(net, inner)
        return accelerator, net, outer, inner.gnt
    inner = torch.optim.AdamW(net.parameters(), lr=0.01)
    if when == "before":
        engine = gnt.GnT(net, inner, generator=seeded(), **FREQUENT_REPLACEMENT).attach()
    net, outer = accelerator.prepare(net, inner)
    if when == "after":
        engine = gnt.GnT(net, outer, generator=seeded(), **FREQUENT_REPLACEMENT).attach()
    return accelerator, net, outer, engine


@pytest.mark.parametrize(("when", "optimizer"), [("before", "AdamW"), ("after", "AdamW"), ("before", "CBPAdam")])
@pytest.mark.parametrize("steps", [1, 3])
def test_accelerate(when, optimizer, steps):
    accelerator, net, outer, engine = accelerated(when, optimizer, steps)
    for t in range(12):
        for micro in range(steps):
            x, y = batch(10 * t + micro)
            with accelerator.accumulate(net):
                accelerator.backward(F.mse_loss(net(x), y))
                outer.step()
                outer.zero_grad()
    plain = mlp()
    if optimizer == "CBPAdam":
        own = CBPAdam(plain, lr=0.01, generator=seeded(), **FREQUENT_REPLACEMENT)
        other = own.gnt
    else:
        own = torch.optim.AdamW(plain.parameters(), lr=0.01)
        other = gnt.GnT(plain, own, generator=seeded(), **FREQUENT_REPLACEMENT).attach()
    for t in range(12):
        for micro in range(steps):
            x, y = batch(10 * t + micro)
            (F.mse_loss(plain(x), y) / steps).backward()
        own.step()
        own.zero_grad()
    assert engine.updates == 12
    assert_same(full_state(net, None, engine), full_state(plain, None, other))
    assert "gnt" in outer.state_dict()
    assert min(replaced(engine)) > 3


def test_averaged_copies_are_not_recorded_and_not_changed():
    net = mlp()
    optimizer = CBPAdam(net, lr=0.01, generator=seeded(), **FREQUENT_REPLACEMENT)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for t in range(10):
        ema.train()(batch(100 + t)[0]).sum()  # a training forward of the copy is not recorded
        before = full_state(ema)["net"]
        train(net, optimizer, None, range(t, t + 1))
        assert_same(full_state(ema)["net"], before)
        ema.update_parameters(net)
    other = mlp()
    plain = CBPAdam(other, lr=0.01, generator=seeded(), **FREQUENT_REPLACEMENT)
    train(other, plain, None, range(10))
    assert_same(full_state(net, optimizer), full_state(other, plain))
    assert optimizer.gnt.updates == 10


class WrappedOptimizer:
    """A wrapper that delegates to an optimizer."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __getattr__(self, name):
        return getattr(self.optimizer, name)


def test_an_attached_engine_works_with_a_wrapped_optimizer():
    net, other = mlp(), mlp()
    inner = torch.optim.SGD(net.parameters(), lr=0.05)
    engine = gnt.GnT(net, inner, generator=seeded(), **FREQUENT_REPLACEMENT).attach()
    own = torch.optim.SGD(other.parameters(), lr=0.05)
    plain = gnt.GnT(other, own, generator=seeded(), **FREQUENT_REPLACEMENT)
    train(net, WrappedOptimizer(inner), None, range(12))
    train(other, own, plain, range(12))
    assert_same(full_state(net, None, engine), full_state(other, None, plain))


def test_muon_for_matrices_only():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 2, bias=False))
    optimizer = muon.SingleDeviceMuon(net.parameters(), lr=0.01)
    engine = gnt.GnT(net, optimizer, generator=seeded(), **FREQUENT_REPLACEMENT).attach()
    train(net, optimizer, None, range(10))
    assert min(replaced(engine)) > 3
    engine.replace([torch.tensor([3])])
    assert not optimizer.state[net[0].weight]["momentum_buffer"][3].any()
    assert not optimizer.state[net[2].weight]["momentum_buffer"][:, 3].any()
