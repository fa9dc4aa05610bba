"""`GnT.attach`: an engine stepped by optimizer hooks equals one stepped by the training loop, bit for bit."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
import torch.nn.functional as F

import gnt
from gnt.units import StructureCheck
from tests.helpers.small_runs import (
    FREQUENT_REPLACEMENT,
    assert_same,
    batch,
    conv_net,
    full_state,
    make_run,
    mlp,
    replaced,
    train,
)
from tests.replacement.copy_methods import COPY_METHODS, copy_through_file

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adamgnt": lambda p: gnt.AdamGnT(p, lr=0.01),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


class AttachedEngine:
    """Engine argument of `train` for an attached engine: `step` only returns the replaced units."""

    def __init__(self, engine):
        self.step = lambda: engine.replaced


def build(name="sgd", net=None, **settings):
    net = net if net is not None else mlp()
    optimizer = OPTIMIZERS[name](net.parameters())
    return (
        net,
        optimizer,
        gnt.GnT(net, optimizer, generator=torch.Generator().manual_seed(5), **{**FREQUENT_REPLACEMENT, **settings}),
    )


def build_attached(name="sgd", net=None, **settings):
    net, optimizer, engine = build(name, net, **settings)
    assert engine.attach() is engine
    return net, optimizer, engine


def train_attached(net, optimizer, engine, steps):
    return train(net, optimizer, AttachedEngine(engine), steps)


@each_optimizer
def test_attached_engines_equal_a_loop_that_calls_step(name):
    manual, attached = build(name), build_attached(name)
    assert_same(train(*attached[:2], AttachedEngine(attached[2]), range(20)), train(*manual, range(20)))
    assert_same(full_state(attached[0], None, attached[2]), full_state(manual[0], None, manual[2]))
    assert_same({**attached[1].state_dict(), "gnt": None}, {**manual[1].state_dict(), "gnt": None})
    assert min(replaced(attached[2])) > 3


def test_attached_engines_equal_a_loop_for_convolutions_and_norms():
    manual, attached = build(net=conv_net()), build_attached(net=conv_net())
    assert_same(train(*attached[:2], AttachedEngine(attached[2]), range(8), 1, 8, 8), train(*manual, range(8), 1, 8, 8))
    assert_same(full_state(attached[0], None, attached[2]), full_state(manual[0], None, manual[2]))


def test_replaced_holds_the_units_of_the_latest_step():
    net, optimizer, engine = build_attached(replacement_rate=1.0, maturity_threshold=1)
    assert engine.replaced == []
    train_attached(net, optimizer, engine, range(1))
    assert [len(units) for units in engine.replaced] == [0, 0]
    train_attached(net, optimizer, engine, range(1, 2))
    assert [sorted(units.tolist()) for units in engine.replaced] == [list(range(8)), list(range(6))]


@pytest.mark.parametrize("forward", ["none", "no_grad", "eval"])
def test_steps_without_a_training_forward_change_nothing(forward):
    net, optimizer, engine = build_attached()
    train_attached(net, optimizer, engine, range(5))
    before = copy.deepcopy(engine.state_dict())
    if forward == "no_grad":
        with torch.no_grad():
            net(batch(5)[0])
    elif forward == "eval":
        net.eval()(batch(5)[0])
    optimizer.step()
    assert_same(engine.state_dict(), before)


def test_forwards_without_training_do_not_enter_the_next_update():
    (net, optimizer, engine), other = build_attached(), build_attached()
    for t in range(10):
        with torch.no_grad():
            net(batch(100 + t)[0])
        net.eval()(batch(200 + t)[0])
        train_attached(net.train(), optimizer, engine, range(t, t + 1))
    train_attached(*other, range(10))
    assert_same(full_state(net, optimizer, engine), full_state(*other))


def test_accumulated_gradients_give_one_update():
    (net, optimizer, engine), manual = build_attached(), build()
    for t in range(6):
        for n, o in ((net, optimizer), manual[:2]):
            for micro in range(3):
                x, y = batch(10 * t + micro, n=4)
                F.mse_loss(n(x), y).backward()
            torch.nn.utils.clip_grad_norm_(n.parameters(), 0.5)
            o.step()
            o.zero_grad(set_to_none=t % 2 == 0)
        manual[2].step()
    assert engine.updates == 6
    assert_same(full_state(net, None, engine), full_state(manual[0], None, manual[2]))


@pytest.mark.parametrize("losses", ["one backward", "one backward each"])
def test_several_forwards_before_their_backwards_give_one_update(losses):
    (net, optimizer, engine), manual = build_attached(), build()
    for n, o in ((net, optimizer), manual[:2]):
        each = [F.mse_loss(n(x), y) for x, y in (batch(t) for t in range(3))]
        for loss in [sum(each)] if losses == "one backward" else each:
            loss.backward()
        o.step()
    manual[2].step()
    assert_same(full_state(net, None, engine), full_state(manual[0], None, manual[2]))


@pytest.mark.parametrize("zero_grad", ["before the forward", "after the forward", "in place"])
def test_forwards_whose_gradients_were_zeroed_are_not_counted(zero_grad):
    (net, optimizer, engine), other = build_attached(), build_attached()
    x, y = batch(50)
    F.mse_loss(net(x), y).backward()
    x, y = batch(0)
    early = net(x) if zero_grad == "after the forward" else None
    optimizer.zero_grad(set_to_none=zero_grad != "in place")
    F.mse_loss(net(x) if early is None else early, y).backward()
    optimizer.step()
    train_attached(*other, range(1))
    assert_same(full_state(net, optimizer, engine), full_state(*other))


def test_steps_with_a_closure_equal_steps_without():
    (net, optimizer, engine), other = build_attached(), build_attached()

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), y)
        loss.backward()
        return loss

    for t in range(10):
        x, y = batch(t)
        assert optimizer.step(closure).ndim == 0
    train_attached(*other, range(10))
    assert_same(full_state(net, optimizer, engine), full_state(*other))


@each_optimizer
def test_a_loaded_optimizer_continues_bit_for_bit(name):
    net, optimizer, engine = build_attached(name)
    train_attached(net, optimizer, engine, range(10))
    saved = copy_through_file({"net": net.state_dict(), "opt": optimizer.state_dict()})
    assert_same(saved["opt"]["gnt"], engine.state_dict())
    fresh = build_attached(name, mlp(seed=9))
    fresh[2].generator.manual_seed(77)
    fresh[0].load_state_dict(saved["net"])
    fresh[1].load_state_dict(saved["opt"])
    assert_same(train_attached(*fresh, range(10, 20)), train_attached(net, optimizer, engine, range(10, 20)))
    assert_same(full_state(*fresh), full_state(net, optimizer, engine))


def test_state_of_another_architecture_is_refused_before_the_optimizer_changes():
    other = build_attached(net=mlp(4, 7, 6, 2))
    train_attached(*other, range(5))
    attached = build_attached()
    train_attached(*attached, range(3))
    before = full_state(*attached)
    with pytest.raises(ValueError, match="another architecture"):
        attached[1].load_state_dict(other[1].state_dict())
    assert_same(full_state(*attached), before)


def test_loading_state_without_an_engine_warns_and_keeps_the_engine_state():
    plain, attached = make_run(mlp()), build_attached()
    train(*plain, range(5))
    train_attached(*attached, range(3))
    before = copy.deepcopy(attached[2].state_dict())
    with pytest.warns(UserWarning, match="without an engine"):
        attached[1].load_state_dict(plain[1].state_dict())
    state = attached[1].state_dict()
    assert_same(state.pop("gnt"), before)
    assert_same(state["state"], plain[1].state_dict()["state"])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("make_copy", COPY_METHODS.values(), ids=COPY_METHODS)
def test_a_copy_is_independent_and_continues_like_the_original(make_copy, order):
    original = build_attached("adamgnt")
    train_attached(*original, range(8))
    reordered = make_copy([original[i] for i in order])
    copied = [reordered[order.index(i)] for i in range(3)]
    before = full_state(*original)
    replaced_by_copy = train_attached(*copied, range(8, 16))
    assert_same(full_state(*original), before)
    assert_same(train_attached(*original, range(8, 16)), replaced_by_copy)
    assert_same(full_state(*original), full_state(*copied))
    with pytest.raises(RuntimeError, match="attached already"):
        copied[2].attach()


def test_close_detaches_the_engine():
    net, optimizer, engine = build_attached()
    train_attached(net, optimizer, engine, range(5))
    before = copy.deepcopy(engine.state_dict())
    engine.close()
    train(net, optimizer, None, range(5, 8))
    assert_same(engine.state_dict(), before)
    assert "gnt" not in optimizer.state_dict()
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters())
    copied = copy.deepcopy((net, optimizer, engine))
    train(*copied[:2], None, range(8, 9))
    with pytest.raises(RuntimeError, match="closed"):
        engine.attach()


def test_deleting_engine_and_optimizer_removes_the_hooks():
    net, optimizer, engine = build_attached()
    train_attached(net, optimizer, engine, range(2))
    del optimizer, engine
    gc.collect()
    assert not any(m._forward_pre_hooks for m in net)
    net(batch(2)[0]).sum().backward()


def test_engines_that_cannot_be_attached_are_refused():
    _net, _optimizer, engine = build_attached()
    with pytest.raises(RuntimeError, match="attached already"):
        engine.attach()
    with pytest.raises(ValueError, match=r"needs the optimizer: GnT\(layers, optimizer\)"):
        gnt.GnT(mlp()).attach()
    with pytest.raises(ValueError, match="record=False"):
        build(record=False)[2].attach()


@pytest.mark.filterwarnings("ignore:the weight of '0' .* is frozen")
def test_an_engine_whose_first_layer_was_frozen_is_attached_once_and_copied():
    net, optimizer, engine = build(net=mlp(4, 8, 6, 2))
    net[0].weight.requires_grad_(False)
    engine.attach()
    assert [name for name in optimizer.state_dict() if name.startswith("gnt")] == ["gnt"]
    copied = copy.deepcopy((net, optimizer, engine))
    for run in ((net, optimizer, engine), copied):
        train_attached(*run, range(3))
        F.mse_loss(run[0](batch(3)[0]), batch(3)[1]).backward()
        run[1].zero_grad()  # features of this forward are dropped at the next backward
        train_attached(*run, range(3, 4))
        assert run[2].updates == 4
    assert_same(full_state(net, None, engine), full_state(copied[0], None, copied[2]))


def test_a_failed_attach_leaves_no_hook_behind():
    net, optimizer, engine = build()
    net[0].weight.register_post_accumulate_grad_hook = None  # so that the engine cannot watch the backward
    with pytest.raises(TypeError):
        engine.attach()
    assert "gnt" not in optimizer.state_dict()
    del net[0].weight.register_post_accumulate_grad_hook
    engine.attach()
    assert [name for name in optimizer.state_dict() if name.startswith("gnt")] == ["gnt"]


def test_an_attached_step_compares_the_network_once_and_no_tensor_with_another_value(monkeypatch):
    """Comparing a tensor with None by == takes as long as half a step of a small network."""
    net = mlp()
    optimizer = gnt.optim.CBPSGD(net, lr=0.01)
    checks = []
    is_current = StructureCheck.is_current.fget
    monkeypatch.setattr(StructureCheck, "is_current", property(lambda self: checks.append(self) or is_current(self)))

    def refused(*values):
        raise AssertionError(f"compared: {values}")

    for t in range(2):
        x, y = batch(t)
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "__eq__", refused)
            optimizer.step()
    assert len(checks) == 2
    assert optimizer.gnt.updates == 2


def test_an_explicit_step_of_an_attached_engine_says_that_it_was_made_already():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = gnt.GnT(net, optimizer).attach()
    net(torch.randn(3, 4)).square().mean().backward()
    optimizer.step()
    with pytest.raises(
        RuntimeError, match=r"this engine is attached: optimizer\.step\(\) ends with its step, so leave out"
    ):
        engine.step()
    assert engine.updates == 1
