"""`MultiHead`: heads by task and growth by classes, beside engines."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch


class Net(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.heads = nn.Linear(4, 20), gnt.MultiHead(20, outputs)

    def forward(self, x, task=None):
        return self.heads(self.hidden(x).relu(), task)


def run(net, optimizer, steps, task=None):
    for t in steps:
        optimizer.zero_grad()
        net(batch(t)[0], task).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_old_outputs_are_equal_bit_for_bit_when_a_head_grows(bias, dtype):
    torch.manual_seed(0)
    heads, x = gnt.MultiHead(33, {"a": 3, 7: 2}, bias=bias).to(dtype), torch.randn(17, 33, dtype=dtype)
    before, parameters = heads(x, "a"), list(heads.parameters())
    for more in (1, 30, 200):
        new = heads.grow(more, task="a")
        assert new.weight.dtype == dtype
        assert heads(x, "a")[:, :3].equal(before)
    assert heads.num_outputs("a") == 234
    assert heads(x, 7).equal(heads(x, "7"))
    assert heads.tasks == ["a", "7"]
    assert {id(p) for p in parameters} <= {id(p) for p in heads.parameters()}


@pytest.mark.parametrize("how", ["grow", "add"])
def test_an_attached_engine_goes_on_with_further_outputs(how):
    net, x = Net(2 if how == "grow" else [2, 2]), batch(0)[0]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    first = [(x,)] if how == "grow" else [(x, 0), (x, 1)]
    engine = gnt.GnT(gnt.trace(net, examples=first), optimizer, **FREQUENT_REPLACEMENT).attach()
    run(net, optimizer, range(6), None if how == "grow" else 0)
    state, replaced = engine.groups[0].state.age.clone(), engine.groups[0].state.replaced
    assert replaced > 0
    new = net.heads.grow(3) if how == "grow" else net.heads.add(2, 3)
    optimizer.add_param_group({"params": new.parameters()})
    engine.rebind(gnt.trace(net, examples=[*first] if how == "grow" else [*first, (x, 2)]))
    assert engine.groups[0].state.age.equal(state)
    assert new in engine.groups[0].consumers
    run(net, optimizer, range(6, 12), None if how == "grow" else 2)
    assert engine.groups[0].state.replaced > replaced
    assert engine.updates == 12


def test_heads_that_are_not_run_are_not_trained_and_lose_only_columns_of_replaced_units():
    net, x = Net([2, 3]), batch(0)[0]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    engine = gnt.GnT(gnt.trace(net, examples=[(x, 0), (x, 1)]), optimizer, **FREQUENT_REPLACEMENT).attach()
    other = net.heads.heads["task_1"][0]
    before, replaced = copy.deepcopy(other.weight), set()
    for t in range(8):
        run(net, optimizer, [t], 0)
        replaced |= set(engine.replaced[0].tolist())
    kept = [unit for unit in range(20) if unit not in replaced]
    assert replaced
    assert_same(other.weight[:, kept].detach(), before[:, kept].detach())
    assert not other.weight[:, sorted(replaced)].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: h(torch.ones(1, 4), 5), r"task must be one of \['0', '1'\], got 5"),
        (lambda h: h(torch.ones(1, 4)), "task must be given: there are 2 heads"),
        (lambda h: h(torch.ones(1, 4), 1.0), "task must be an integer or a string, got 1.0"),
        (lambda h: h.add(1, 2), r"task 1 has a head; grow\(outputs, task=1\)"),
        (lambda h: h.add("a.b", 2), "task must not contain a dot"),
        (lambda h: h.grow(0, task=1), "outputs must be an integer >= 1, got 0"),
        (lambda h: gnt.MultiHead(0), "in_features must be an integer >= 1, got 0"),
    ],
)
def test_errors_change_nothing(call, message):
    heads = gnt.MultiHead(4, [2, 2])
    before = copy.deepcopy(dict(heads.state_dict()))
    with pytest.raises((TypeError, ValueError), match=message):
        call(heads)
    assert_same(dict(heads.state_dict()), before)
