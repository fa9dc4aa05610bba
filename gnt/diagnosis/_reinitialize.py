"""New initial values for all parameters of a network, and the tensors of a network as a whole."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gnt.diagnosis._generators import seed_generators
from gnt.initialization import SUPPORTED_LAYERS, init_distribution
from gnt.replacement import CBPLayer

State = dict[str, Tensor]
Reinitialize = Callable[..., Any]


def tensors_of(net: nn.Module) -> State:
    """Copies of all parameters and buffers, by name."""
    return {name: each.detach().clone() for name, each in [*net.named_parameters(), *net.named_buffers()]}


@torch.no_grad()
def load(net: nn.Module, state: State) -> nn.Module:
    """Give a network these values, in evaluation and training flags nothing changes; returns it."""
    for name, each in [*net.named_parameters(), *net.named_buffers()]:
        if 0 in each.stride():  # an expanded tensor, whose elements share memory, cannot be written to
            if not torch.equal(each, state[name]):
                each.data = state[name].clone()
        else:
            each.copy_(state[name])
    return net


def restart_engines(net: nn.Module) -> nn.Module:
    """Give the CBP layers of a network engines without ages and utilities, as a new network has them; returns it."""
    for module in net.modules():
        if isinstance(module, CBPLayer):
            module.reset_parameters()
    return net


@torch.inference_mode(mode=False)
def fresh_tensors(model: nn.Module, seed: int, reinitialize: Reinitialize | None) -> State:
    """The tensors of a network of the same architecture with new initial values; frozen parameters keep theirs.

    Args:
        model: the network; it is not changed.
        seed: determines the values.
        reinitialize: a function that gives a network (a copy) new values, in place or by returning another network; one
            without arguments builds a new network. None: each layer's ``reset_parameters``, the ``_init_weights`` of
            a Hugging Face model, and for known layers their initial distribution. Modules with a true attribute
            ``keeps_own_parameters`` (`gnt.HAT`) keep theirs.

    Raises:
        ValueError: parameters without known initial values; another architecture.
    """
    seed_generators(seed)
    net = copy.deepcopy(model)
    if reinitialize is not None:
        net = _by_function(net, reinitialize)
    else:
        _by_layers(net)
    state = tensors_of(net)
    _check_same(tensors_of(model), state)
    for module_name, module in model.named_modules():
        own = dict(module.named_parameters(module_name, recurse=False))
        for name, parameter in own.items():
            if not parameter.requires_grad:
                state[name] = parameter.detach().clone()
        if own and not any(each.requires_grad for each in own.values()):  # running statistics of frozen norms
            state.update({n: b.detach().clone() for n, b in module.named_buffers(module_name, recurse=False)})
    return state


def _by_function(net: nn.Module, reinitialize: Reinitialize) -> nn.Module:
    takes_none = not inspect.signature(reinitialize).parameters
    new = reinitialize() if takes_none else reinitialize(net)
    if takes_none and not isinstance(new, nn.Module):
        raise TypeError(f"reinitialize must return a torch.nn.Module, got {type(new).__name__}")
    return new if isinstance(new, nn.Module) else net


def _by_layers(net: nn.Module) -> None:
    """Children before parents, as constructors do, so that a parent's own rule is the last word."""
    before = {name: (each._version, each.detach().clone()) for name, each in net.named_parameters()}
    _reset(net)
    huggingface = getattr(net, "_init_weights", None)
    if callable(huggingface):
        net.apply(huggingface)
    else:
        _check_shared(net)
    belonging = {
        id(each)
        for module in net.modules()
        if getattr(module, "keeps_own_parameters", False)
        for each in module.parameters(recurse=False)
    }
    kept = [
        name
        for name, each in net.named_parameters()
        if id(each) not in belonging
        and each.requires_grad
        and each._version == before[name][0]
        and torch.equal(each, before[name][1])
    ]
    if kept:
        shown = ", ".join(kept[:5]) + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")
        raise ValueError(
            f"the initial values of {shown} are not known (known are layers with reset_parameters, and "
            f"{SUPPORTED_LAYERS}): pass reinitialize=, a function that re-initialises a network in place or builds a "
            "new one"
        )


def _check_shared(net: nn.Module) -> None:
    """Raise ValueError if modules of different kinds share a parameter: whose initial values it has is not known."""
    owners: dict[int, dict[type[nn.Module], str]] = {}
    for path, module in net.named_modules():
        for name, each in module._parameters.items():
            if each is not None and each.requires_grad:
                owners.setdefault(id(each), {}).setdefault(type(module), f"{path}.{name}".removeprefix("."))
    shared = [list(kinds.values()) for kinds in owners.values() if len(kinds) > 1]
    if shared:
        names = " and ".join(shared[0])
        raise ValueError(
            f"the initial values of {names}, which are one parameter, are not known (that of which layer?): pass "
            "reinitialize=, a function that re-initialises a network in place or builds a new one"
        )


@torch.no_grad()
def _reset(module: nn.Module) -> None:
    for child in module.children():
        _reset(child)
    own = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if callable(own) and not _required(own):
        own()
        return
    for name, parameter in module._parameters.items():
        distribution = init_distribution(module, name) if parameter is not None else None
        if parameter is not None and distribution is not None:
            generator = torch.Generator(parameter.device).manual_seed(int(torch.randint(2**31, (), device="cpu")))
            values = torch.empty(parameter.shape, dtype=torch.float32, device=parameter.device)
            rows = len(values) if values.ndim else 1
            distribution.fill_(values, generator, stored=parameter.dtype, layer_rows=rows)
            if distribution.zero_row is not None:
                values[distribution.zero_row] = 0.0
            parameter.copy_(values)


def _required(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(
        each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters
    )


def _check_same(present: State, new: State) -> None:
    shapes, others = ({name: tuple(each.shape) for name, each in state.items()} for state in (present, new))
    if shapes != others:
        different = [name for name in {**shapes, **others} if shapes.get(name) != others.get(name)]
        name = different[0]
        raise ValueError(
            f"reinitialize must give a network of the same architecture: {name} has shape {shapes.get(name)} in the "
            f"model and {others.get(name)} in the new one"
        )
