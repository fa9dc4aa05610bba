"""`GnT.attach`: the optimizer's own hooks do, bit for bit, what a loop that calls `GnT.step` does."""

from __future__ import annotations

import copy
import gc
import io
import pickle

import pytest
import torch
import torch.nn.functional as F

import gnt
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

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adamgnt": lambda p: gnt.AdamGnT(p, lr=0.01),
}
EACH = pytest.mark.parametrize("name", OPTIMIZERS)


class Attached:
    """For `train`: nothing is left to do after the optimizer's step."""

    def __init__(self, engine):
        self.step = lambda: engine.replaced


def parts(name="sgd", net=None, **settings):
    net = net if net is not None else mlp()
    optimizer = OPTIMIZERS[name](net.parameters())
    return (
        net,
        optimizer,
        gnt.GnT(net, optimizer, generator=torch.Generator().manual_seed(5), **{**FREQUENT_REPLACEMENT, **settings}),
    )


def attached(name="sgd", net=None, **settings):
    net, optimizer, engine = parts(name, net, **settings)
    assert engine.attach() is engine
    return net, optimizer, engine


def go_on(net, optimizer, engine, steps):
    return train(net, optimizer, Attached(engine), steps)


def through_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@EACH
def test_as_a_loop_that_steps_the_engine(name):
    own, mine = parts(name), attached(name)
    assert_same(train(*mine[:2], Attached(mine[2]), range(20)), train(*own, range(20)))
    assert_same(full_state(mine[0], None, mine[2]), full_state(own[0], None, own[2]))
    assert_same({**mine[1].state_dict(), "gnt": None}, {**own[1].state_dict(), "gnt": None})
    assert min(replaced(mine[2])) > 3


def test_as_a_loop_with_convolutions_and_a_norm():
    own, mine = parts(net=conv_net()), attached(net=conv_net())
    assert_same(train(*mine[:2], Attached(mine[2]), range(8), 1, 8, 8), train(*own, range(8), 1, 8, 8))
    assert_same(full_state(mine[0], None, mine[2]), full_state(own[0], None, own[2]))


def test_replaced_is_of_the_latest_step():
    net, optimizer, engine = attached(replacement_rate=1.0, maturity_threshold=1)
    assert engine.replaced == []
    go_on(net, optimizer, engine, range(1))
    assert [len(units) for units in engine.replaced] == [0, 0]
    go_on(net, optimizer, engine, range(1, 2))
    assert [sorted(units.tolist()) for units in engine.replaced] == [list(range(8)), list(range(6))]


@pytest.mark.parametrize("forward", ["none", "no_grad", "eval"])
def test_only_a_training_forward_makes_a_step_count(forward):
    net, optimizer, engine = attached()
    go_on(net, optimizer, engine, range(5))
    before = copy.deepcopy(engine.state_dict())
    if forward == "no_grad":
        with torch.no_grad():
            net(batch(5)[0])
    elif forward == "eval":
        net.eval()(batch(5)[0])
    optimizer.step()
    assert_same(engine.state_dict(), before)


def test_forwards_without_grad_leave_no_trace_in_the_next_update():
    (net, optimizer, engine), other = attached(), attached()
    for t in range(10):
        with torch.no_grad():
            net(batch(100 + t)[0])
        net.eval()(batch(200 + t)[0])
        go_on(net.train(), optimizer, engine, range(t, t + 1))
    go_on(*other, range(10))
    assert_same(full_state(net, optimizer, engine), full_state(*other))


def test_accumulated_gradients_are_one_update():
    (net, optimizer, engine), own = attached(), parts()
    for t in range(6):
        for n, o in ((net, optimizer), own[:2]):
            for micro in range(3):
                x, y = batch(10 * t + micro, n=4)
                F.mse_loss(n(x), y).backward()
            torch.nn.utils.clip_grad_norm_(n.parameters(), 0.5)
            o.step()
            o.zero_grad(set_to_none=t % 2 == 0)
        own[2].step()
    assert engine.updates == 6
    assert_same(full_state(net, None, engine), full_state(own[0], None, own[2]))


@pytest.mark.parametrize("losses", ["one backward", "a backward each"])
def test_several_forwards_before_their_backwards_are_one_update(losses):
    (net, optimizer, engine), own = attached(), parts()
    for n, o in ((net, optimizer), own[:2]):
        each = [F.mse_loss(n(x), y) for x, y in (batch(t) for t in range(3))]
        for loss in [sum(each)] if losses == "one backward" else each:
            loss.backward()
        o.step()
    own[2].step()
    assert_same(full_state(net, None, engine), full_state(own[0], None, own[2]))


