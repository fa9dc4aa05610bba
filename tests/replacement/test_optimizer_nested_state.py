"""State nested in containers and objects, in wrapped optimizers, and in tensors without operations on single units."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from gnt import AdamGnT, GnT, register_state_reset
from gnt.replacement.optimizer_state import STATE_RESETS


class Moments:
    """State of one parameter as an object, with slots and an inner dictionary."""

    __slots__ = ("__dict__", "__m")

    def __init__(self, param: Tensor) -> None:
        self.__m = torch.ones_like(param)
        self.inner = {"v": [torch.ones_like(param)], "count": torch.tensor(3.0), "owner": self, "param": param}

    def tensors(self) -> list[Tensor]:
        return [self.__m, *self.inner["v"]]


class NoUnits(Tensor):
    """Tensor as those of quantised optimizers: can be read and copied, but not indexed."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if "index" in getattr(func, "__name__", ""):
            raise NotImplementedError(f"NoUnits does not implement {func.__name__}")
        return super().__torch_function__(func, types, args, kwargs or {})


class Custom(Optimizer):
    """Makes state with ``make(param)`` and changes no weights."""

    def __init__(self, params, make) -> None:
        super().__init__(params, {"lr": 0.5})
        self.make = make

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for param in (p for options in self.param_groups for p in options["params"]):
            made = self.make(param)
            if isinstance(made, dict):
                self.state[param].update(made)
            else:
                self.state[param] = made


class Wrapper(Optimizer):
    """Holds an inner optimizer, as Lookahead and SAM do."""

    def __init__(self, inner: Optimizer, *, share: bool = False, in_list: bool = False) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = [inner] if in_list else inner
        if share:
            self.state = inner.state

    @torch.no_grad()
    def step(self, closure=None) -> None:
        (self.inner[0] if isinstance(self.inner, list) else self.inner).step()
        for param in (p for options in self.param_groups for p in options["params"]):
            self.state[param].setdefault("slow", param.detach().clone() + 1)


@pytest.fixture(autouse=True)
def _registry():
    known = dict(STATE_RESETS)
    yield
    STATE_RESETS.clear()
    STATE_RESETS.update(known)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def stepped(net: nn.Module, optimizer: Optimizer) -> GnT:
    engine = GnT(net, optimizer, record=False)
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    return engine


def assert_reset(net: nn.Module, tensors_of, value: float = 0.0) -> None:
    """Unit 3 has the initial value, and no other unit does."""
    for index, units in ((0, lambda t: t), (2, lambda t: t.T)):
        for tensor in map(units, tensors_of(net[index].weight)):
            assert torch.all(tensor[3] == value)
            assert not torch.any(tensor[:3] == value)


NESTED = {
    "entry of the outermost key": ({"blocks": 0.0}, lambda p: {"blocks": [{"m": torch.ones_like(p)}]}),
    "path with a position": ({"blocks.0.m": 0.0}, lambda p: {"blocks": [{"m": torch.ones_like(p)}]}),
    "path with any position": ({"blocks.*.m": 0.0}, lambda p: {"blocks": ({"m": torch.ones_like(p)},)}),
    "object": ({"_Moments__m": 0.0, "inner.v": "lr"}, Moments),
}


@pytest.mark.parametrize(("resets", "make"), NESTED.values(), ids=NESTED)
def test_nested_state_is_reset_for_replaced_units_only(resets, make):
    register_state_reset(Custom, resets)
    net = network()
    optimizer = Custom(net.parameters(), make)
    stepped(net, optimizer).replace([torch.tensor([3])])
    if make is Moments:
        assert_reset(net, lambda p: optimizer.state[p].tensors()[:1])
        assert_reset(net, lambda p: optimizer.state[p].tensors()[1:], 0.5)
        assert optimizer.state[net[0].weight].inner["count"] == 3
    else:
        assert_reset(net, lambda p: [optimizer.state[p]["blocks"][0]["m"]])


def expanded(param: Tensor) -> Tensor:
    return torch.ones(()).expand(param.shape)


