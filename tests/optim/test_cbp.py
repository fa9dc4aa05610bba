"""CBPSGD, CBPAdam, CBPAdamW: optimizers with an engine, in ordinary training loops."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.optim import lr_scheduler

import gnt
from gnt.optim import CBPSGD, CBPAdam, CBPAdamW
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, full_state, mlp, replaced, train

DECOUPLED = {"decoupled_weight_decay": True, "weight_decay": 1e-2}
CLASSES = {
    "sgd": (CBPSGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}, {}),
    "adam": (CBPAdam, gnt.AdamGnT, {"betas": (0.8, 0.99), "amsgrad": True}, {}),
    "adamw": (CBPAdamW, gnt.AdamGnT, {}, DECOUPLED),
}
EACH = pytest.mark.parametrize("name", CLASSES)
FUSED = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def seeded_generator():
    return torch.Generator().manual_seed(5)


def cbp(name="sgd", net=None, **settings):
    net = net if net is not None else mlp()
    kind, _, options, _ = CLASSES[name]
    return net, kind(net, lr=0.01, generator=seeded_generator(), **{**FREQUENT_REPLACEMENT, **options, **settings})


def optimizer_and_engine(name):
    net = mlp()
    _, kind, options, fixed = CLASSES[name]
    optimizer = kind(net.parameters(), lr=0.01, **options, **fixed)
    return net, optimizer, gnt.GnT(net, optimizer, generator=seeded_generator(), **FREQUENT_REPLACEMENT)


def train_on(net, optimizer, steps):
    train(net, optimizer, None, steps)
    return full_state(net, optimizer)


@EACH
def test_it_equals_the_optimizer_with_a_separate_engine(name):
    (net, optimizer), (plain, other, engine) = cbp(name), optimizer_and_engine(name)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert isinstance(optimizer, type(other))
    train(net, optimizer, None, range(20))
    train(plain, other, engine, range(20))
    state = copy.deepcopy(optimizer.state_dict())
    assert_same(state.pop("gnt"), engine.state_dict())
    assert_same([state, dict(net.state_dict())], [other.state_dict(), dict(plain.state_dict())])
    assert_same(optimizer.gnt.replaced, engine.replaced)
    assert min(replaced(engine)) > 3


@EACH
def test_without_replacement_it_equals_torch(name):
    net, optimizer = cbp(name, replacement_rate=0.0, kernels=False)
    plain = mlp()
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    other = kind(plain.parameters(), lr=0.01, **CLASSES[name][2], **({} if name == "sgd" else {"fused": True}))
    train(net, optimizer, None, range(10))
    train(plain, other, None, range(10))
    assert_same(dict(net.state_dict()), dict(plain.state_dict()))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_kernels_applies_to_engine_and_optimizer(name):
    net, optimizer = cbp(name, kernels=True)
    plain, other = cbp(name, kernels=False)
    assert optimizer.kernels
    assert optimizer.gnt.kernels
    assert not other.kernels
    for each in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert each.kernels
    train(net, optimizer, None, range(20))
    train(plain, other, None, range(20))
    assert min(replaced(optimizer.gnt)) > 3
    for param, same in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(param, same, rtol=1e-4, atol=1e-5)


@EACH
def test_a_loaded_run_continues_bit_for_bit(name):
    net, optimizer = cbp(name)
    train_on(net, optimizer, range(10))
    file = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = cbp(name, mlp(seed=3))
    fresh[1].gnt.generator.manual_seed(66)
    fresh[0].load_state_dict(saved[0])
    fresh[1].load_state_dict(saved[1])
    assert_same(train_on(*fresh, range(10, 20)), train_on(net, optimizer, range(10, 20)))


@pytest.mark.parametrize("first", ["net", "optimizer", "engine"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
@EACH
def test_a_copy_continues_equally_and_independently(name, copied, first):
    net, optimizer = cbp(name)
    train_on(net, optimizer, range(8))
    if first == "net":
        twin = copied((net, optimizer))
    elif first == "optimizer":
        twin = copied((optimizer, net))[::-1]
    else:
        twin = copied((optimizer.gnt, net, optimizer))[1:]
    assert twin[1].gnt.optimizer is twin[1]
    before = full_state(net, optimizer)
    theirs = train_on(*twin, range(8, 16))
    assert_same(full_state(net, optimizer), before)
    assert_same(train_on(net, optimizer, range(8, 16)), theirs)


def test_a_copy_of_an_optimizer_with_a_closed_engine_is_closed():
    net, optimizer = cbp()
    train_on(net, optimizer, range(4))
    optimizer.gnt.close()
    twin = copy.deepcopy((net, optimizer))
    assert_same(train_on(*twin, range(4, 6)), train_on(net, optimizer, range(4, 6)))
    assert "gnt" not in twin[1].state_dict()


SCHEDULES = {
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, gamma=0.5),
}


@EACH
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedulers_and_gradient_clipping(name, schedule):
    (net, optimizer), (plain, other, engine) = cbp(name), optimizer_and_engine(name)
    mine, theirs = SCHEDULES[schedule](optimizer), SCHEDULES[schedule](other)
    for t in range(12):
        x, y = batch(t)
        for n, o, s in ((net, optimizer, mine), (plain, other, theirs)):
            o.zero_grad()
            F.mse_loss(n(x), y).backward()
            torch.nn.utils.clip_grad_norm_(n.parameters(), 0.1)
            o.step()
            if o is other:
                engine.step()
            s.step()
    assert_same(mine.get_last_lr(), theirs.get_last_lr())
    assert_same([dict(net.state_dict()), optimizer.gnt.state_dict()], [dict(plain.state_dict()), engine.state_dict()])
    assert sum(replaced(engine)) > 3


def with_scaler(net, optimizer, steps, overflow=(), late=False):
    """Training under a GradScaler; the steps of ``overflow`` read infinite inputs, or have infinite losses."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for t in steps:
        x, y = batch(t)
        if t in overflow:
            x = torch.full_like(x, math.inf) if overflow[t] == "features" else x
            y = torch.full_like(y, math.inf) if overflow[t] == "loss" else y
        if not late:
            optimizer.zero_grad()
        loss = F.mse_loss(net(x), y)
        if late:
            optimizer.zero_grad()
        scaler.scale(loss).backward()
        if t % 2:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update(2.0**10)
    return scaler