@pytest.mark.parametrize("zero_grad", ["before the forward", "after the forward", "in place"])
def test_forwards_whose_gradients_were_given_up_do_not_enter(zero_grad):
    (net, optimizer, engine), other = attached(), attached()
    x, y = batch(50)
    F.mse_loss(net(x), y).backward()
    x, y = batch(0)
    early = net(x) if zero_grad == "after the forward" else None
    optimizer.zero_grad(set_to_none=zero_grad != "in place")
    F.mse_loss(net(x) if early is None else early, y).backward()
    optimizer.step()
    go_on(*other, range(1))
    assert_same(full_state(net, optimizer, engine), full_state(*other))


def test_a_step_with_a_closure():
    (net, optimizer, engine), other = attached(), attached()

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), y)
        loss.backward()
        return loss

    for t in range(10):
        x, y = batch(t)
        assert optimizer.step(closure).ndim == 0
    go_on(*other, range(10))
    assert_same(full_state(net, optimizer, engine), full_state(*other))


@EACH
def test_a_saved_optimizer_goes_on_bit_for_bit(name):
    net, optimizer, engine = attached(name)
    go_on(net, optimizer, engine, range(10))
    saved = through_file({"net": net.state_dict(), "opt": optimizer.state_dict()})
    assert_same(saved["opt"]["gnt"], engine.state_dict())
    fresh = attached(name, mlp(seed=9))
    fresh[2].generator.manual_seed(77)
    fresh[0].load_state_dict(saved["net"])
    fresh[1].load_state_dict(saved["opt"])
    assert_same(go_on(*fresh, range(10, 20)), go_on(net, optimizer, engine, range(10, 20)))
    assert_same(full_state(*fresh), full_state(net, optimizer, engine))


def test_state_of_another_architecture_is_refused_before_the_optimizer_changed():
    other = attached(net=mlp(4, 7, 6, 2))
    go_on(*other, range(5))
    mine = attached()
    go_on(*mine, range(3))
    before = full_state(*mine)
    with pytest.raises(ValueError, match="another architecture"):
        mine[1].load_state_dict(other[1].state_dict())
    assert_same(full_state(*mine), before)


def test_state_without_an_engine_warns_and_leaves_the_engine():
    plain, mine = make_run(mlp()), attached()
    train(*plain, range(5))
    go_on(*mine, range(3))
    before = copy.deepcopy(mine[2].state_dict())
    with pytest.warns(UserWarning, match="without an engine"):
        mine[1].load_state_dict(plain[1].state_dict())
    state = mine[1].state_dict()
    assert_same(state.pop("gnt"), before)
    assert_same(state["state"], plain[1].state_dict()["state"])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_a_copy_goes_on_alike_and_on_its_own(copied, order):
    original = attached("adamgnt")
    go_on(*original, range(8))
    twin = copied([original[i] for i in order])
    twin = [twin[order.index(i)] for i in range(3)]
    before = full_state(*original)
    theirs = go_on(*twin, range(8, 16))
    assert_same(full_state(*original), before)
    assert_same(go_on(*original, range(8, 16)), theirs)
    assert_same(full_state(*original), full_state(*twin))
    with pytest.raises(RuntimeError, match="attached already"):
        twin[2].attach()


def test_close_detaches():
    net, optimizer, engine = attached()
    go_on(net, optimizer, engine, range(5))
    before = copy.deepcopy(engine.state_dict())
    engine.close()
    train(net, optimizer, None, range(5, 8))
    assert_same(engine.state_dict(), before)
    assert "gnt" not in optimizer.state_dict()
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters())
    twin = copy.deepcopy((net, optimizer, engine))
    train(*twin[:2], None, range(8, 9))
    with pytest.raises(RuntimeError, match="closed"):
        engine.attach()


def test_dropped_with_its_optimizer_it_records_no_more():
    net, optimizer, engine = attached()
    go_on(net, optimizer, engine, range(2))
    del optimizer, engine
    gc.collect()
    assert not any(m._forward_pre_hooks for m in net)
    net(batch(2)[0]).sum().backward()


def test_refusals():
    _net, _optimizer, engine = attached()
    with pytest.raises(RuntimeError, match="attached already"):
        engine.attach()
    with pytest.raises(ValueError, match=r"needs the optimizer: GnT\(layers, optimizer\)"):
        gnt.GnT(mlp()).attach()
    with pytest.raises(ValueError, match="record=False"):
        parts(record=False)[2].attach()
