"""`extend` of `EWC`, `SI` and `MAS`: heads that are added later, as if they had been there from the start."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from tests.helpers.small_runs import assert_same

METHODS: dict[str, Any] = {
    "EWC": lambda params: gnt.EWC(params, 5.0),
    "MAS": lambda params: gnt.MAS(params, 0.5),
    "SI": lambda params: gnt.SI(params, 0.5),
}


class Net(nn.Module):
    """A trunk with heads; the heads come first in the order of parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleList([nn.Linear(6, 3)])
        self.trunk = nn.Linear(4, 6)
        self.later = nn.Linear(6, 3)
        del self._modules["later"]
        self.task = 0

    def add_head(self) -> list[nn.Parameter]:
        torch.manual_seed(1)
        self.heads.append(nn.Linear(6, 3))
        return list(self.heads[-1].parameters())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.heads[self.task](self.trunk(x).tanh())
        return out


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, 4, generator=generator), torch.randint(3, (12,), generator=generator)


def learn_task(net: Net, optimizer: torch.optim.Optimizer, method: Any, task: int, *, ends: bool = True) -> None:
    net.task = task
    for step in range(3):
        x, y = batch(10 * task + step)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    if ends:
        method.consolidate() if isinstance(method, gnt.SI) else method.consolidate(net, batch(99)[0])


@pytest.mark.parametrize("by_list", [False, True])
@pytest.mark.parametrize("kind", METHODS)
def test_a_head_that_is_added_later_takes_part_as_one_from_the_start(kind: str, by_list: bool) -> None:
    ends = []
    for later in (False, True):
        net = Net()
        if not later:
            net.add_head()
        parameters = [*net.trunk.parameters(), *net.heads.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        method = METHODS[kind](parameters if by_list else net).attach(optimizer)
        learn_task(net, optimizer, method, 0)
        learn_task(net, optimizer, method, 0, ends=False)
        if later:
            new = net.add_head()
            before = copy.deepcopy(method.state_dict())
            with pytest.raises(ValueError, match=rf"does not have parameter .* of {kind} \(2 of 2 are missing\)"):
                method.extend(new if by_list else net)
            assert_same(method.state_dict(), before)
            optimizer.add_param_group({"params": new})
            names = method.extend(new if by_list else net)
            assert names == (["4", "5"] if by_list else ["heads.1.weight", "heads.1.bias"])
            assert method.tasks == 1
            assert not any(method.importance(p).any() for p in new)
            method.backward()
            method.discard() if kind == "SI" else None
            assert all(p.grad is None for p in new)
        learn_task(net, optimizer, method, 1)
        learn_task(net, optimizer, method, 0)
        assert all(method.importance(p).any() for p in net.heads.parameters())
        ends.append((dict(net.state_dict()), method.state_dict()))
        METHODS[kind](parameters + new if by_list and later else parameters if by_list else net).load_state_dict(
            ends[0][1]
        )
    assert_same(*ends)


def test_extend_is_refused_where_it_would_be_wrong_and_nothing_changes() -> None:
    net = Net()
    ewc, listed, si = gnt.EWC(net, 1.0), gnt.EWC(list(net.trunk.parameters()), 1.0), gnt.SI(net, 1.0)
    net(batch(0)[0]).sum().backward()
    si.backward()
    grown = net.add_head()
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    refused: list[tuple[type[Exception], str, Callable[[], Any], Any]] = [
        (TypeError, "this EWC takes the module that it was built from, got list", lambda: ewc.extend(grown), ewc),
        (TypeError, "takes a list of the new parameters, got Net", lambda: listed.extend(net), listed),
        (ValueError, "the module does not have parameter heads.0.weight", lambda: ewc.extend(net.trunk), ewc),
        (ValueError, "EWC was given an empty list of parameters", lambda: listed.extend([]), listed),
        (ValueError, "number 0, that this EWC has already", lambda: listed.extend([net.trunk.bias]), listed),
        (ValueError, r"parameter 0 is frozen", lambda: listed.extend([frozen]), listed),
        (RuntimeError, r"between steps, not between backward\(\) and step\(\) of this SI", lambda: si.extend(net), si),
    ]  # fmt: skip
    for error, message, call, method in refused:
        before = copy.deepcopy(method.state_dict())
        with pytest.raises(error, match=message):
            call()
        assert_same(method.state_dict(), before)
    with pytest.raises(ValueError, match=r"parameter heads.1.weight of net is not one of this EWC.*call extend\(net\)"):
        ewc.consolidate(net, batch(0)[0])
    assert listed.extend(grown) == ["2", "3"]
    assert ewc.extend(net) == ["heads.1.weight", "heads.1.bias"]
    assert ewc.extend(net) == []
