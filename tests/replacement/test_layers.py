"""CBPLinear and CBPConv: the engine as layers, which act after the optimizer's step and never during backward."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import re
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt import CBPConv, CBPLinear
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, full_state, mlp, train


def plain(seed: int = 0, **bias) -> nn.Sequential:
    """Conv, norm, pooling, flatten, two hidden linear layers; reads (1, 8, 8)."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 5, 3, **bias), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)),
    )


def with_layers(seed: int = 0, **settings) -> nn.Sequential:
    """The same, with a layer for each group; one stands before the flatten."""
    net, g = plain(seed), torch.Generator().manual_seed(2)
    conv1, norm, _, conv2, _, _, _, fc1, _, fc2, _, fc3 = net
    settings = {"generator": g, **FREQUENT_REPLACEMENT, **settings}
    cbp = [
        CBPConv(conv1, conv2, norms=norm, **settings),
        CBPConv(conv2, fc1, **settings),
        CBPLinear(fc1, fc2, **settings),
        CBPLinear(fc2, fc3, **settings),
    ]
    return nn.Sequential(*net[:3], cbp[0], *net[3:6], cbp[1], *net[6:9], cbp[2], *net[9:11], cbp[3], net[11])


def of(net: nn.Module) -> list[CBPLinear | CBPConv]:
    return [module for module in net if isinstance(module, (CBPLinear, CBPConv))]


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamgnt": lambda p: gnt.AdamGnT(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


@pytest.mark.parametrize("settings", [{}, {"accumulate": False}, {"utility": "random"}])
@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_layers_are_an_engine_over_the_same_list(opt, settings):
    """Bit for bit: so all are tested before any unit is regenerated."""
    net, other = with_layers(**settings), plain()
    opts = [OPTIMIZERS[opt](n.parameters()) for n in (net, other)]
    engine = gnt.GnT(other, opts[1], generator=torch.Generator().manual_seed(2), **FREQUENT_REPLACEMENT, **settings)
    train(net, opts[0], None, range(12), 1, 8, 8)
    train(other, opts[1], engine, range(12), 1, 8, 8)
    assert_same([p.detach() for p in net.parameters()], [p.detach() for p in other.parameters()])
    assert_same(list(net.buffers()), list(other.buffers()))
    assert_same(opts[0].state_dict(), opts[1].state_dict())
    for layer, group in zip(of(net), engine.groups, strict=True):
        assert group.state.replaced > 1
        assert_same(layer.group.state.state_dict(), group.state.state_dict())


def test_backward_sees_no_layer_and_changes_nothing():
    net, other = with_layers(replacement_rate=1.0, maturity_threshold=0), plain()
    opt = OPTIMIZERS["sgd"](net.parameters())
    x, y = batch(0, 1, 8, 8)
    train(net, opt, None, range(3), 1, 8, 8)
    other.load_state_dict(dict(zip(other.state_dict(), _tensors(net), strict=True)))
    before = [layer.engine.state_dict() for layer in of(net)]
    for n in (net, other):
        n.zero_grad()
        F.mse_loss(n(x), y).backward()
    assert_same([p.grad for p in net.parameters()], [p.grad for p in other.parameters()])
    assert_same([p.detach() for p in net.parameters()], [p.detach() for p in other.parameters()])
    assert_same([layer.engine.state_dict() for layer in of(net)], before)
    opt.step()
    assert all(layer.engine.updates == 4 for layer in of(net))
    assert not net[-1].weight.any()
    assert not net[0].weight.equal(other[0].weight)


def _tensors(net: nn.Module) -> list[torch.Tensor]:
    return [value for value in net.state_dict().values() if isinstance(value, torch.Tensor)]


def test_forwards_that_do_not_learn_and_steps_of_other_optimizers_leave_no_trace():
    net, other = with_layers(), mlp()
    opt, others = OPTIMIZERS["adam"](net.parameters()), OPTIMIZERS["adam"](other.parameters())
    train(net, opt, None, range(4), 1, 8, 8)
    before = [layer.engine.state_dict() for layer in of(net)]
    net.eval()(batch(0, 1, 8, 8)[0])
    net.train()
    net[1].eval()
    with torch.no_grad():
        net(batch(0, 1, 8, 8)[0])
    net.train()
    opt.zero_grad()
    opt.step()
    train(other, others, None, range(2))
    assert_same([layer.engine.state_dict() for layer in of(net)], before)


