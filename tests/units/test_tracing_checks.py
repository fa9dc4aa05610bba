"""The checks in `consumer_checks` and `replacement_checks` fail for wrong groups and wrong replacements."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gnt
from gnt.units import Slot, UnitGroup
from tests.units.tracing.consumer_checks import check_consumers
from tests.units.tracing.model_under_test import ModelUnderTest
from tests.units.tracing.replacement_checks import check_replacement


class Net(nn.Module):
    """Gated channels with two consumers: one after pooling, with a block of pixels each, one by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.Conv2d(2, 4, 1)
        self.norm, self.flat, self.wide = nn.BatchNorm2d(4), nn.Linear(16, 3), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.norm(self.value(x)) * torch.sigmoid(self.gate(x))
        return self.flat(F.max_pool2d(h, 2).flatten(1)), self.wide(torch.cat([x, h], 1))


@pytest.fixture
def subject() -> ModelUnderTest:
    return ModelUnderTest(Net(), (torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)),))


def group_of(net: nn.Module) -> UnitGroup:
    return UnitGroup(
        "gate", 4,
        incoming=(Slot("gate", net.gate, 4, activation=("sigmoid", None)), Slot("value", net.value, 4)),
        outgoing=(Slot("flat", net.flat, 4, dim=1, block=4), Slot("wide", net.wide, 4, dim=1, offset=2, tap=1)),
        scales=(Slot("norm", net.norm, 4),),
    )  # fmt: skip


def test_a_right_group_passes_the_checks(subject):
    group = group_of(subject.model)
    check_consumers(subject, group)
    check_replacement(subject, [group])


CONSUMERS = {
    "a consumer missing": lambda net, group: {"outgoing": group.outgoing[:1]},
    "none at all": lambda net, group: {"outgoing": ()},
    "a block too small": lambda net, group: {
        "outgoing": (dataclasses.replace(group.outgoing[0], block=2), group.outgoing[1])
    },
    "positions elsewhere": lambda net, group: {
        "outgoing": (
            dataclasses.replace(group.outgoing[0], positions=torch.arange(16).view(4, 4).T.contiguous()),
            group.outgoing[1],
        )
    },
    "no offset": lambda net, group: {"outgoing": (group.outgoing[0], dataclasses.replace(group.outgoing[1], offset=0))},
    "one that reads something else": lambda net, group: {
        "outgoing": (*group.outgoing, Slot("wide", net.wide, 4, dim=1, positions=torch.zeros(4, 1, dtype=torch.int64)))
    },
}


@pytest.mark.parametrize("fault", CONSUMERS)
def test_wrong_consumers_fail(subject, fault):
    group = group_of(subject.model)
    wrong = dataclasses.replace(group, **CONSUMERS[fault](subject.model, group))
    with pytest.raises(AssertionError):
        check_consumers(subject, wrong)


def test_a_replacement_that_changes_the_function_fails(subject):
    """Resetting the norm's entries shifts a feature that a missing consumer still reads."""
    group = group_of(subject.model)
    unread = dataclasses.replace(group, outgoing=group.outgoing[:1])
    with pytest.raises(AssertionError, match="changed the output"):
        check_replacement(subject, [unread])


def test_a_replacement_that_changes_other_parameters_fails(subject, monkeypatch):
    replace = gnt.GnT.replace

    def replace_and_change_bias(engine, *args):
        replace(engine, *args)
        with torch.no_grad():
            subject.model.wide.bias[0] += 1e-9

    monkeypatch.setattr(gnt.GnT, "replace", replace_and_change_bias)
    with pytest.raises(AssertionError, match=r"changed the output|wide\.bias changed outside"):
        check_replacement(subject, [group_of(subject.model)])


def test_a_replacement_without_transfer_of_means_fails(subject, monkeypatch):
    monkeypatch.setattr(gnt.replacement.reinitialization, "transfer_mean", lambda *_: None)
    with pytest.raises(AssertionError, match="the output moved by"):
        check_replacement(subject, [group_of(subject.model)])
