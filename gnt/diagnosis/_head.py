"""The output layers of a network, which are new in the copy with a fresh head."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt.diagnosis._reinitialize import State
from gnt.units import ModelInputs, call_model


def find_head(net: nn.Module, inputs: ModelInputs, head: str | Sequence[str] | None) -> tuple[str, ...]:
    """The paths of the output layers: those given, or the layer with weights that a forward runs last.

    Args:
        net: a copy of the network.
        inputs: the inputs of one forward.
        head: paths of modules with parameters.

    Raises:
        TypeError, ValueError: not paths of modules with parameters.
    """
    modules = dict(net.named_modules())
    if head is not None:
        paths = [head] if isinstance(head, str) else head
        if not isinstance(paths, (list, tuple)) or not paths or not all(isinstance(path, str) for path in paths):
            raise TypeError(f"head must be the path of a layer or a list of them, got {head!r}")
        for path in paths:
            if path not in modules or not list(modules[path].parameters()):
                raise ValueError(f"head must be paths of layers with parameters, got {path!r}")
        return tuple(paths)
    layers = {path: module for path, module in modules.items() if _has_weights(module)}
    run: list[str] = []
    handles = [module.register_forward_hook(lambda *_, path=path: run.append(path)) for path, module in layers.items()]
    try:
        with torch.no_grad():
            call_model(net, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not run and not layers:
        return ()
    return (run[-1] if run else list(layers)[-1],)


def with_head_of(present: State, fresh: State, names: Collection[str]) -> State:
    """The values ``present``, with those of ``fresh`` for the tensors ``names``."""
    return {name: fresh[name] if name in names else each for name, each in present.items()}


def tensors_of_head(net: nn.Module, head: Sequence[str]) -> tuple[set[str], set[str]]:
    """The names of all tensors of the output layers, and of those that layers outside of the head share."""
    inside = {id(each) for path in head for each in _tensors(net.get_submodule(path))}
    modules = {module for path in head for module in net.get_submodule(path).modules()}
    outside = {
        id(each)
        for module in net.modules()
        if module not in modules
        for each in (*module._parameters.values(), *module._buffers.values())
    }
    named = [*net.named_parameters(), *net.named_buffers()]
    return {name for name, each in named if id(each) in inside}, {
        name for name, each in named if id(each) in inside & outside
    }


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _has_weights(module: nn.Module) -> bool:
    own: Any = module._parameters.values()
    return any(each is not None and each.ndim >= 2 for each in own)