def test_gradient_accumulation_is_one_update_of_all_samples():
    nets = [copy.deepcopy(net := with_layers(replacement_rate=0.0).double()), net]
    for n, sizes in zip(nets, ([8], [5, 2, 1]), strict=True):
        n[1].eval()
        opt = torch.optim.SGD(n.parameters(), lr=0.0)
        for x in batch(0, 1, 8, 8)[0].double().split(sizes):
            n(x).sum().backward()
        opt.step()
    for a, b in zip(*map(of, nets), strict=True):
        assert a.group.state.age.tolist() == b.group.state.age.tolist() == [1] * a.group.num_units
        torch.testing.assert_close(a.group.state.utility, b.group.state.utility)
        torch.testing.assert_close(a.group.state.mean_feature, b.group.state.mean_feature)


def test_two_optimizers_each_act_for_their_own_layers():
    a, b, c, d = (nn.Linear(n, m) for n, m in ((4, 8), (8, 6), (6, 8), (8, 2)))
    first, second = CBPLinear(a, b, **FREQUENT_REPLACEMENT), CBPLinear(c, d, **FREQUENT_REPLACEMENT)
    net = nn.Sequential(a, nn.ReLU(), first, b, nn.ReLU(), c, nn.ReLU(), second, d)
    body, head = OPTIMIZERS["sgd"](net[:4].parameters()), OPTIMIZERS["adam"](net[5:].parameters())
    for t in range(6):
        x, y = batch(t)
        net.zero_grad()
        F.mse_loss(net(x), y).backward()
        body.step()
        assert (first.engine.updates, second.engine.updates) == (t + 1, t)
        head.step()
        assert (first.engine.updates, second.engine.updates) == (t + 1, t + 1)
    assert (first.engine.optimizer, second.engine.optimizer) == (body, head)
    assert first.group.state.replaced
    assert second.group.state.replaced


def test_an_optimizer_without_the_consumer_is_told():
    net = with_layers()
    opt = OPTIMIZERS["sgd"](net[0].parameters())
    net(batch(0, 1, 8, 8)[0]).sum().backward()
    with pytest.raises(ValueError, match=r"optimizer SGD does not hold .*weight: give it the parameters of all"):
        opt.step()


def test_an_optimizer_whose_state_cannot_be_reset_is_told():
    net = with_layers()
    opt = torch.optim.Adafactor(net.parameters())
    net(batch(0, 1, 8, 8)[0]).sum().backward()
    with pytest.raises(TypeError, match="the state of Adafactor cannot be reset per unit"):
        opt.step()


def test_a_nan_in_one_layer_changes_none():
    net = with_layers()
    opt = OPTIMIZERS["sgd"](net.parameters())
    train(net, opt, None, range(4), 1, 8, 8)
    before = [layer.engine.state_dict() for layer in of(net)]
    net(batch(4, 1, 8, 8)[0]).sum().backward()
    with torch.no_grad():
        net[-1].weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        opt.step()
    assert_same([layer.engine.state_dict() for layer in of(net)], before)


def test_state_is_saved_once_in_the_networks_state_dict():
    net = with_layers()
    train(net, OPTIMIZERS["sgd"](net.parameters()), None, range(6), 1, 8, 8)
    state = net.state_dict()
    own = [key for key in state if key.startswith(("3.", "7.", "11.", "14."))]
    assert own == ["3._extra_state", "7._extra_state", "11._extra_state", "14._extra_state"]
    assert len(state) - len(own) == len(plain().state_dict())
    assert len(list(net.parameters())) == len(list(plain().parameters()))
    other = with_layers(seed=5)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same(dict(other.state_dict()), dict(state))


def copies(net: nn.Module) -> list[nn.Module]:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return [copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False)]


def test_a_copied_network_goes_its_own_way():
    net = with_layers()
    opt = OPTIMIZERS["adam"](net.parameters())
    train(net, opt, None, range(4), 1, 8, 8)
    for copied in copies(net):
        assert_same(dict(copied.state_dict()), dict(net.state_dict()))
        assert [layer.engine.optimizer for layer in of(copied)] == [None] * 4  # a copy of its state is no use
        before = full_state(copied), full_state(net)
        copied(batch(0, 1, 8, 8)[0])
        opt.step()  # the original's, whose forward it was not
        assert [layer.engine.updates for layer in of(copied)] == [4] * 4
        train(copied, OPTIMIZERS["adam"](copied.parameters()), None, range(3), 1, 8, 8)
        assert [layer.engine.updates for layer in of(copied)] == [7] * 4
        assert [layer.engine.updates for layer in of(net)] == [4] * 4
        net.load_state_dict(before[1]["net"])


