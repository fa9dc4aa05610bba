"""Features that an in-place operation overwrites after their consumer has read them."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gnt
from gnt.importance import Importance
from tests.helpers.small_runs import assert_same

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


class Skip(nn.Module):
    """Under autocast, ``skip`` saves a cast copy of h for the backward, so that h may be overwritten after it."""

    def __init__(self, *, inplace: bool, twice: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.act = nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(inplace=inplace)
        self.skip, self.out, self.second = (nn.Linear(6, 2) for _ in range(3))
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.body(x)).float()
        y = self.skip(h)
        if self.twice:
            y = y + self.second(h.view(h.shape))
        return self.out(self.act(h)) + y


def forward_and_backward(net: nn.Module) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net(X).square().mean()
    loss.backward()


def train(net: nn.Module, reader: Any, steps: int, forwards: int = 1) -> None:
    for _ in range(steps):
        net.zero_grad()
        for _ in range(forwards):
            forward_and_backward(net)
        reader.step() if isinstance(reader, gnt.GnT) else reader.update()


def test_copies_are_kept_after_the_first_update() -> None:
    net = Skip(inplace=True)
    engine = gnt.GnT(gnt.trace(net, X), torch.optim.SGD(net.parameters(), lr=0.0), replacement_rate=0.0)
    with pytest.warns(UserWarning, match="'body'.* overwritten in place after their consumer has read them"):
        train(net, engine, 1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        h = net.norm(net.body(X)).float()
    state = engine.groups[0].state
    torch.testing.assert_close(state.corrected_mean_features[1], h.relu().mean(0))
    assert (state.corrected_mean_features[0] == 0).all()
    assert state.missed[:, 0].tolist() == [1, 0]
    train(net, engine, 3)
    torch.testing.assert_close(state.corrected_mean_features, torch.stack([h.mean(0), h.relu().mean(0)]))


@pytest.mark.parametrize("utility", ["contribution", "gradient_activation"])
@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("forwards", [1, 3])
def test_the_importance_is_that_of_a_network_that_overwrites_nothing(utility: str, twice: bool, forwards: int) -> None:
    values = []
    for inplace in (True, False):
        net = Skip(inplace=inplace, twice=twice)
        groups = gnt.trace(net, X)
        # ``second`` reads the same memory as ``skip``, and counts once with it
        taps = {"skip": 0, "second": 0, "out": 1}
        groups[0].outgoing = tuple(dataclasses.replace(slot, tap=taps[slot.name]) for slot in groups[0].outgoing)
        importance = Importance(list(groups), utility)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(net, importance, 1, forwards)
        group = importance.groups[0]
        group.state.restart(torch.arange(6))
        train(net, importance, 2, forwards)
        values.append((importance.values, group.state.corrected_mean_features))
    assert_same(*values)


def test_a_group_of_which_all_is_overwritten_is_left_out_once() -> None:
    net = Skip(inplace=True)
    groups = gnt.trace(net, X)
    groups[0].outgoing = groups[0].outgoing[:1]
    engine = gnt.GnT(list(groups), torch.optim.SGD(net.parameters(), lr=0.0), replacement_rate=0.0)
    before = copy.deepcopy(engine.state_dict())
    with pytest.warns(UserWarning, match="are left out of this update"):
        train(net, engine, 1)
    assert_same(engine.state_dict(), before)
    train(net, engine, 2)
    assert engine.updates == 2
