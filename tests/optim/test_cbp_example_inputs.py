"""CBP optimizers of models that are not a sequence of layers: units are found with example inputs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt.optim import CBPSGD, CBPAdam, CBPAdamW
from gnt.units import WalkError
from tests.helpers.data_parallel import data_parallel
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, full_state, mlp, replaced, train


class Residual(nn.Module):
    """Two residual blocks on 4 features, with dropout. The forward has an optional argument ``scale``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)
        self.c, self.d = nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x, scale=1.0):
        x = x + F.dropout(self.b(F.relu(self.a(x))), 0.1, self.training)
        x = x + scale * self.d(F.gelu(self.c(x)))
        return self.head(x)


X = batch(0)[0]


def seeded_generator():
    return torch.Generator().manual_seed(5)


def group_names(optimizer):
    return [group.name for group in optimizer.gnt.groups]


EXAMPLES = {
    "tensor": (CBPSGD, X),
    "tuple": (CBPAdam, (X, 0.5)),
    "list": (CBPAdamW, [X]),
    "dict": (CBPAdamW, {"scale": 0.5, "x": X}),
}


@pytest.mark.parametrize("form", EXAMPLES)
def test_example_inputs_find_the_same_units_as_trace(form):
    kind, example = EXAMPLES[form]
    net, other = Residual(), Residual()
    mine = kind(net, 0.01, example_inputs=example, generator=seeded_generator(), **FREQUENT_REPLACEMENT)
    theirs = kind(other, 0.01, layers=gnt.trace(other, X), generator=seeded_generator(), **FREQUENT_REPLACEMENT)
    assert group_names(mine) == group_names(theirs)
    assert [group.num_units for group in mine.gnt.groups] == [8, 6]
    for n, optimizer in ((net, mine), (other, theirs)):
        torch.manual_seed(1)
        train(n, optimizer, None, range(10))
    assert_same(full_state(net, mine), full_state(other, theirs))
    assert min(replaced(mine.gnt)) > 1


def test_a_copy_continues_equally():
    net = Residual().eval()
    optimizer = CBPAdamW(net, example_inputs=X, **FREQUENT_REPLACEMENT)
    for module in net.modules():
        module.training = not isinstance(module, Residual)  # no dropout, but features are recorded
    train(net, optimizer, None, range(4))
    twins = [copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))]
    for each in twins:
        train(*each, None, range(4, 8))
    assert optimizer.gnt.updates == 4
    train(net, optimizer, None, range(4, 8))
    for each in twins:
        assert_same(full_state(*each), full_state(net, optimizer))


def test_include_and_exclude_select_groups_by_name():
    first, second = (group.name for group in gnt.trace(Residual(), X))
    for chosen in ({"include": first}, {"include": [first]}, {"exclude": second}):
        assert group_names(CBPAdamW(Residual(), example_inputs=X, **chosen)) == [first]


def test_a_sequential_is_traced_if_example_inputs_are_given():
    net = nn.Sequential(Residual(), nn.ReLU(), nn.Linear(2, 2))
    assert [group.num_units for group in CBPSGD(net, example_inputs=X).gnt.groups][:2] == [8, 6]


def test_construction_does_not_change_the_network():
    net = Residual().eval()
    net.c.train()
    before, modes = full_state(net), [module.training for module in net.modules()]
    optimizer = CBPAdamW(net, example_inputs=X, generator=seeded_generator())
    assert_same(full_state(net), before)
    assert [module.training for module in net.modules()] == modes
    assert not optimizer.gnt.waiting
    assert all(parameter.grad is None for parameter in net.parameters())


WRAPPERS = {"compile": lambda net: torch.compile(net, backend="eager"), "DataParallel": data_parallel}


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("make", [mlp, Residual])
def test_wrapped_networks_are_opened(make, wrap):
    net, other = make(), make()
    wrapped = WRAPPERS[wrap](net)
    example = {"example_inputs": X} if make is Residual else {}
    mine = CBPAdamW(wrapped, generator=seeded_generator(), **example, **FREQUENT_REPLACEMENT)
    theirs = CBPAdamW(other, generator=seeded_generator(), **example, **FREQUENT_REPLACEMENT)
    for n, optimizer in ((wrapped, mine), (other, theirs)):
        torch.manual_seed(1)
        train(n, optimizer, None, range(6))
    assert_same(full_state(net, mine), full_state(other, theirs))
    assert group_names(mine) == group_names(theirs)


@pytest.mark.parametrize("net", [Residual(), nn.Sequential(Residual(), nn.Linear(2, 2)), nn.Linear(4, 2)])
def test_a_network_that_cannot_be_walked_is_refused_with_advice(net):
    with pytest.raises(WalkError, match=r"example_inputs=.*layers=\[\.\.\.\]"):
        CBPAdamW(net)


def test_the_advice_is_not_given_for_explicit_layers():
    with pytest.raises(WalkError, match="no hidden layer") as refusal:
        CBPAdamW(Residual(), layers=[nn.Linear(2, 2)])
    assert "example_inputs" not in str(refusal.value)


REFUSED = {
    "example_inputs and include would be ignored: layers already selects": {
        "layers": mlp(),
        "example_inputs": X,
        "include": "a",
    },
    "include would be ignored: they select among units found by example_inputs": {"include": "a"},
    "exclude would be ignored": {"exclude": "a"},
    "example_inputs must be a tensor, a tuple or list .* got int": {"example_inputs": 3},
}


@pytest.mark.parametrize("message", REFUSED)
def test_arguments_that_would_be_ignored_are_refused(message):
    with pytest.raises(TypeError, match=message):
        CBPAdamW(Residual(), **REFUSED[message])


@pytest.mark.parametrize("given", [{"example_inputs": X[:, :3]}, {"example_inputs": X, "activation": "tanh"}])
def test_errors_of_trace_are_raised_before_anything_changes(given):
    net = Residual()
    before = full_state(net)
    with pytest.raises(ValueError, match=r"inputs do not fit|activation='tanh' would be ignored"):
        CBPAdamW(net, generator=seeded_generator(), **given)
    assert_same(full_state(net), before)
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("name", ["include", "exclude", "activation", "model"])
def test_input_names_that_are_arguments_of_trace_are_refused(name):
    with pytest.raises(TypeError, match=f"example_inputs contains {name}, an argument of gnt.trace itself: .* a tuple"):
        CBPAdamW(Residual(), example_inputs={"x": torch.randn(1, 4), name: 1.0})