def test_networks_that_are_gone_are_not_kept_alive():
    net = with_layers()
    opt = OPTIMIZERS["adam"](net.parameters())
    train(net, opt, None, range(2), 1, 8, 8)
    alive = [weakref.ref(layer) for layer in of(net)]
    optimizer = weakref.ref(opt)
    del net
    gc.collect()
    assert [layer() for layer in alive] == [None] * 4
    del opt
    gc.collect()
    assert optimizer() is None


def test_many_forwards_without_a_step_are_told():
    fc1, fc2 = nn.Linear(1, 2), nn.Linear(2, 1)
    net = nn.Sequential(fc1, nn.ReLU(), CBPLinear(fc1, fc2), fc2)
    for _ in range(999):
        net(torch.ones(1, 1))
    with pytest.warns(UserWarning, match="1000 forwards .* are waiting for an update"):
        net(torch.ones(1, 1))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: CBPLinear(nn.Conv2d(1, 2, 3), nn.Linear(2, 2)), TypeError, "in_layer of CBPLinear must be one of"),
        (lambda: CBPLinear(nn.Linear(2, 2), nn.ReLU()), TypeError, "must be one of Linear, got ReLU"),
        (lambda: CBPConv(nn.Linear(2, 2), nn.Linear(2, 2)), TypeError, "one of Conv1d, Conv2d, Conv3d, got Linear"),
        (lambda: CBPLinear(nn.Linear(2, 3), nn.Linear(4, 2)), ValueError, "reads 4 inputs"),
        (lambda: CBPLinear(nn.Linear(2, 3), nn.Linear(3, 2), norms=nn.LayerNorm(4)), ValueError, "not fit 3 units"),
        (lambda: CBPLinear(nn.Linear(2, 3), nn.Linear(3, 2), activation="rellu"), ValueError, "known are"),
        (lambda: CBPLinear(nn.Linear(2, 3), nn.Linear(3, 2), replacement_rate=2), ValueError, "replacement_rate must"),
        (lambda: CBPLinear(nn.Linear(2, 3), nn.Linear(3, 2), maturity=2), TypeError, "maturity"),
        (lambda: CBPLinear(fc := nn.Linear(2, 2), fc), ValueError, "one module used twice"),
    ],
)
def test_layers_that_cannot_be_built(build, error, message):
    with pytest.raises(error, match=re.escape(message)):
        build()


def test_layers_act_in_the_order_of_the_network_whatever_their_order_of_construction():
    first, second, third = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
    later = gnt.CBPLinear(second, third, replacement_rate=1.0, maturity_threshold=0)
    sooner = gnt.CBPLinear(first, second, replacement_rate=1.0, maturity_threshold=0)
    net = nn.Sequential(first, nn.ReLU(), sooner, second, nn.ReLU(), later, third)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.randn(3, 4)).square().mean().backward()
    optimizer.step()
    assert sooner.group.state.replaced == 6
    assert later.group.state.replaced == 5
    assert (second.weight != 0).all()  # fresh draws of the later layer, not the zeros of the sooner one
    assert (third.weight == 0).all()


def test_a_layer_in_the_wrong_place_is_told_in_the_forward():
    first, second = nn.Linear(4, 6), nn.Linear(6, 2)
    net = nn.Sequential(gnt.CBPLinear(first, second), first, nn.ReLU(), second)
    with pytest.raises(ValueError, match="features of group 'CBPLinear of Linear with 6 units'"):
        net(torch.randn(3, 4))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"replacement_rat": 1}, TypeError, "unknown setting replacement_rat: CBPLinear takes replacement_rate"),
        ({"record": True}, TypeError, "unknown setting record"),
        ({"norms": [nn.Linear(6, 6)]}, ValueError, "norms of CBPLinear must be norms, got"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        gnt.CBPLinear(nn.Linear(4, 6), nn.Linear(6, 2), **arguments)
