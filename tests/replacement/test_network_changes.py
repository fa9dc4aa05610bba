"""Changes of a running network: each is refused by name before anything is changed, or taken into account."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, full_state, mlp


class Head(nn.Module):
    """A hidden layer with an activation module, and one head for each task."""

    def __init__(self):
        super().__init__()
        self.body, self.act = nn.Linear(4, 8), nn.ReLU()
        self.heads = nn.ModuleList([nn.Linear(8, 2)])

    def forward(self, x):
        h = self.act(self.body(x))
        return sum(head(h) for head in self.heads)


def insert(net):
    net.insert(1, nn.LayerNorm(8))


def swap_parameter(net):
    net[0].weight = nn.Parameter(net[0].weight.detach().clone())


def cut_by_data(net):
    net[2].weight.data = net[2].weight.data[:, :5]


def remove_bias(net):
    net[0].bias = None


def replace(index, layer):
    return lambda net: net.__setitem__(index, layer)


CHANGES = {
    "producer": (replace(0, nn.Linear(4, 8)), "'0' (Linear) was replaced by another Linear"),
    "consumer": (replace(2, nn.Linear(8, 6)), "'2' (Linear) was replaced by another Linear"),
    "head": (replace(4, nn.Linear(6, 5)), "'4' (Linear) was replaced by another Linear"),
    "activation": (replace(1, nn.Softmax(-1)), "'1' (ReLU) was replaced by another Softmax"),
    "inserted": (insert, "'1' is now LayerNorm"),
    "deleted": (lambda net: net.__delitem__(1), "layers were moved"),
    "parameter": (swap_parameter, "the weight of '0' (Linear) is another parameter, and SGD does not hold it"),
    "shape": (cut_by_data, "the weight of '2' (Linear) has shape (6, 5), it had (6, 8)"),
    "bias": (remove_bias, "the bias of '0' (Linear) was of shape (8,) and is None"),
    "weight_norm": (lambda net: parametrizations.weight_norm(net[0]), "the parametrization _WeightNorm computes it"),
    "old weight_norm": (lambda net: torch.nn.utils.weight_norm(net[2]), "of '2' (Linear) is no longer a plain"),
    "spectral_norm": (lambda net: parametrizations.spectral_norm(net[2]), "_SpectralNorm computes it"),
    "old spectral_norm": (lambda net: torch.nn.utils.spectral_norm(net[0]), "spectral_norm computes it; remove that"),
    "prune": (lambda net: prune.random_unstructured(net[0], "weight", 0.5), "pruning (torch.nn.utils.prune)"),
}  # fmt: skip


def build(net, layers=None, *, attach, **settings):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    engine = gnt.GnT(net if layers is None else layers, optimizer, **{**FREQUENT_REPLACEMENT, **settings})
    if attach:
        engine.attach()
    return optimizer, engine


def one_step(net, optimizer, engine, *, attached, seed=0):
    optimizer.zero_grad()
    output = net(batch(seed)[0])
    output.square().mean().backward()
    optimizer.step()
    if not attached:
        engine.step()


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_a_change_is_refused_by_name_before_anything_changes(change, message, traced, attached):
    net = mlp()
    layers = gnt.trace(net, batch(0)[0]) if traced else net
    optimizer, engine = build(net, layers, attach=attached)
    for seed in range(3):
        one_step(net, optimizer, engine, attached=attached, seed=seed)
    original = list(net)
    change(net)
    before = copy.deepcopy([each.state_dict() for each in (*original, engine)])
    if attached:
        for param in net.parameters():
            param.grad = torch.ones_like(param)
        with pytest.raises(RuntimeError, match=re.escape(message)):
            optimizer.step()
    else:
        with pytest.raises(RuntimeError, match=re.escape(message)):
            engine.step()
    with pytest.raises(RuntimeError, match=re.escape("nothing was changed; call rebind(layers)")):
        engine.replace([[0], [1]])
    assert_same([each.state_dict() for each in (*original, engine)], before)


@pytest.mark.parametrize("attached", [True, False])
def test_the_replaced_head_of_a_single_layer_network_is_named(attached):
    net = mlp(4, 8, 2)
    optimizer, engine = build(net, attach=attached)
    net[2] = nn.Linear(8, 3)
    with pytest.raises(RuntimeError, match=r"'2' \(Linear\) was replaced"):
        one_step(net, optimizer, engine, attached=attached)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: setattr(net, "act", nn.Softmax(-1)), r"'act' \(ReLU\) was replaced by another Softmax"),
        (lambda net: net.heads.append(nn.Linear(8, 2)), r"'heads.1' \(Linear\) was added"),
        (lambda net: setattr(net, "head_2", nn.Linear(8, 2)), r"'head_2' \(Linear\) was added"),
    ],
)
def test_changes_of_a_traced_model_are_refused(change, message):
    net = Head()
    optimizer, engine = build(net, gnt.trace(net, batch(0)[0]), attach=False)
    change(net)
    with pytest.raises(RuntimeError, match=message):
        one_step(net, optimizer, engine, attached=False)


def test_changes_that_concern_no_unit_are_no_obstacle():
    traced, walked = Head(), mlp()
    runs = [
        (traced, *build(traced, gnt.trace(traced, batch(0)[0]), attach=True)),
        (walked, *build(walked, attach=True)),
    ]
    traced.loss = nn.MSELoss()
    walked.append(nn.Tanh())
    for run in runs:
        swapped = next(run[0].parameters())
        swapped = nn.Parameter(swapped.detach().clone())  # the optimizer gets it, too
        run[1].param_groups[0]["params"][0] = swapped
        (run[0].body if run[0] is traced else run[0][0]).weight = swapped
        for seed in range(6):
            one_step(*run, attached=True, seed=seed)
        assert run[2].updates == 6
        assert sum(group.state.replaced for group in run[2].groups) > 0


def test_a_copy_finds_changes_of_its_own_network_only():
    net = mlp()
    optimizer, engine = build(net, attach=True)
    copied, other, _ = copy.deepcopy((net, optimizer, engine))
    copied[0] = nn.Linear(4, 8)
    one_step(net, optimizer, engine, attached=True)
    with pytest.raises(RuntimeError, match="was replaced"):
        one_step(copied, other, None, attached=True)


@pytest.mark.parametrize("between", ["norm", "none"])
def test_frozen_biases_and_norm_parameters_are_left_alone(between):
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(8).eval()] if between == "norm" else []
    net = nn.Sequential(nn.Linear(4, 8), *norm, nn.ReLU(), nn.Linear(8, 2))
    _, engine = build(net, attach=False)
    with torch.no_grad():
        for param in net.parameters():
            param.add_(0.5)
    for layer in net:
        for name, param in layer.named_parameters():
            param.requires_grad_(name == "weight" and isinstance(layer, nn.Linear))
    frozen = {name: p.clone() for name, p in net.named_parameters() if not p.requires_grad} | dict(net.named_buffers())
    frozen = copy.deepcopy(frozen)
    engine.update([torch.rand(4, 8)])
    engine.replace([[1, 2]])
    assert (net[-1].weight[:, [1, 2]] == 0).all()
    now = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    assert_same({name: now[name].detach() for name in frozen}, frozen)


def test_a_cbp_layer_acts_after_a_parameter_of_its_optimizer_was_exchanged():
    net = mlp(4, 8, 2)
    net.insert(2, gnt.CBPLinear(net[0], net[2], replacement_rate=0.5, maturity_threshold=1))
    other = [nn.Parameter(p.detach().clone()) for p in net.parameters()]
    optimizer = torch.optim.SGD(other, lr=0.1)
    optimizer.step()  # without the layer's weight
    optimizer.param_groups[0]["params"][:] = list(net.parameters())
    for seed in range(4):
        F.mse_loss(net(batch(seed)[0]), batch(seed)[1]).backward()
        optimizer.step()
    assert net[2].group.state.replaced > 0
    net[0].weight = nn.Parameter(net[0].weight.detach().clone())
    before = full_state(net)
    net(batch(0)[0]).sum().backward()
    with pytest.raises(RuntimeError, match=r"the weight of '0' \(Linear\) is another parameter, and SGD does not hold"):
        optimizer.step()
    assert_same(full_state(net), before)


def test_a_learner_refuses_before_the_optimizer_steps():
    learner = gnt.ContinualBackprop(mlp(), step_size=0.1)
    learner.learn(*batch(0))
    learner.net[0] = nn.Linear(4, 8)
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(RuntimeError, match="was replaced"):
        learner.learn(*batch(1))
    assert_same(learner.state_dict(), before)


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_frozen_group_is_left_out_and_goes_on_when_it_is_trained_again(layer, attached):
    net = mlp()
    optimizer, engine = build(net, attach=attached, replacement_rate=0.5)
    for seed in range(3):
        one_step(net, optimizer, engine, attached=attached, seed=seed)
    net[layer].weight.requires_grad_(False)
    before, counts = copy.deepcopy(net[layer].state_dict()), [group.state.replaced for group in engine.groups]
    state = copy.deepcopy(engine.groups[0].state.state_dict())
    message = rf"the weight of '{layer}' \(Linear\) is frozen .* group '0'.* until it is trained again"
    with pytest.warns(UserWarning, match=message):
        one_step(net, optimizer, engine, attached=attached)
    for seed in range(6):
        one_step(net, optimizer, engine, attached=attached, seed=seed)
    assert torch.equal(net[layer].weight, before["weight"])
    assert_same(engine.groups[0].state.state_dict(), state)
    assert (engine.updates > engine.groups[0].state.updates) == (layer == 0)  # layer 2 belongs to both groups
    assert f"0: {engine.groups[0].num_units} units, frozen (requires_grad=False): '{layer}'" in str(engine.report())
    with pytest.raises(ValueError, match="cannot be replaced while the weight of"):
        engine.replace([[0], []])
    net[layer].weight.requires_grad_(True)
    for seed in range(6):
        one_step(net, optimizer, engine, attached=attached, seed=seed)
    assert all(group.state.replaced > count for group, count in zip(engine.groups, counts, strict=True))
    assert "frozen" not in str(engine.report())
    net[layer].weight.requires_grad_(False)  # there is no second warning
    one_step(net, optimizer, engine, attached=attached)


@pytest.mark.parametrize("attached", [True, False])
def test_a_copy_leaves_out_the_group_that_is_frozen(attached):
    net = mlp()
    optimizer, engine = build(net, attach=attached, replacement_rate=0.5)
    net[0].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="the weight of '0' .* is frozen"):
        one_step(net, optimizer, engine, attached=attached)
    net, optimizer, engine = copy.deepcopy((net, optimizer, engine))
    before = net[0].weight.clone()
    with pytest.warns(UserWarning, match="the weight of '0' .* is frozen"):
        one_step(net, optimizer, engine, attached=attached)
    for seed in range(6):
        one_step(net, optimizer, engine, attached=attached, seed=seed)
    assert torch.equal(net[0].weight, before)
    assert engine.groups[0].state.updates == 0
    with pytest.raises(ValueError, match="cannot be replaced while the weight of"):
        engine.replace([[0], []])


@pytest.mark.filterwarnings("ignore:.*torch.jit:Warning")
def test_scripting_a_network_with_an_engine_names_the_remedy():
    net = mlp()
    _, engine = build(net, attach=False)
    with pytest.raises(AttributeError, match=r"torch.jit.script cannot compile .* close\(\) the engine first"):
        torch.jit.script(net)
    engine.close()
    torch.jit.script(net)
