"""State that a forward keeps outside parameters and buffers: tracing finds what is stored there, and restores it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import types
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

import gnt
from tests.units.tracing.group_checks import reasons

LAST: dict[str, object] = {}
LATEST: object = None
X = torch.ones(2, 4)


class Slotted:
    __slots__ = ("h",)


@dataclasses.dataclass
class Memory:
    h: object = None
    old: list[object] = dataclasses.field(default_factory=list)


def set_latest(h: Tensor) -> None:
    global LATEST
    LATEST = h


class Net(nn.Module):
    """Stores the units of fc1 by a given function."""

    shared: ClassVar[dict[str, object]] = {}

    def __init__(self, state, store) -> None:
        super().__init__()
        self.state, self.store = state, store
        self.fc1, self.fc2, self.head = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc1(x))
        self.store(self.state, h)
        return self.head(torch.relu(self.fc2(h)))


def variable_of_a_function():
    kept = None

    def store(state, h):
        nonlocal kept
        kept = h

    return store, lambda: kept


STORE, KEPT = variable_of_a_function()
# what the network keeps, how its forward stores the units there, and how they are read
STORED = {
    "a dict in a dict": ({"rnn": {"h": None}}, lambda s, h: s["rnn"].update(h=h), lambda s: s["rnn"]["h"]),
    "lists of lists": ([[[]]], lambda s, h: s[0][0].append(h), lambda s: s[0][0]),
    "a dict in a tuple": (({},), lambda s, h: s[0].update(h=h), lambda s: s[0]),
    "a new key": ({"rnn": {}}, lambda s, h: s["rnn"].update(new=[h]), lambda s: s["rnn"]),
    "a namespace": (types.SimpleNamespace(h=None), lambda s, h: setattr(s, "h", h), lambda s: s.h),
    "a dataclass": ([Memory()], lambda s, h: setattr(s[0], "h", h), lambda s: s[0].h),
    "a list in a dataclass": (Memory(), lambda s, h: s.old.append(h), lambda s: s.old),
    "a deque": ({"old": collections.deque(maxlen=2)}, lambda s, h: s["old"].append(h), lambda s: list(s["old"])),
    "a defaultdict": (collections.defaultdict(list), lambda s, h: s["h"].append(h), dict),
    "slots": (Slotted(), lambda s, h: setattr(s, "h", h), lambda s: getattr(s, "h", None)),
    "a module in a list": ([nn.Identity()], lambda s, h: setattr(s[0], "h", h), lambda s: getattr(s[0], "h", None)),
    "the class": (None, lambda s, h: Net.shared.update(h=h), lambda s: Net.shared.get("h")),
    "a class attribute": (None, lambda s, h: setattr(Net, "last", h), lambda s: getattr(Net, "last", None)),
    "a global dict": (None, lambda s, h: LAST.update(h=h), lambda s: LAST.get("h")),
    "a global variable": (None, lambda s, h: set_latest(h), lambda s: LATEST),
    "a variable of a function": (None, STORE, lambda s: KEPT()),
}  # fmt: skip


@pytest.mark.parametrize("place", STORED)
def test_units_stored_at_any_depth_are_output_units_and_do_not_stay_there(place):
    state, store, read = STORED[place]
    net = Net(state, store)
    before = repr(read(state))
    groups = gnt.trace(net, X)
    assert [group.name for group in groups] == ["fc2"]
    assert reasons(groups)["fc1"] == "output units: they are stored in an attribute of the model"
    assert repr(read(state)) == before


def test_counters_and_containers_in_objects_are_restored():
    def count(state, h):
        state["n"].h = (state["n"].h or 0) + 1
        state.move_to_end("first")
        state["new"] = 1

    state = collections.OrderedDict(first=1, n=Memory())
    groups = gnt.trace(Net(state, count), X)
    assert [group.name for group in groups] == ["fc1", "fc2"]
    assert list(state) == ["first", "n"]
    assert state["n"].h is None


def test_tensors_that_were_stored_before_are_no_outputs():
    kept = {"old": [torch.ones(8)]}
    groups = gnt.trace(Net(kept, lambda state, h: h + state["old"][0]), X)
    assert [group.name for group in groups] == ["fc1", "fc2"]
    assert not isinstance(kept["old"][0], FakeTensor)


@functools.lru_cache
def mask(size: int) -> Tensor:
    return torch.ones(size)


def test_cached_functions_and_hooks_keep_no_tensors_of_a_trace():
    seen: list[Tensor] = []
    net = Net(None, lambda state, h: None)
    net.fc2.register_forward_hook(lambda module, args, output: seen.append(output) or output * mask(6))
    gnt.trace(net, X)
    assert seen == []
    assert not isinstance(mask(6), FakeTensor)
    assert not isinstance(net(X), FakeTensor)


@pytest.mark.parametrize("state", [{"rnn": {"h": torch.zeros(2, 8)}}, [Memory(torch.zeros(2, 8))]])
def test_units_written_into_a_tensor_that_is_kept_are_an_error(state):
    def write(state, h):
        (state["rnn"]["h"] if isinstance(state, dict) else state[0].h).copy_(h.detach())

    with pytest.raises(gnt.TraceError, match="is mutated in the forward method"):
        gnt.trace(Net(state, write), X)
