"""CBPLinear and CBPConv: layers that replace units after the optimizer's step, never during backward."""

from __future__ import annotations

import copy
import gc
import re
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt import CBPConv, CBPLinear
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, full_state, mlp, train
from tests.replacement.copy_methods import COPY_METHODS, copy_through_file


def plain_net(seed: int = 0) -> nn.Sequential:
    """Two convolutions with a norm and pooling, flattened into two hidden linear layers; input shape (1, 8, 8)."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)),
    )


def cbp_net(seed: int = 0, **settings) -> nn.Sequential:
    """`plain_net` with a CBP layer for each group."""
    net, g = plain_net(seed), torch.Generator().manual_seed(2)
    conv1, norm, _, conv2, _, _, _, fc1, _, fc2, _, fc3 = net
    settings = {"generator": g, **FREQUENT_REPLACEMENT, **settings}
    cbp = [
        CBPConv(conv1, conv2, norms=norm, **settings),
        CBPConv(conv2, fc1, **settings),
        CBPLinear(fc1, fc2, **settings),
        CBPLinear(fc2, fc3, **settings),
    ]
    return nn.Sequential(*net[:3], cbp[0], *net[3:6], cbp[1], *net[6:9], cbp[2], *net[9:11], cbp[3], net[11])


def cbp_layers(net: nn.Module) -> list[CBPLinear | CBPConv]:
    return [module for module in net if isinstance(module, (CBPLinear, CBPConv))]


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamgnt": lambda p: gnt.AdamGnT(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


@pytest.mark.parametrize("settings", [{}, {"accumulate": False}, {"utility": "random"}])
@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_layers_equal_one_engine_over_the_same_groups(opt, settings):
    """Bit for bit, which also shows that units of all layers are selected before any is replaced."""
    net, other = cbp_net(**settings), plain_net()
    opts = [OPTIMIZERS[opt](n.parameters()) for n in (net, other)]
    engine = gnt.GnT(other, opts[1], generator=torch.Generator().manual_seed(2), **FREQUENT_REPLACEMENT, **settings)
    train(net, opts[0], None, range(12), 1, 8, 8)
    train(other, opts[1], engine, range(12), 1, 8, 8)
    assert_same([p.detach() for p in net.parameters()], [p.detach() for p in other.parameters()])
    assert_same(list(net.buffers()), list(other.buffers()))
    assert_same(opts[0].state_dict(), opts[1].state_dict())
    for layer, group in zip(cbp_layers(net), engine.groups, strict=True):
        assert group.state.replaced > 1
        assert_same(layer.group.state.state_dict(), group.state.state_dict())


def test_layers_move_units_softly_as_one_engine_does():
    settings = {"soft": gnt.SoftReplacement(rate=0.1, period=2)}
    net, other = cbp_net(**settings), plain_net()
    opts = [OPTIMIZERS["sgd"](n.parameters()) for n in (net, other)]
    engine = gnt.GnT(other, opts[1], generator=torch.Generator().manual_seed(2), **FREQUENT_REPLACEMENT, **settings)
    train(net, opts[0], None, range(6), 1, 8, 8)
    train(other, opts[1], engine, range(6), 1, 8, 8)
    assert_same([p.detach() for p in net.parameters()], [p.detach() for p in other.parameters()])
    assert [layer.group.state.replaced for layer in cbp_layers(net)] == [0] * 4


def test_layers_do_not_affect_backward_and_replace_after_the_step():
    net, other = cbp_net(replacement_rate=1.0, maturity_threshold=0), plain_net()
    opt = OPTIMIZERS["sgd"](net.parameters())
    x, y = batch(0, 1, 8, 8)
    train(net, opt, None, range(3), 1, 8, 8)
    other.load_state_dict(dict(zip(other.state_dict(), state_tensors(net), strict=True)))
    before = [layer.engine.state_dict() for layer in cbp_layers(net)]
    for n in (net, other):
        n.zero_grad()
        F.mse_loss(n(x), y).backward()
    assert_same([p.grad for p in net.parameters()], [p.grad for p in other.parameters()])
    assert_same([p.detach() for p in net.parameters()], [p.detach() for p in other.parameters()])
    assert_same([layer.engine.state_dict() for layer in cbp_layers(net)], before)
    opt.step()
    assert all(layer.engine.updates == 4 for layer in cbp_layers(net))
    assert not net[-1].weight.any()
    assert not net[0].weight.equal(other[0].weight)


def state_tensors(net: nn.Module) -> list[torch.Tensor]:
    return [value for value in net.state_dict().values() if isinstance(value, torch.Tensor)]


def test_forwards_without_training_and_steps_of_other_optimizers_change_nothing():
    net, other = cbp_net(), mlp()
    opt, other_opt = OPTIMIZERS["adam"](net.parameters()), OPTIMIZERS["adam"](other.parameters())
    train(net, opt, None, range(4), 1, 8, 8)
    before = [layer.engine.state_dict() for layer in cbp_layers(net)]
    net.eval()(batch(0, 1, 8, 8)[0])
    net.train()
    net[1].eval()
    with torch.no_grad():
        net(batch(0, 1, 8, 8)[0])
    net.train()
    opt.zero_grad()
    opt.step()
    train(other, other_opt, None, range(2))
    assert_same([layer.engine.state_dict() for layer in cbp_layers(net)], before)


def test_gradient_accumulation_gives_one_update_over_all_samples():
    net = cbp_net(replacement_rate=0.0).double()
    nets = [copy.deepcopy(net), net]
    for n, sizes in zip(nets, ([8], [5, 2, 1]), strict=True):
        n[1].eval()
        opt = torch.optim.SGD(n.parameters(), lr=0.0)
        for x in batch(0, 1, 8, 8)[0].double().split(sizes):
            n(x).sum().backward()
        opt.step()
    for a, b in zip(*map(cbp_layers, nets), strict=True):
        assert a.group.state.age.tolist() == b.group.state.age.tolist() == [1] * a.group.num_units
        torch.testing.assert_close(a.group.state.utility, b.group.state.utility)
        torch.testing.assert_close(a.group.state.mean_feature, b.group.state.mean_feature)


def test_each_of_two_optimizers_steps_its_own_layers():
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


def test_an_optimizer_without_the_consumers_parameters_is_refused():
    net = cbp_net()
    opt = OPTIMIZERS["sgd"](net[0].parameters())
    net(batch(0, 1, 8, 8)[0]).sum().backward()
    with pytest.raises(ValueError, match=r"optimizer SGD does not hold .*weight: give it the parameters of all"):
        opt.step()


def test_an_optimizer_whose_state_cannot_be_reset_is_refused():
    net = cbp_net()
    opt = torch.optim.Adafactor(net.parameters())
    net(batch(0, 1, 8, 8)[0]).sum().backward()
    with pytest.raises(TypeError, match="the state of Adafactor cannot be reset per unit"):
        opt.step()


def test_a_nan_in_one_layer_leaves_all_layers_unchanged():
    net = cbp_net()
    opt = OPTIMIZERS["sgd"](net.parameters())
    train(net, opt, None, range(4), 1, 8, 8)
    before = [layer.engine.state_dict() for layer in cbp_layers(net)]
    net(batch(4, 1, 8, 8)[0]).sum().backward()
    with torch.no_grad():
        net[-1].weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        opt.step()
    assert_same([layer.engine.state_dict() for layer in cbp_layers(net)], before)


def test_layer_state_is_saved_once_in_the_networks_state_dict():
    net = cbp_net()
    train(net, OPTIMIZERS["sgd"](net.parameters()), None, range(6), 1, 8, 8)
    state = net.state_dict()
    layer_keys = [key for key in state if key.startswith(("3.", "7.", "11.", "14."))]
    assert layer_keys == ["3._extra_state", "7._extra_state", "11._extra_state", "14._extra_state"]
    assert len(state) - len(layer_keys) == len(plain_net().state_dict())
    assert len(list(net.parameters())) == len(list(plain_net().parameters()))
    other = cbp_net(seed=5)
    other.load_state_dict(copy_through_file(state, weights_only=True))
    assert_same(dict(other.state_dict()), dict(state))


def test_a_copied_network_is_independent_of_the_original():
    net = cbp_net()
    opt = OPTIMIZERS["adam"](net.parameters())
    train(net, opt, None, range(4), 1, 8, 8)
    for make_copy in COPY_METHODS.values():
        copied = make_copy(net)
        assert_same(dict(copied.state_dict()), dict(net.state_dict()))
        assert [layer.engine.optimizer for layer in cbp_layers(copied)] == [
            None
        ] * 4  # the copy belongs to no optimizer yet
        before = full_state(copied), full_state(net)
        copied(batch(0, 1, 8, 8)[0])
        opt.step()  # the optimizer of the original, which did not run this forward
        assert [layer.engine.updates for layer in cbp_layers(copied)] == [4] * 4
        train(copied, OPTIMIZERS["adam"](copied.parameters()), None, range(3), 1, 8, 8)
        assert [layer.engine.updates for layer in cbp_layers(copied)] == [7] * 4
        assert [layer.engine.updates for layer in cbp_layers(net)] == [4] * 4
        net.load_state_dict(before[1]["net"])


def test_deleted_networks_and_optimizers_are_freed():
    net = cbp_net()
    opt = OPTIMIZERS["adam"](net.parameters())
    train(net, opt, None, range(2), 1, 8, 8)
    layer_refs = [weakref.ref(layer) for layer in cbp_layers(net)]
    optimizer_ref = weakref.ref(opt)
    del net
    gc.collect()
    assert [ref() for ref in layer_refs] == [None] * 4
    del opt
    gc.collect()
    assert optimizer_ref() is None


def test_warns_after_1000_forwards_without_a_step():
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
def test_invalid_layers_and_settings_are_refused(build, error, message):
    with pytest.raises(error, match=re.escape(message)):
        build()


def test_layers_replace_units_in_network_order_not_construction_order():
    first, second, third = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
    last = gnt.CBPLinear(second, third, replacement_rate=1.0, maturity_threshold=0)
    earlier = gnt.CBPLinear(first, second, replacement_rate=1.0, maturity_threshold=0)
    net = nn.Sequential(first, nn.ReLU(), earlier, second, nn.ReLU(), last, third)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.randn(3, 4)).square().mean().backward()
    optimizer.step()
    assert earlier.group.state.replaced == 6
    assert last.group.state.replaced == 5
    assert (second.weight != 0).all()  # drawn by the last layer, after the earlier one set its columns to zero
    assert (third.weight == 0).all()


def test_a_misplaced_layer_is_refused_in_the_forward():
    first, second = nn.Linear(4, 6), nn.Linear(6, 2)
    net = nn.Sequential(gnt.CBPLinear(first, second), first, nn.ReLU(), second)
    with pytest.raises(ValueError, match="features of group 'CBPLinear of Linear with 6 units'"):
        net(torch.randn(3, 4))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"replacement_rat": 1},
            TypeError,
            "replacement_rat: CBPLinear takes norms, activation, replacement_rate",
        ),
        ({"record": True}, TypeError, "unknown setting record"),
        ({"norms": [nn.Linear(6, 6)]}, ValueError, "norms of CBPLinear must be norms, got"),
    ],
)
def test_unknown_settings_and_invalid_norms_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        gnt.CBPLinear(nn.Linear(4, 6), nn.Linear(6, 2), **arguments)


def test_reset_parameters_starts_the_engine_anew():
    net = cbp_net()
    new = copy.deepcopy(net)
    train(net, torch.optim.SGD(net.parameters(), 0.1), None, range(10), 1, 8, 8)
    for layer, fresh in zip(net, new, strict=True):
        if isinstance(layer, (CBPConv, CBPLinear)):
            assert layer.group.state.replaced
            layer.reset_parameters()
            state, expected = layer.get_extra_state(), fresh.get_extra_state()
            for name in ("generator", "coin"):  # draws go on
                assert not torch.equal(state.pop(name), expected.pop(name))
            assert_same(state, expected)