def inference(param: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.ones(param.shape)


REFUSED = {
    "tensor in a dictionary in a list": (
        lambda p: {"b": [{"m": torch.ones_like(p)}]},
        r"'b' \(list\) with .*'b\.0\.m'",
    ),
    "name known on top, nested": (lambda p: {"b": {"m": torch.ones_like(p)}}, r"'b' \(dict\) with a tensor 'b\.m'"),
    "object": (lambda p: {"b": Moments(p)}, r"'b' \(Moments\) with a tensor 'b\.inner\.v\.0' of shape \(5, 3\)"),
    "object as the whole state": (Moments, r"'inner' .*'inner\.v\.0' of shape \(5, 3\)"),
    "other shape": (lambda p: {"m": [torch.ones(len(p))]}, r"'m' \(list\) with a tensor 'm\.0' of shape \(5,\)"),
    "function that holds a tensor": (lambda p: {"f": functools.partial(len, [p + 1])}, r"'f' \(partial\)"),
    "array": (lambda p: {"a": p.detach().numpy()}, r"'a' \(ndarray\), in which gnt cannot look"),
    "tensor without indexing": (
        lambda p: {"m": torch.ones_like(p).as_subclass(NoUnits)},
        r"'m' for 0\.weight in a tensor \(NoUnits, torch\.float32\).*: NotImplementedError: NoUnits does not implement",
    ),
    "nested tensor without indexing": (lambda p: {"m": [torch.ones_like(p).as_subclass(NoUnits)]}, r"'m\.0'.*NoUnits"),
    "sparse": (lambda p: {"m": torch.ones_like(p).to_sparse()}, r"'m' for 0\.weight in a tensor"),
    "expanded": (lambda p: {"m": expanded(p)}, "it is expanded"),
    "made in inference mode": (lambda p: {"m": inference(p)}, "inference mode"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_state_that_cannot_be_reset_is_refused_before_anything_changes(make, message):
    register_state_reset(Custom, {"m": 0.0})
    net = network()
    engine = stepped(net, Custom(net.parameters(), make))
    before = copy.deepcopy([net.state_dict(), engine.state_dict()])
    with pytest.raises(TypeError, match=f"Custom keeps state {message}" if "'" in message else message):
        engine.replace([torch.tensor([3])])
    assert str([net.state_dict(), engine.state_dict()]) == str(before)


@pytest.mark.parametrize("share", [False, True])
def test_the_state_of_a_wrapped_optimizer_is_reset_too(share):
    register_state_reset(Wrapper, {"slow": 7.0})
    net = network()
    inner = SGD(net.parameters(), lr=0.1, momentum=0.9)
    optimizer = Wrapper(inner, share=share, in_list=share)
    stepped(net, optimizer).replace([torch.tensor([3])])
    assert_reset(net, lambda p: [inner.state[p]["momentum_buffer"]])
    assert_reset(net, lambda p: [optimizer.state[p]["slow"]], 7.0)


def test_a_wrapped_optimizer_that_resets_itself_does_so():
    register_state_reset(Wrapper, {"slow": 7.0})
    net = network()
    inner = AdamGnT(net.parameters())
    stepped(net, Wrapper(inner)).replace([torch.tensor([3])])
    assert_reset(net, lambda p: [inner.state[p]["exp_avg"]])


def test_wrapped_optimizers_that_are_not_known_are_refused_by_name():
    register_state_reset(Wrapper, {"slow": 7.0})
    net = network()
    with pytest.raises(TypeError, match=r"Wrapper holds an optimizer Custom: the state of Custom cannot be reset"):
        GnT(net, Wrapper(Custom(net.parameters(), lambda p: {})))


@pytest.mark.parametrize("place", ["attribute", "state", "option"])
def test_tensors_kept_beside_the_state_of_a_parameter_are_refused(place):
    net = network()
    optimizer = SGD(net.parameters(), lr=0.1)
    copies = [[p.detach().clone() for p in net.parameters()]]
    if place == "attribute":
        optimizer.slow = copies
    elif place == "state":
        optimizer.state["slow"] = copies
    else:
        optimizer.param_groups[0]["slow"] = copies
    with pytest.raises(TypeError, match=rf"SGD keeps a tensor of shape \(5, 3\), .* in its {place} 'slow\.0\.0'"):
        GnT(net, optimizer)