def scaled(name):
    if name in CLASSES:
        net, optimizer = cbp(name)
        return net, optimizer, optimizer.gnt
    net = mlp()
    optimizer = FUSED[name.split()[1]](net.parameters(), lr=0.01, fused=True)
    return net, optimizer, gnt.GnT(net, optimizer, generator=seeded_generator(), **FREQUENT_REPLACEMENT).attach()


@pytest.mark.parametrize("late", [False, True], ids=["zero_grad, forward", "forward, zero_grad"])
@pytest.mark.parametrize("name", [*CLASSES, "fused sgd", "fused adam"])
def test_a_step_skipped_by_the_scaler_leaves_no_trace(name, late):
    mine, other = scaled(name), scaled(name)
    overflow = {5: "loss", 6: "features", 10: "features", 13: "loss"}
    with_scaler(mine[0], mine[1], range(20), overflow, late)
    with_scaler(other[0], other[1], [t for t in range(20) if t not in overflow], {}, late)
    assert mine[2].updates == 16
    assert_same(full_state(*mine), full_state(*other))
    assert sum(replaced(mine[2])) > 3


@pytest.mark.parametrize("name", [*CLASSES, "fused sgd", "fused adam"])
def test_a_skipped_step_replaces_no_units(name):
    net, optimizer, engine = scaled(name)
    with_scaler(net, optimizer, range(6))
    before = full_state(net, optimizer, engine)
    with_scaler(net, optimizer, range(6, 9), dict.fromkeys(range(6, 9), "loss"))
    assert engine.waiting == ("fused" not in name)  # for the others, the next backward discards them
    assert_same(full_state(net, optimizer, engine), before)


def test_parameter_groups_keep_their_options():
    net = mlp()
    groups = [{"params": net[0].parameters(), "lr": 0.5}, {"params": [*net[2].parameters(), *net[4].parameters()]}]
    optimizer = CBPSGD(net, lr=0.01, params=groups, momentum=0.9, **FREQUENT_REPLACEMENT)
    assert [(g["lr"], g["momentum"]) for g in optimizer.param_groups] == [(0.5, 0.9), (0.01, 0.9)]
    train(net, optimizer, None, range(10))
    assert min(replaced(optimizer.gnt)) > 0


def test_layers_may_be_part_of_another_module():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def forward(self, x):
            return self.body(x)

    model = Model()
    (net, other), optimizer = cbp(), CBPSGD(model, 0.01, layers=model.body, **CLASSES["sgd"][2], **FREQUENT_REPLACEMENT)
    optimizer.gnt.generator.manual_seed(5)
    train(net, other, None, range(10))
    train(model, optimizer, None, range(10))
    assert_same(dict(model.body.state_dict()), dict(net.state_dict()))


@pytest.mark.parametrize(
    ("name", "setting"),
    [("sgd", "betas"), ("adam", "momentum"), ("adamw", "decoupled_weight_decay"), ("sgd", "record")],
)
def test_unknown_settings_are_refused_with_a_list_of_the_known_ones(name, setting):
    allowed = "momentum.*replacement_rate" if name == "sgd" else "betas.*weight_decay.*replacement_rate"
    with pytest.raises(TypeError, match=f"unknown setting {setting}: {CLASSES[name][0].__name__} takes .*{allowed}"):
        cbp(name, **{setting: True})


def test_parameters_without_layers_are_refused():
    with pytest.raises(TypeError, match=r"CBPSGD takes the network first, got generator. Use CBPSGD\(net, lr"):
        CBPSGD(mlp().parameters(), lr=0.1)


def test_an_engine_belongs_to_one_optimizer():
    net = mlp()
    optimizer = CBPSGD(net)
    with pytest.raises(RuntimeError, match="attached to its optimizer"):
        optimizer.gnt.optimizer = torch.optim.SGD(net.parameters())
    with pytest.raises(ValueError, match="CBPSGD has its own engine: pass it to Backprop"):
        gnt.ContinualBackprop(net, opt=optimizer)
    gnt.Backprop(net, opt=optimizer).learn(torch.randn(3, 4), torch.randn(3, 2))
    assert optimizer.gnt.updates == 1


def test_a_refused_batch_leaves_no_features_in_the_engine():
    net = mlp()
    learner = gnt.Backprop(net, opt=CBPSGD(net))
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        learner.learn(torch.full((3, 4), math.nan), torch.randn(3, 2))
    assert not learner.opt.gnt.waiting
    learner.learn(torch.randn(3, 4), torch.randn(3, 2))
    assert learner.opt.gnt.updates == 1


@EACH
def test_the_engine_sees_what_an_overridden_step_does_to_the_weights(name):
    class Clipped(CLASSES[name][0]):
        def step(self, closure=None):
            loss = super().step(closure)
            for param in self.param_groups[0]["params"]:
                param.data.clamp_(-0.1, 0.1)  # without a count of versions
            return loss

    runs = []
    for kernels in (None, False):
        net = mlp().double()
        optimizer = Clipped(net, lr=0.01, generator=seeded_generator(), kernels=kernels, **FREQUENT_REPLACEMENT)
        units = []
        for t in range(30):
            train(net, optimizer, None, range(t, t + 1))
            units.append([each.tolist() for each in optimizer.gnt.replaced])
        runs.append((units, [group.state.utility for group in optimizer.gnt.groups]))
    assert runs[0][0] == runs[1][0]
    assert sum(map(len, runs[0][0])) > 10
    torch.testing.assert_close(runs[0][1], runs[1][1])


def test_adamw_stays_adamw_with_a_state_of_adam():
    def weights_after(kind, loaded):
        net = mlp()
        own = {"replacement_rate": 0.0} if kind is CBPAdamW else {}
        optimizer = kind(net if own else net.parameters(), lr=0.01, **own)
        if loaded:
            adam = torch.optim.Adam(mlp().parameters(), lr=0.01, weight_decay=0.5)
            if own:
                with pytest.warns(UserWarning, match="saved without an engine"):
                    optimizer.load_state_dict(adam.state_dict())
            else:
                optimizer.load_state_dict(adam.state_dict())
        train(net, optimizer, None, range(20))
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    ours, torchs = (weights_after(kind, True) for kind in (CBPAdamW, torch.optim.AdamW))
    torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("assign", [lambda o: setattr(o.gnt, "kernels", False), lambda o: setattr(o, "kernels", False)])
def test_kernels_may_be_changed_for_engine_and_optimizer(assign):
    states = []
    for change in (False, True):
        net, optimizer = cbp("adam", kernels=False if not change else None)
        if change:
            assign(optimizer)
        assert optimizer.kernels is optimizer.gnt.kernels is False
        states.append(train_on(net, optimizer, range(8)))
    assert_same(*states)
    net, optimizer = cbp("adam")
    train(net, optimizer, None, range(3))
    assign(optimizer)
    train(net, optimizer, None, range(3, 5))
    assert not any(type(stepper).__name__ == "KernelStep" for stepper, _ in optimizer._plans[0]._steppers)
